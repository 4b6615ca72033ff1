//! What is asked for: the packs of the configuration and its manifest, and which of them cannot be had as they are named.

use std::fs;

use serde_json::{Value, json};

use super::manifest::{self, Manifest};
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
        let packs = manifest::united(manifest.named, config.allow_floating);
        let packs = packs
            .into_iter()
            .map(|(pack, refusal)| Wish { pack, refusal })
            .collect();
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

#[cfg(test)]
mod tests {
    use super::manifest::Named;
    use super::*;

    fn config() -> NodesConfig {
        let vars = [("HOME".to_owned(), "/home/somebody".to_owned())];
        crate::config::Config::from_vars(vars).unwrap().nodes
    }

    #[test]
    fn a_developers_new_requirement_makes_another_set() {
        let folder = tempfile::Builder::new().prefix("pack").tempdir().unwrap();
        let pack: NodePack = folder.path().display().to_string().parse().unwrap();
        let identity = || {
            let named = Named {
                pack: pack.clone(),
                by: "CUSTOM_NODES".to_owned(),
            };
            let manifest = Manifest {
                named: vec![named],
                ..Manifest::default()
            };
            Wishes::new(manifest, &config()).identity()
        };
        let before = identity();
        assert_eq!(before, identity());
        fs::write(folder.path().join("requirements.txt"), "einops\n").unwrap();
        assert_ne!(before, identity());
    }
}
