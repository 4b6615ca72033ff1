//! Control pictures: what kinds there are, and which nodes draw them from a picture.

use serde::{Deserialize, Serialize};

/// The template of a request that names none and has a control picture: 4 steps with the Lightning LoRA.
pub const DEFAULT_CONTROL_TEMPLATE: &str = "qwen-image-controlnet";

/// What a control picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlType {
    /// Edges, drawn by ComfyUI's own node.
    Canny,
    /// How far everything is away.
    Depth,
    /// Where the limbs of people are.
    Pose,
    /// Soft edges, as HED draws them.
    Softedge,
    /// A scribble.
    Scribble,
    /// Straight lines.
    Mlsd,
    /// A drawing in lines.
    Lineart,
    /// Where surfaces face.
    Normal,
    /// The picture without its colours.
    Gray,
    /// Whatever it is, it is a control picture already.
    Ready,
}

/// Each kind by its names, the first of which is told.
const NAMES: &[(ControlType, &[&str])] = &[
    (ControlType::Canny, &["canny"]),
    (ControlType::Depth, &["depth"]),
    (ControlType::Pose, &["pose", "openpose"]),
    (ControlType::Softedge, &["softedge", "hed", "soft_edge"]),
    (ControlType::Scribble, &["scribble"]),
    (ControlType::Mlsd, &["mlsd"]),
    (ControlType::Lineart, &["lineart"]),
    (ControlType::Normal, &["normal", "normals"]),
    (ControlType::Gray, &["gray", "grey"]),
    (ControlType::Ready, &["ready", "none"]),
];

impl ControlType {
    /// The kind of this name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase();
        let known = NAMES.iter().find(|(_, names)| names.contains(&name.as_str()));
        known.map(|(kind, _)| *kind)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        let known = NAMES.iter().find(|(kind, _)| *kind == self);
        known.and_then(|(_, names)| names.first()).copied().unwrap_or_default()
    }

    /// The names of all kinds.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter_map(|(_, names)| names.first().copied())
    }

    /// Classes of the pack `comfyui_controlnet_aux` that draw it from a picture, the best first. Each takes an `image` and needs
    /// nothing else.
    pub fn preprocessors(self) -> &'static [&'static str] {
        match self {
            Self::Depth => &[
                "DepthAnythingV2Preprocessor",
                "DepthAnythingPreprocessor",
                "MiDaS-DepthMapPreprocessor",
            ],
            Self::Pose => &["DWPreprocessor", "OpenposePreprocessor"],
            Self::Softedge => &["HEDPreprocessor", "PiDiNetPreprocessor"],
            Self::Scribble => &["ScribblePreprocessor"],
            Self::Mlsd => &["M-LSDPreprocessor"],
            Self::Lineart => &["LineArtPreprocessor"],
            Self::Normal => &["BAE-NormalMapPreprocessor", "MiDaS-NormalMapPreprocessor"],
            Self::Canny | Self::Gray | Self::Ready => &[],
        }
    }
}

/// A node that draws a control picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preprocessor {
    /// Its class.
    pub class: &'static str,
    /// Whether it is told how large it draws, by an input of the name [`Self::SIDE`].
    pub is_sized: bool,
}

impl Preprocessor {
    /// The input that says how many pixels the shorter side of the drawing has.
    pub const SIDE: &str = "resolution";
}

/// What a request asks of a control picture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Control {
    /// The name of that image of the request which is the control picture; [`None`]: it is the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What it shows, or what is drawn from it; [`None`]: the template's usual kind.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ControlType>,
    /// How strongly it counts; [`None`]: as the template has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_name_and_is_found_by_it() {
        assert_eq!(ControlType::names().count(), NAMES.len());
        for (kind, names) in NAMES {
            for name in *names {
                assert_eq!(ControlType::parse(&format!(" {} ", name.to_uppercase())), Some(*kind));
            }
            assert_eq!(ControlType::parse(kind.as_str()), Some(*kind));
            // As a bindings file and the store have it.
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        assert_eq!(ControlType::parse("segmentation"), None);
    }
}
