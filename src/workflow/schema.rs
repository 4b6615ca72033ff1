//! What a node class takes and gives: the part of ComfyUI's `/object_info/{class}` that a check needs.
//!
//! The answer for one class can be large (tooltips, translations, defaults); [`ClassSpec`] keeps names, types, ranges
//! and option lists.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value;

use super::absence::Absence;

/// Where the check looks classes up. The caller fetches `/object_info/{class}` for [`Graph::classes`] beforehand.
///
/// [`Graph::classes`]: crate::workflow::Graph::classes
#[derive(Debug, Clone, Default)]
pub struct Schemas {
    /// The classes that ComfyUI has, by name.
    pub classes: HashMap<String, Arc<ClassSpec>>,
    /// All class names, as far as they are known; they serve to suggest the right one.
    pub names: Vec<String>,
    /// The classes that ComfyUI itself replaces by newer ones before it looks at a graph: the keys of
    /// `GET /node_replacements`. Such a node is not checked, for its inputs are renamed as well.
    pub replaced: Arc<HashSet<String>>,
    /// What is known of classes that ComfyUI does not have.
    pub absent: HashMap<String, Absence>,
}

/// One node class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassSpec {
    /// Inputs by name, required ones first, each kind in ComfyUI's order.
    pub inputs: IndexMap<Box<str>, InputSpec>,
    /// The type of each output, by slot; `None` where it is no plain type name.
    pub outputs: Vec<Option<Box<str>>>,
    /// Whether a node may have more outputs than these: they are not told, or grow with its inputs.
    pub open_outputs: bool,
    /// Whether the class is an end of a graph: it saves, previews or sends something.
    pub output_node: bool,
    /// Whether the class is part of ComfyUI itself, so that all of the schema is enforced as it stands. Other nodes may
    /// have a check of their own that replaces ranges, option lists and link types, and `/object_info` does not tell.
    pub core: bool,
}

impl ClassSpec {
    /// Whether a node of this class makes a picture of what this input is given, and needs nothing else.
    pub fn draws(&self, input: &str) -> bool {
        let makes_picture = self.outputs.first().and_then(Option::as_deref) == Some("IMAGE");
        let mut needed = self.inputs.iter().filter(|(_, spec)| spec.required);
        makes_picture && self.inputs.contains_key(input) && needed.all(|(name, _)| &**name == input)
    }
}

/// One input of a class.
#[derive(Debug, Clone, PartialEq)]
pub struct InputSpec {
    /// What it takes.
    pub kind: InputKind,
    /// Whether the node cannot run without it.
    pub required: bool,
    /// Which kind of file of ComfyUI's input folder the input names, if it names one.
    pub upload: Option<Upload>,
}

/// The kinds of files that inputs take, by the flag in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// `image_upload`
    Image,
    /// `video_upload`, `audio_upload`, `file_upload` …
    Other,
}

/// What an input takes. Ranges are inclusive; ComfyUI does not enforce steps.
#[derive(Debug, Clone, PartialEq)]
pub enum InputKind {
    /// A whole number.
    Int {
        /// The least value.
        min: Option<i128>,
        /// The greatest value.
        max: Option<i128>,
    },
    /// A number.
    Float {
        /// The least value.
        min: Option<f64>,
        /// The greatest value.
        max: Option<f64>,
    },
    /// Text; ComfyUI turns any constant into text.
    String,
    /// True or false; ComfyUI takes any constant.
    Boolean,
    /// One of these.
    Combo(Box<[Box<str>]>),
    /// The output of another node, of this type: a name, several with commas, or `*`. Some types have an editor in the
    /// page and take constants as well.
    Link(Box<str>),
    /// A `COMFY_AUTOGROW_V3` input called `images` takes `images.image0`, `images.image1` …
    Autogrow,
    /// Anything that is not checked: other dynamic inputs, option lists that the page fetches, types to come.
    Unchecked,
}

