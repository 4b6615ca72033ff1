//! Classes and their inputs as `/object_info` describes them, seen as the page sees them.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::document::type_of;

/// What a widget takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Text.
    Text,
    /// True or false.
    Boolean,
    /// One of a list.
    Combo,
    /// One of a list, each with inputs of its own.
    DynamicCombo,
    /// What becomes of a number after each run. It is saved, and never sent.
    Control,
    /// Two pictures; it is sent, and never saved.
    Comparison,
    /// Whatever its editor makes; nothing can be said of its value.
    Other,
}

/// An input as `/object_info` declares it: `["INT", {…}]`, `[["a", "b"], {…}]`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Declared<'a> {
    /// The type; `COMBO` for a list.
    pub kind: &'a str,
    /// The options of the input.
    options: Option<&'a Map<String, Value>>,
    /// The list in place of the type.
    list: Option<&'a [Value]>,
}

impl<'a> Declared<'a> {
    pub(super) fn read(definition: &'a Value) -> Self {
        let (kind, list) = match definition.get(0) {
            Some(Value::Array(list)) => ("COMBO", Some(list.as_slice())),
            Some(Value::String(kind)) => (kind.as_str(), None),
            _ => ("*", None),
        };
        Self {
            kind,
            options: definition.get(1).and_then(Value::as_object),
            list,
        }
    }

    /// One of the input's options.
    pub(super) fn option(&self, name: &str) -> Option<&'a Value> {
        self.options?.get(name)
    }

    /// Whether an option is set.
    pub(super) fn is(&self, name: &str) -> bool {
        match self.option(name) {
            Some(Value::Bool(on)) => *on,
            Some(Value::String(text)) => !text.is_empty(),
            _ => false,
        }
    }

    /// The list of a combo.
    pub(super) fn choices(&self) -> &'a [Value] {
        let listed = || self.option("options").and_then(Value::as_array).map(Vec::as_slice);
        self.list.or_else(listed).unwrap_or_default()
    }

    /// The choices of a dynamic combo, with the inputs of each.
    pub(super) fn branches(&self) -> impl Iterator<Item = (&'a Value, Option<&'a Value>)> {
        let choices = self.choices().iter();
        choices.filter_map(|choice| Some((choice.get("key")?, choice.get("inputs"))))
    }

    /// What kind of widget the input is; `None` for a mere socket.
    pub(super) fn widget(&self) -> Option<Kind> {
        if self.is("forceInput") {
            return None;
        }
        let kind = self.option("widgetType").and_then(Value::as_str).unwrap_or(self.kind);
        Some(match kind {
            "INT" => Kind::Int,
            "FLOAT" => Kind::Float,
            "STRING" => Kind::Text,
            "BOOLEAN" => Kind::Boolean,
            "COMBO" => Kind::Combo,
            "COMFY_DYNAMICCOMBO_V3" => Kind::DynamicCombo,
            "IMAGECOMPARE" => Kind::Comparison,
            "COLOR" | "COLORS" | "CURVE" | "RANGE" | "BOUNDING_BOX" | "BOUNDING_BOXES" | "PAINTER" | "TEXTAREA"
            | "MARKDOWN" | "CHART" | "GALLERIA" | "LOAD_3D" | "WEBCAM" | "AUDIO_RECORD" => Kind::Other,
            _ => return None,
        })
    }

    /// What the widget of a new node holds.
    pub(super) fn initial(&self, kind: Kind) -> Cow<'a, Value> {
        let declared = || self.option("default").filter(|value| !value.is_null());
        let owned = match kind {
            Kind::DynamicCombo => {
                return self
                    .branches()
                    .next()
                    .map_or(Cow::Owned(Value::Null), |(key, _)| Cow::Borrowed(key));
            }
            Kind::Comparison => Value::from(vec!["", ""]),
            _ => match declared() {
                Some(value) => return Cow::Borrowed(value),
                None => match kind {
                    Kind::Int | Kind::Float => Value::from(0),
                    Kind::Boolean => Value::from(false),
                    Kind::Combo => match self.choices().first() {
                        Some(first) => return Cow::Borrowed(first),
                        None => Value::from(""),
                    },
                    _ => Value::from(""),
                },
            },
        };
        Cow::Owned(owned)
    }

    /// The type of the socket.
    pub(super) fn socket(&self) -> Cow<'a, str> {
        if self.kind == "COMFY_MATCHTYPE_V3" {
            let template = self.option("template");
            return template
                .and_then(|template| template.get("allowed_types")?.as_str())
                .map_or(Cow::Borrowed("*"), Cow::Borrowed);
        }
        Cow::Borrowed(self.kind)
    }
}

/// The inputs of a class, or of a dynamic combo's option, required ones first.
pub(super) fn inputs(input: &Value) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
    ["required", "optional"]
        .into_iter()
        .filter_map(move |group| Some((group, input.get(group)?.as_object()?)))
}

/// The types of a class's outputs.
pub(super) fn outputs(described: &Value) -> impl Iterator<Item = Cow<'_, str>> {
    let outputs = described.get("output").and_then(Value::as_array);
    outputs.into_iter().flatten().map(|kind| match kind.as_str() {
        Some("COMFY_MATCHTYPE_V3") => Cow::Borrowed("*"),
        _ => type_of(Some(kind)),
    })
}

/// Whether a class is part of `ComfyUI`: its widgets are those that are told here. The script of any other may change them.
pub(super) fn is_core(described: &Value) -> bool {
    let module = described.get("python_module").and_then(Value::as_str);
    module.is_none_or(|module| !module.starts_with("custom_nodes"))
}
