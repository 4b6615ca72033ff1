//! Files that an attempt left without telling of them: the node that saved them raised, or ComfyUI died in between.

use std::fs::{self, Metadata};
use std::path::Path;

use indexmap::IndexSet;
use serde_json::Value;

use crate::comfy::Folders;
use crate::job::OutputFolder;
use crate::workflow::Graph;

/// The input by which nodes are told how to name what they save.
const PREFIX_INPUT: &str = "filename_prefix";

/// Ends the prefixes of a graph with this.
pub(super) fn mark_prefixes(graph: &mut Graph, mark: &str) {
    for node in graph.nodes.values_mut() {
        if let Some(Value::String(prefix)) = node.inputs.get_mut(PREFIX_INPUT) {
            *prefix = format!("{prefix}_{mark}");
        }
    }
}

/// The names that a graph's nodes give to what they save.
#[derive(Debug)]
pub(super) struct Prefixes(IndexSet<Prefix>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Prefix {
    subfolder: String,
    /// What the name begins with, cut at what ComfyUI fills in, such as `%date%`: the parts in their order.
    parts: Vec<String>,
}

impl Prefixes {
    /// The prefixes in a graph. One whose folder is filled in when it runs is left out.
    pub(super) fn of(graph: &Graph) -> Self {
        let prefixes = graph.nodes.values().filter_map(|node| {
            let text = node.inputs.get(PREFIX_INPUT).and_then(Value::as_str)?;
            let (subfolder, name) = crate::comfy::plain_names(Path::new(text))?;
            (!subfolder.contains('%')).then(|| Prefix {
                subfolder,
                parts: parts(&name),
            })
        });
        Self(prefixes.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Folder, subfolder and name of the files there that have such names, and facts that suit. Blocks.
    pub(super) fn find(
        &self,
        folders: &Folders,
        suits: impl Fn(&Metadata) -> bool,
        most: usize,
    ) -> Vec<(OutputFolder, String, String)> {
        let mut found = Vec::new();
        for prefix in &self.0 {
            let folder = folders.output.join(&prefix.subfolder);
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                // The facts of the file itself: a link is nothing that a node saved.
                let fits = prefix.fits(&name, folders.mark.as_deref())
                    && entry.metadata().is_ok_and(|facts| facts.is_file() && suits(&facts));
                if fits {
                    found.push((OutputFolder::Output, prefix.subfolder.clone(), name));
                }
                if found.len() >= most {
                    return found;
                }
            }
        }
        found
    }
}

impl Prefix {
    /// Whether a saved file is called so: ComfyUI's nodes put a number of five digits behind the prefix
    /// (`get_save_image_path` in its `folder_paths.py`).
    /// `mark` ends every prefix of this ComfyUI.
    fn fits(&self, name: &str, mark: Option<&str>) -> bool {
        let mut rest = name;
        for (index, part) in self.parts.iter().enumerate() {
            let at = if index == 0 {
                rest.starts_with(part.as_str()).then_some(0)
            } else {
                rest.find(part.as_str())
            };
            let Some(at) = at else { return false };
            rest = &rest[at + part.len()..];
        }
        let numbered = |rest: &str| {
            let rest = match mark {
                Some(mark) => rest.strip_prefix(mark).and_then(|rest| rest.strip_prefix('_')),
                None => Some(rest),
            };
            let rest = rest.unwrap_or_default();
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            digits >= 5 && rest[digits..].starts_with(['_', '.', '-'])
        };
        // What is filled in may stand right before the number.
        let filled_in = self.parts.len() > 1 || self.parts.is_empty();
        let mut behind = rest.match_indices('_');
        if filled_in {
            behind.any(|(at, _)| numbered(&rest[at + 1..]))
        } else {
            rest.strip_prefix('_').is_some_and(numbered)
        }
    }
}

/// The parts of a name around what stands between two `%`.
fn parts(name: &str) -> Vec<String> {
    let pieces: Vec<&str> = name.split('%').collect();
    if pieces.len() < 3 {
        return vec![name.to_owned()];
    }
    pieces.into_iter().step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn prefixes(prefix: &str) -> Prefixes {
        let graph =
            json!({"9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}}});
        Prefixes::of(&Graph::parse(&graph).unwrap())
    }

    #[test]
    fn prefixes_get_a_mark_and_links_stay() {
        let mut graph = Graph::parse(&json!({
            "1": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x/ComfyUI"}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": ["3", 1]}},
        }))
        .unwrap();
        mark_prefixes(&mut graph, "c2");
        assert_eq!(graph.nodes["1"].inputs["filename_prefix"], "x/ComfyUI_c2");
        assert_eq!(graph.nodes["2"].inputs["filename_prefix"], json!(["3", 1]));
    }

    #[test]
    fn a_mark_stands_before_the_number() {
        let fits = |prefix: &str, name: &str| prefixes(prefix).0[0].fits(name, Some("gpu1"));
        assert!(fits("ComfyUI", "ComfyUI_gpu1_00001_.png"));
        assert!(fits("x%year%", "x2026_gpu1_00001_.png"));
        for other in [
            "ComfyUI_00001_.png",
            "ComfyUI_gpu2_00001_.png",
            "ComfyUI_gpu1_.png",
            "ComfyUI_gpu100001_.png",
        ] {
            assert!(!fits("ComfyUI", other), "{other}");
        }
        assert!(
            !prefixes("ComfyUI").0[0].fits("ComfyUI_gpu1_00001_.png", None),
            "another's"
        );
    }

    #[test]
    fn only_numbered_names_behind_the_prefix_fit() {
        let fits = |prefix: &str, name: &str| prefixes(prefix).0[0].fits(name, None);
        for name in [
            "ComfyUI_00001_.png",
            "ComfyUI_123456_.webp",
            "ComfyUI_00001.mp4",
            "ComfyUI_00001-audio.mp4",
        ] {
            assert!(fits("ComfyUI", name), "{name}");
        }
        for name in [
            "ComfyUI.png",
            "ComfyUI_mine.png",
            "ComfyUI_1_.png",
            "ComfyUI_000012",
            "My_ComfyUI_00001_.png",
        ] {
            assert!(!fits("ComfyUI", name), "{name}");
        }
        assert!(fits("a%year%-%month%", "a2026-11_00001_.png"));
        assert!(!fits("a%year%-%month%", "b2026-11_00001_.png"));
        assert!(fits("%date%", "x_00001_.png"));
        assert!(fits("100%", "100%_00001_.png"));
        assert!(fits("a\\b", "a\\b_00001_.png"));
    }

    #[test]
    fn the_folder_is_part_of_the_prefix_and_never_leads_out() {
        let subfolder = |prefix: &str| prefixes(prefix).0.first().map(|prefix| prefix.subfolder.clone());
        assert_eq!(subfolder("x/./y/a").as_deref(), Some("x/y"));
        assert_eq!(subfolder("a").as_deref(), Some(""));
        for prefix in ["../a", "/etc/a", "%year%/a", ""] {
            assert_eq!(subfolder(prefix), None, "{prefix}");
        }
    }
}