/// Inputs of ComfyUI's own classes that are checked by a function of the class instead of by the schema
/// (`VALIDATE_INPUTS`, `validate_inputs`), and that no flag in the schema marks; `*` stands for all of a class.
const CHECKED_BY_CLASS: &[(&str, &str)] = &[
    ("CustomCombo", "*"),
    ("Load3D", "*"),
    ("Load3DAdvanced", "*"),
    ("Load3DAnimation", "*"),
    ("LoadLatent", "latent"),
    ("SelectCLIPDevice", "device"),
    ("SelectModelDevice", "device"),
    ("SelectVAEDevice", "device"),
];

impl ClassSpec {
    /// Reads the schema of the class `name`: the value under that name in `/object_info` or `/object_info/{name}`.
    /// What is not understood is left unchecked, so this cannot fail.
    pub fn parse(name: &str, info: &Value) -> Self {
        let mut inputs = IndexMap::new();
        for (group, required) in [("required", true), ("optional", false)] {
            let Some(group) = info.pointer(&format!("/input/{group}")).and_then(Value::as_object) else {
                continue;
            };
            for (input, definition) in group {
                let spec = InputSpec::parse(name, input, definition, required);
                inputs.entry(input.as_str().into()).or_insert(spec);
            }
        }
        let outputs = info.get("output").and_then(Value::as_array);
        let grows = |output: &Value| output.as_str().is_some_and(is_dynamic_name);
        let module = info.get("python_module").and_then(Value::as_str).unwrap_or_default();
        Self {
            inputs,
            outputs: outputs.map_or_else(Vec::new, |types| {
                types.iter().map(|t| t.as_str().map(Into::into)).collect()
            }),
            open_outputs: outputs.is_none_or(|types| types.iter().any(grows)),
            output_node: info.get("output_node").and_then(Value::as_bool).unwrap_or_default(),
            core: module == "nodes" || module.starts_with("comfy_extras."),
        }
    }

    /// Whether ComfyUI's validation looks at this input: it is in the schema, or grows out of an input that is.
    pub(super) fn declares(&self, input: &str) -> bool {
        if let Some(spec) = self.inputs.get(input) {
            return spec.kind != InputKind::Autogrow;
        }
        input.split_once('.').is_some_and(|(parent, _)| {
            self.inputs
                .get(parent)
                .is_some_and(|spec| spec.kind == InputKind::Autogrow)
        })
    }
}

/// The class names in the text of `GET /object_info`, for [`Schemas::names`]. The schemas themselves are skipped while
/// reading: all 830 of them would take some 17 MB as JSON values.
pub fn class_names(object_info: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    let classes: IndexMap<String, serde::de::IgnoredAny> = serde_json::from_slice(object_info)?;
    Ok(classes.into_keys().collect())
}

/// The classes of custom nodes in the text of `GET /object_info`, by the module of their pack (`custom_nodes.NAME`), as they
/// come. All else is skipped while reading, as by [`class_names`].
pub fn custom_classes(object_info: &[u8]) -> Result<IndexMap<String, Vec<String>>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Class<'a> {
        #[serde(borrow, default)]
        python_module: Option<Cow<'a, str>>,
    }
    let classes: IndexMap<String, Class<'_>> = serde_json::from_slice(object_info)?;
    let mut modules: IndexMap<String, Vec<String>> = IndexMap::new();
    for (name, class) in classes {
        if let Some(module) = class.python_module.filter(|module| module.starts_with("custom_nodes.")) {
            modules.entry(module.into_owned()).or_default().push(name);
        }
    }
    Ok(modules)
}

