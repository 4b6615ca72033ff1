//! What is wrong with a graph in the words of ComfyUI's own check (`validate_prompt` in its `execution.py`).

use serde_json::{Map, Value};

/// What ComfyUI calls a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// There is no such class, or the node names none.
    MissingNodeType,
    /// No node saves or shows anything.
    NoOutputs,
    /// An input that must be there is not.
    RequiredInputMissing,
    /// A value that is none of those to choose from.
    NotInList,
    /// A number below its range.
    SmallerThanMin,
    /// A number above its range.
    BiggerThanMax,
    /// A value of another type.
    InvalidInputType,
    /// A link from an output of another type.
    ReturnTypeMismatch,
    /// A list that is no link.
    BadLinkedInput,
    /// Nodes that need each other.
    DependencyCycle,
    /// The class's own check refuses the value, as that of a file that is not there.
    CustomValidation,
    /// ComfyUI stumbles over it, as over a link to a node that is not there.
    Exception,
}

impl FaultKind {
    /// ComfyUI's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingNodeType => "missing_node_type",
            Self::NoOutputs => "prompt_no_outputs",
            Self::RequiredInputMissing => "required_input_missing",
            Self::NotInList => "value_not_in_list",
            Self::SmallerThanMin => "value_smaller_than_min",
            Self::BiggerThanMax => "value_bigger_than_max",
            Self::InvalidInputType => "invalid_input_type",
            Self::ReturnTypeMismatch => "return_type_mismatch",
            Self::BadLinkedInput => "bad_linked_input",
            Self::DependencyCycle => "dependency_cycle",
            Self::CustomValidation => "custom_validation_failed",
            Self::Exception => "exception_during_validation",
        }
    }
}

/// A fault of a graph as ComfyUI tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What it is.
    pub kind: FaultKind,
    /// ComfyUI's sentence.
    pub message: String,
    /// What exactly: the input, or the value and what it may be.
    pub details: String,
    /// The same for programs (`extra_info`).
    pub extra: Map<String, Value>,
    /// The output nodes that cannot run for it.
    pub outputs: Vec<String>,
}

impl Fault {
    /// A fault with ComfyUI's sentence and details.
    pub fn new(kind: FaultKind, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            details: details.into(),
            extra: Map::new(),
            outputs: Vec::new(),
        }
    }

    /// Adds a field of `extra_info`.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(field.to_owned(), value.into());
        self
    }
}
