//! What is asked for: the packs of the configuration and its manifest, and which of them cannot be had as they are named.

use std::fs;

use serde_json::{Value, json};

use super::manifest::Manifest;
use super::requirements;
use crate::config::{NodePack, NodesConfig, PackOrigin};

/// What one set is made for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    pub(super) packs: Vec<Wish>,
    /// Further Python packages.
    pub(super) packages: Vec<String>,
    /// What reading them brought up.
    pub(super) notes: Vec<String>,
    pub(super) run_install: bool,
    pub(super) allow_floating: bool,
}

/// A pack, and why it is refused as it is named.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) pack: NodePack,
    pub(super) refusal: Option<String>,
}

impl Wishes {
    pub(super) fn new(manifest: Manifest, config: &NodesConfig) -> Self {
        let mut packs: Vec<Wish> = Vec::new();
        for (position, pack) in manifest.packs.into_iter().enumerate() {
            let refused = manifest.refused.iter().find(|refused| refused.position == position);
            let name = pack.name.to_lowercase();
            let same = packs.iter().find(|other| other.pack.name.to_lowercase() == name);
            let refusal = if let Some(refused) = refused {
                Some(refused.reason.clone())
            } else if !is_folder_name(&pack.name) {
                Some("its name is no name of a folder under custom_nodes".to_owned())
            } else if let Some(same) = same {
                Some(format!(
                    "it would have the folder custom_nodes/{}, which is that of {}; give one of them another `name` in a manifest, or remove it",
                    pack.name, same.pack
                ))
            } else if pack.is_floating() && !config.allow_floating {
                Some(refused_as_floating(&pack))
            } else {
                None
            };
            packs.push(Wish { pack, refusal });
        }
        Self {
            packs,
            packages: manifest.packages,
            notes: manifest.warnings,
            run_install: config.run_install,
            allow_floating: config.allow_floating,
        }
    }

    /// All that decides what a set of these wishes holds.
    pub(super) fn identity(&self) -> Value {
        let packs = self.packs.iter().map(|wish| {
            let demands = match &wish.pack.origin {
                // Its owner may change them.
                PackOrigin::Folder(folder) => requirements::FILES
                    .map(|name| fs::read(folder.join(name)).ok())
                    .to_vec(),
                _ => Vec::new(),
            };
            json!({ "pack": wish.pack, "demands": demands })
        });
        json!({
            "packs": packs.collect::<Vec<_>>(),
            "packages": self.packages,
            "run_install": self.run_install,
            "allow_floating": self.allow_floating,
        })
    }
}

fn refused_as_floating(pack: &NodePack) -> String {
    let what = match &pack.origin {
        PackOrigin::Registry { .. } => "it names no version (`id@1.2.3`)",
        PackOrigin::Git { reference: None, .. } => "it names no commit (`URL@` and 40 hexadecimal digits)",
        _ => "it is named by a branch or a tag, which may be another commit tomorrow",
    };
    format!(
        "{what}; CUSTOM_NODES_ALLOW_FLOATING=true takes it as it is now, and `qwen-image-worker nodes freeze` then writes what that is"
    )
}

/// Whether ComfyUI reads a pack from a folder of this name, and whether it can be one at all.
fn is_folder_name(name: &str) -> bool {
    let plain = |letter: char| !letter.is_control() && !"/\\:".contains(letter);
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && !name.ends_with(".disabled")
        && name != "__pycache__"
        && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(floating: bool) -> NodesConfig {
        let floating = floating.to_string();
        let vars = [("HOME", "/home/somebody"), ("CUSTOM_NODES_ALLOW_FLOATING", &floating)];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
        crate::config::Config::from_vars(vars).unwrap().nodes
    }

    fn refusals(packs: &[NodePack], floating: bool) -> Vec<Option<String>> {
        let manifest = Manifest {
            packs: packs.to_vec(),
            ..Manifest::default()
        };
        let wishes = Wishes::new(manifest, &config(floating));
        wishes.packs.into_iter().map(|wish| wish.refusal).collect()
    }

    #[test]
    fn what_moves_is_refused_unless_it_is_allowed() {
        let packs =
            ["a@1.0.0", "b", "https://git.example.com/c.git@main", "/nodes/d"].map(|text| text.parse().unwrap());
        let refused: Vec<bool> = refusals(&packs, false).iter().map(Option::is_some).collect();
        assert_eq!(refused, [false, true, true, false]);
        assert!(refusals(&packs, true).iter().all(Option::is_none));
    }

    #[test]
    fn two_packs_of_one_folder_and_names_that_are_no_folders_are_refused() {
        let named = |name: &str| NodePack {
            name: name.to_owned(),
            origin: PackOrigin::Folder("/nodes/x".into()),
        };
        let packs = ["Pack", "pack", "..", "a/b", "", ".hidden", "x.disabled"].map(named);
        let refusals = refusals(&packs, false);
        assert_eq!(refusals[0], None);
        assert!(
            refusals[1]
                .as_ref()
                .is_some_and(|why| why.contains("custom_nodes/pack"))
        );
        assert!(refusals[2..].iter().all(Option::is_some), "{refusals:?}");
    }

    #[test]
    fn a_developers_new_requirement_makes_another_set() {
        let folder = tempfile::Builder::new().prefix("pack").tempdir().unwrap();
        let pack: NodePack = folder.path().display().to_string().parse().unwrap();
        let identity = || {
            let manifest = Manifest {
                packs: vec![pack.clone()],
                ..Manifest::default()
            };
            Wishes::new(manifest, &config(false)).identity()
        };
        let before = identity();
        assert_eq!(before, identity());
        fs::write(folder.path().join("requirements.txt"), "einops\n").unwrap();
        assert_ne!(before, identity());
    }
}