impl InputSpec {
    /// Reads `["INT", {"min": 0}]`, `[["a", "b"], {}]` or `["COMBO", {"options": […]}]`.
    fn parse(class: &str, name: &str, definition: &Value, required: bool) -> Self {
        let kind = definition.get(0).unwrap_or(&Value::Null);
        let options = definition.get(1).unwrap_or(&Value::Null);
        let by_class = CHECKED_BY_CLASS
            .iter()
            .any(|(by, input)| *by == class && (*input == "*" || *input == name));
        let bound = |key: &str| options.get(key).filter(|_| !by_class);
        let number = |key: &str| bound(key).and_then(Value::as_f64);
        let whole = |key: &str| bound(key).and_then(whole_number);
        let kind = match kind {
            Value::Array(list) => combo(list, options),
            Value::String(kind) => match kind.as_str() {
                "COMBO" => match options.get("options") {
                    Some(Value::Array(list)) => combo(list, options),
                    _ => InputKind::Unchecked,
                },
                "INT" => InputKind::Int {
                    min: whole("min"),
                    max: whole("max"),
                },
                "FLOAT" => InputKind::Float {
                    min: number("min"),
                    max: number("max"),
                },
                "STRING" => InputKind::String,
                "BOOLEAN" => InputKind::Boolean,
                "COMFY_AUTOGROW_V3" => InputKind::Autogrow,
                "COMFY_MATCHTYPE_V3" => InputKind::Link("*".into()),
                kind if kind.starts_with("COMFY_") => InputKind::Unchecked,
                kind => InputKind::Link(kind.into()),
            },
            _ => InputKind::Unchecked,
        };
        let dynamic = matches!(kind, InputKind::Autogrow) || is_dynamic_type(definition);
        Self {
            kind: match kind {
                InputKind::Combo(_) if by_class => InputKind::Unchecked,
                kind => kind,
            },
            // Dynamic inputs are replaced by others before ComfyUI looks for what is missing.
            required: required && !dynamic,
            upload: upload(options),
        }
    }
}

fn upload(options: &Value) -> Option<Upload> {
    if options.get("image_upload") == Some(&Value::Bool(true)) {
        return Some(Upload::Image);
    }
    let mut flags = options.as_object().into_iter().flatten();
    flags
        .any(|(flag, on)| flag.ends_with("_upload") && *on == Value::Bool(true))
        .then_some(Upload::Other)
}

/// `COMFY_DYNAMICCOMBO_V3` and its like, present and future; the matching types are plain inputs.
fn is_dynamic_type(definition: &Value) -> bool {
    definition.get(0).and_then(Value::as_str).is_some_and(is_dynamic_name)
}

fn is_dynamic_name(kind: &str) -> bool {
    kind.starts_with("COMFY_") && kind != "COMFY_MATCHTYPE_V3" && kind != "COMFY_MULTITYPED_V3"
}

/// An option list, where ComfyUI would refuse what is not in it and all options are text.
fn combo(list: &[Value], options: &Value) -> InputKind {
    let flag = |name: &str| options.get(name).is_some_and(|flag| *flag != Value::Bool(false));
    if flag("multiselect") || flag("remote") {
        return InputKind::Unchecked;
    }
    let texts: Option<Vec<Box<str>>> = list.iter().map(|option| option.as_str().map(Into::into)).collect();
    texts.map_or(InputKind::Unchecked, |texts| InputKind::Combo(texts.into()))
}

/// A bound of a whole number. Some classes write theirs as floats.
fn whole_number(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    number.as_i128().or_else(|| {
        let float = number.as_f64()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the cast saturates, and the fraction is checked"
        )]
        (float.fract() == 0.0).then_some(float as i128)
    })
}

impl InputKind {
    /// The type as links are compared. A list of options takes no plain type but `COMBO`, in either of its forms.
    pub(super) fn type_name(&self) -> Option<&str> {
        match self {
            Self::Int { .. } => Some("INT"),
            Self::Float { .. } => Some("FLOAT"),
            Self::String => Some("STRING"),
            Self::Boolean => Some("BOOLEAN"),
            Self::Link(kind) => Some(kind),
            Self::Combo(_) => Some("COMBO"),
            Self::Autogrow | Self::Unchecked => None,
        }
    }
}

