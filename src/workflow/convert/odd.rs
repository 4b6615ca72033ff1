//! The classes whose nodes have other widgets in the page than their description says: a script of the page adds some.
//! Observed with ComfyUI 0.30.0 and its page 1.47.12. Widgets that are neither saved nor sent (players, previews) are left
//! out: nothing depends on them.

use std::borrow::Cow;

use serde_json::Value;

use super::declared::{Declared, Kind};
use super::values::Values;
use super::widgets::{Shape, Socket, Widget};

/// Its options are widgets that it adds as they are filled in.
pub(super) const CUSTOM_COMBO: &str = "CustomCombo";

/// A widget that a script adds.
struct Added {
    class: &'static str,
    /// The input that it follows; `None`: all of them.
    after: Option<&'static str>,
    name: &'static str,
    initial: Initial,
    is_sent: bool,
}

/// What an added widget holds in a new node.
enum Initial {
    Text(&'static str),
    Number(i64),
    False,
}

const fn added(
    class: &'static str,
    after: Option<&'static str>,
    name: &'static str,
    initial: Initial,
    is_sent: bool,
) -> Added {
    Added {
        class,
        after,
        name,
        initial,
        is_sent,
    }
}

/// The widgets that scripts add, in the order in which they stand.
const ADDED: &[Added] = &[
    added("ImageCropV2", Some("crop_region"), "x", Initial::Number(0), false),
    added("ImageCropV2", Some("crop_region"), "y", Initial::Number(0), false),
    added("ImageCropV2", Some("crop_region"), "width", Initial::Number(512), false),
    added(
        "ImageCropV2",
        Some("crop_region"),
        "height",
        Initial::Number(512),
        false,
    ),
    added(
        "Load3D",
        Some("model_file"),
        "upload 3d model",
        Initial::Text("upload3dmodel"),
        true,
    ),
    added(
        "Load3D",
        Some("model_file"),
        "upload extra resources",
        Initial::Text("uploadExtraResources"),
        true,
    ),
    added("Load3D", Some("model_file"), "clear", Initial::Text("clear"), true),
    added(
        "LoadImageOutput",
        Some("image"),
        "Auto-refresh after generation",
        Initial::False,
        false,
    ),
    added(
        "LoadImageOutput",
        Some("image"),
        "refresh",
        Initial::Text("refresh"),
        true,
    ),
    added("Preview3D", None, "image", Initial::Text(""), true),
    added("RecordAudio", Some("audio"), "audio", Initial::Text(""), false),
    added("SaveGLB", None, "image", Initial::Text(""), true),
    added(
        "WebcamCapture",
        None,
        "waiting for camera...",
        Initial::Text("capture"),
        true,
    ),
];

/// The classes whose values are made by the browser when the graph is sent: a scene that is rendered, a recording.
const OF_THE_BROWSER: &[&str] = &[
    "Load3D",
    "Load3DAdvanced",
    "Load3DAnimation",
    "RecordAudio",
    "WebcamCapture",
];

/// The nodes whose `filename_prefix` names other nodes' values and the date.
const SAVES: &[&str] = &[
    "CLIPSave",
    "LoraSave",
    "ModelSave",
    "Save3DAdvanced",
    "SaveAnimatedPNG",
    "SaveAnimatedWEBP",
    "SaveAudio",
    "SaveAudioAdvanced",
    "SaveAudioMP3",
    "SaveAudioOpus",
    "SaveGLB",
    "SaveGaussianSplat",
    "SaveImage",
    "SaveImageAdvanced",
    "SaveLatent",
    "SavePointCloud",
    "SaveSVGNode",
    "SaveVideo",
    "SaveWEBM",
    "VAESave",
];

/// Whether what a node of the class sends is made by the browser.
pub(super) fn is_of_the_browser(class: &str) -> bool {
    OF_THE_BROWSER.contains(&class)
}

/// What is sent in place of a picture that the browser would render, where the node does its work without.
pub(super) fn view_of_the_browser(class: &str) -> Option<&'static str> {
    (class == "Save3DAdvanced").then_some("viewport_state")
}

/// Whether the class's `filename_prefix` is a pattern.
pub(super) fn has_pattern(class: &str) -> bool {
    SAVES.contains(&class)
}

/// Whether the class is one of the samplers whose old names of samplers the page mends.
pub(super) fn is_sampler(class: &str) -> bool {
    matches!(class, "KSampler" | "KSamplerAdvanced")
}

/// Adds what a script puts behind the input `name`.
pub(super) fn after<'a>(class: &str, name: &str, shape: &mut Shape<'a>, values: &mut Values<'a>) {
    add(class, Some(name), shape, values);
}

/// Adds what a script puts behind all inputs.
pub(super) fn at_the_end<'a>(class: &str, shape: &mut Shape<'a>, values: &mut Values<'a>) {
    add(class, None, shape, values);
}

fn add<'a>(class: &str, after: Option<&str>, shape: &mut Shape<'a>, values: &mut Values<'a>) {
    for added in ADDED
        .iter()
        .filter(|added| added.class == class && added.after == after)
    {
        let default = match added.initial {
            Initial::Text(text) => Value::from(text),
            Initial::Number(number) => Value::from(number),
            Initial::False => Value::from(false),
        };
        shape.extra(added.name, default, added.is_sent, values);
    }
}

/// A combo whose options are the texts below it: one more appears when the last is filled in. Which of them is chosen is
/// sent as `index`; what was saved there is not looked at.
pub(super) fn custom_combo<'a>(shape: &mut Shape<'a>, values: &mut Values<'a>) {
    let widget = |name: Cow<'a, str>, kind, given: Option<Cow<'a, Value>>| Widget {
        name,
        kind,
        declared: Declared::default(),
        is_given: given.is_some(),
        value: given.unwrap_or_else(|| Cow::Owned(Value::from(""))),
        is_saved: true,
        is_sent: true,
    };
    let choice = widget(Cow::Borrowed("choice"), Kind::Combo, values.take("choice"));
    values.take("index");
    let mut options = Vec::new();
    loop {
        let name = format!("option{}", options.len() + 1);
        let given = values.take(&name);
        let is_filled = given.as_ref().is_some_and(|value| !is_empty(value));
        options.push(widget(Cow::Owned(name), Kind::Text, given));
        if !is_filled {
            break;
        }
    }
    let index = options.iter().position(|option| option.value == choice.value);
    let index = index.and_then(|index| i64::try_from(index).ok()).unwrap_or(-1);
    let index = widget(
        Cow::Borrowed("index"),
        Kind::Other,
        Some(Cow::Owned(Value::from(index))),
    );
    shape.widgets.extend([choice, index]);
    shape.widgets.extend(options);
    shape.sockets.push(Socket {
        name: Cow::Borrowed("choice"),
        kind: Cow::Borrowed("COMBO"),
        is_widget: true,
    });
}

/// Whether JavaScript takes a value for false.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}
