//! Which pack has a class, for packs that graphs for Qwen-Image use: where the Registry cannot be asked, and before it is.

use std::collections::HashMap;
use std::sync::LazyLock;

const TABLE: &str = include_str!("known.txt");

#[derive(Default)]
struct Known {
    /// Registry ids by class.
    classes: HashMap<&'static str, &'static str>,
    /// How classes of a pack end, and its id.
    endings: Vec<(&'static str, &'static str)>,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| read(TABLE));

fn read(table: &'static str) -> Known {
    let mut known = Known::default();
    let mut id = "";
    let lines = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            id = section;
        } else if let Some(ending) = line.strip_prefix('*') {
            known.endings.push((ending, id));
        } else {
            known.classes.insert(line, id);
        }
    }
    known
}

/// The Registry's id of the pack that brings a class.
pub fn pack_with_class(class: &str) -> Option<&'static str> {
    let by_ending = || {
        KNOWN
            .endings
            .iter()
            .find(|(ending, _)| class.ends_with(ending))
            .map(|(_, id)| *id)
    };
    KNOWN.classes.get(class).copied().or_else(by_ending)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::is_registry_id;

    #[test]
    fn a_class_leads_to_its_pack() {
        for (class, id) in [
            ("UnetLoaderGGUF", Some("comfyui-gguf")),
            ("ImageResizeKJv2", Some("comfyui-kjnodes")),
            ("NunchakuQwenImageDiTLoader", Some("ComfyUI-nunchaku")),
            ("Power Lora Loader (rgthree)", Some("rgthree-comfy")),
            ("ImageResize+", Some("comfyui_essentials")),
            ("DWPreprocessor", Some("comfyui_controlnet_aux")),
            ("KSampler", None),
            ("unetloadergguf", None),
            ("", None),
        ] {
            assert_eq!(pack_with_class(class), id, "{class}");
        }
    }

    #[test]
    fn the_table_is_whole() {
        let lines = TABLE
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with(['#', '[', '*']));
        assert_eq!(lines.count(), KNOWN.classes.len(), "no class is in it twice");
        let ids = KNOWN.classes.values().chain(KNOWN.endings.iter().map(|(_, id)| id));
        for id in ids {
            assert!(is_registry_id(id), "{id}");
        }
        assert!(TABLE.lines().all(|line| line.trim() == line));
    }
}