/// Whether an output of type `given` may feed an input of type `wanted` (`validate_node_input` in
/// `comfy_execution/validation.py`): they are lists with commas, and one name in common is enough.
pub(super) fn types_meet(given: &str, wanted: &str) -> bool {
    let names = |types| str::split(types, ',').map(str::trim);
    let open = |types| names(types).any(|name| name == "*" || name.starts_with("COMFY_"));
    open(given) || open(wanted) || names(given).any(|given| names(wanted).any(|wanted| wanted == given))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::workflow::testing;

    fn kind(definition: &Value) -> InputKind {
        InputSpec::parse("X", "x", definition, true).kind
    }

    #[test]
    fn both_forms_of_option_lists_are_read() {
        let expected = InputKind::Combo(["a".into(), "b".into()].into());
        assert_eq!(kind(&json!([["a", "b"], {}])), expected);
        assert_eq!(kind(&json!([["a", "b"]])), expected);
        assert_eq!(
            kind(&json!(["COMBO", {"options": ["a", "b"], "multiselect": false}])),
            expected
        );
    }

    #[test]
    fn what_cannot_be_judged_is_left_unchecked() {
        for definition in [
            json!(["COMBO", {"remote": {"route": "/x"}, "options": []}]),
            json!(["COMBO", {}]),
            json!([["a"], {"multiselect": true}]),
            json!([[1, 2, 4]]),
            json!(["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "a", "inputs": {}}]}]),
            json!(["COMFY_SOMETHING_V4", {}]),
            json!([]),
            json!("INT"),
            json!(null),
        ] {
            assert_eq!(kind(&definition), InputKind::Unchecked, "{definition}");
        }
    }

    #[test]
    fn ranges_keep_all_64_bits() {
        let seed = kind(&json!(["INT", {"min": 0, "max": u64::MAX}]));
        assert_eq!(
            seed,
            InputKind::Int {
                min: Some(0),
                max: Some(i128::from(u64::MAX))
            }
        );
        let float_bounds = kind(&json!(["INT", {"min": 1.0, "max": 2.5}]));
        assert_eq!(
            float_bounds,
            InputKind::Int {
                min: Some(1),
                max: None
            }
        );
    }

    #[test]
    fn dynamic_inputs_are_never_missing() {
        let spec = ClassSpec::parse(
            "BatchImagesNode",
            &json!({"input": {"required": {
                "images": ["COMFY_AUTOGROW_V3", {"template": {}}],
                "mode": ["COMFY_DYNAMICCOMBO_V3", {}],
                "any": ["COMFY_MATCHTYPE_V3", {}]}}}),
        );
        let required: Vec<_> = spec.inputs.iter().filter(|(_, input)| input.required).collect();
        assert_eq!(required.len(), 1);
        assert_eq!(&**required[0].0, "any");
        assert!(spec.declares("images.image0") && !spec.declares("mode.width") && !spec.declares("other"));
    }

    #[test]
    fn types_meet_where_they_have_a_name_in_common() {
        assert!(types_meet("IMAGE", "IMAGE") && types_meet("IMAGE,MASK", "MASK") && types_meet("*", "MODEL"));
        assert!(types_meet("STRING", "INT, STRING") && types_meet("COMFY_MATCHTYPE_V3", "IMAGE"));
        assert!(!types_meet("IMAGE", "MASK"));
    }

    #[test]
    fn names_are_read_without_the_rest() {
        let names = class_names(br#"{"KSampler": {"input": {}}, "VAEDecode": {}}"#).expect("JSON");
        assert_eq!(names, ["KSampler", "VAEDecode"]);
        assert!(class_names(b"<html>").is_err());
    }

    #[test]
    fn the_recorded_schemas_read_as_they_should() {
        let schemas = testing::schemas();
        let sampler = &schemas.classes["KSampler"];
        assert!(sampler.core && !sampler.output_node);
        assert_eq!(sampler.outputs, [Some("LATENT".into())]);
        assert_eq!(sampler.inputs["model"].kind, InputKind::Link("MODEL".into()));
        assert!(schemas.classes["SaveImage"].output_node);
        let image = &schemas.classes["LoadImage"].inputs["image"];
        assert!(image.upload == Some(Upload::Image) && image.required);
        let file = &schemas.classes["LoadVideo"].inputs["file"];
        assert_eq!(file.upload, Some(Upload::Other));
        assert!(!schemas.classes["CLIPLoader"].inputs["device"].required);
        assert!(!schemas.classes.contains_key("Nope"));
    }
}
