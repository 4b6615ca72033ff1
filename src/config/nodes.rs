//! Custom nodes: which packs are wanted, and what they may do.

use url::Url;

use super::models::ManifestSource;
use super::node_pack::NodePack;
use super::variable::{Reader, Variable, parsed, switch, web_address};

/// The packs of custom nodes that the worker sees to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodesConfig {
    /// `CUSTOM_NODES`.
    pub packs: Vec<NodePack>,
    /// A list of more of them.
    pub manifest: Option<ManifestSource>,
    /// Whether a pack's `install.py` runs.
    pub run_install: bool,
    /// Whether a pack may be named by what moves: a branch, the newest version.
    pub allow_floating: bool,
    /// Whether ComfyUI reads `custom_nodes` on network volumes.
    pub on_volumes: bool,
    /// The Comfy Registry, or a mirror of it.
    pub registry: Url,
}

impl NodesConfig {
    /// Whether any pack may be asked for: the image names a manifest that is empty.
    pub(super) fn names_any(&self) -> bool {
        let is_empty = |path| std::fs::metadata(path).is_ok_and(|facts: std::fs::Metadata| facts.len() == 0);
        let manifest = self.manifest.as_ref();
        !self.packs.is_empty()
            || manifest.is_some_and(|manifest| !matches!(manifest, ManifestSource::File(path) if is_empty(path)))
    }
}

const CUSTOM_NODES: Variable<Vec<NodePack>> = parsed("CUSTOM_NODES", "list of id@version or URL@commit", packs)
    .hidden()
    .example("comfyui-kjnodes@1.1.7")
    .meaning("Packs of custom nodes to install before ComfyUI starts, separated by commas or line breaks: `id@version` of the Comfy Registry, `https://….git@commit`, or a folder of this machine.");
// The query of a URL may be a signature.
const CUSTOM_NODES_MANIFEST: Variable<ManifestSource> = parsed("CUSTOM_NODES_MANIFEST", "file or URL", str::parse)
    .hidden()
    .example("/comfyui/custom-nodes.toml")
    .meaning("More packs: a TOML file of ours, ComfyUI-Manager's `snapshot.json`, or Comfy's `comfy-build.yaml`.");
const CUSTOM_NODES_RUN_INSTALL: Variable<bool> = switch("CUSTOM_NODES_RUN_INSTALL", false)
    .meaning("Run the `install.py` of packs that have one. It may do anything; most packs work without.");
const CUSTOM_NODES_ALLOW_FLOATING: Variable<bool> = switch("CUSTOM_NODES_ALLOW_FLOATING", false).meaning(
    "Take packs that are named by a branch, a tag or no version at all, whose code may be another tomorrow. `qwen-image-worker nodes freeze` writes what they are today.",
);
const VOLUME_CUSTOM_NODES: Variable<bool> = switch("VOLUME_CUSTOM_NODES", false).meaning(
    "Have ComfyUI read `custom_nodes` on network volumes too. Whoever can write to the volume can run code here.",
);
const COMFY_REGISTRY_URL: Variable<Url> = parsed("COMFY_REGISTRY_URL", "URL", web_address)
    .default_and_example("https://api.comfy.org", "https://comfy.example.com")
    .meaning("The Comfy Registry's API, or a mirror of it.");

fn packs(text: &str) -> Result<Vec<NodePack>, String> {
    let entries = text.split([',', '\n']).map(str::trim).filter(|entry| !entry.is_empty());
    let mut packs = Vec::new();
    let mut wrong = Vec::new();
    for (index, entry) in entries.enumerate() {
        match entry.parse() {
            Ok(pack) => packs.push(pack),
            Err(error) => wrong.push(format!("entry {} {error}", index + 1)),
        }
    }
    if wrong.is_empty() {
        Ok(packs)
    } else {
        Err(format!("cannot be used: {}", wrong.join("; ")))
    }
}

pub(super) fn read(reader: &mut Reader) -> NodesConfig {
    NodesConfig {
        packs: reader.optional(&CUSTOM_NODES).unwrap_or_default(),
        manifest: reader.optional(&CUSTOM_NODES_MANIFEST),
        run_install: reader.value(&CUSTOM_NODES_RUN_INSTALL),
        allow_floating: reader.value(&CUSTOM_NODES_ALLOW_FLOATING),
        on_volumes: reader.value(&VOLUME_CUSTOM_NODES),
        registry: reader.value(&COMFY_REGISTRY_URL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_parted_by_commas_and_line_breaks() {
        let config = read(&mut Reader::of(&[(
            "CUSTOM_NODES",
            "a@1.0.0,\n b@2.0.0\n\nhttps://x.example/c@v1, ",
        )]));
        let packs: Vec<_> = config.packs.iter().map(ToString::to_string).collect();
        assert_eq!(packs, ["a@1.0.0", "b@2.0.0", "https://x.example/c@v1"]);
    }

    #[test]
    fn all_mistakes_are_told_at_once_and_nothing_of_the_value() {
        let mut reader = Reader::of(&[("CUSTOM_NODES", "a@1.0.0,b@2,https://me:hunter2@x.example")]);
        read(&mut reader);
        let told: Vec<_> = reader.mistakes.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(told.join("\n"), @"CUSTOM_NODES: `***` cannot be used: entry 2 has the version `2`, which is none of the Comfy Registry's: three numbers with dots, such as 1.1.7; entry 3 names a host, but no repository there; for example CUSTOM_NODES=comfyui-kjnodes@1.1.7");
    }
}
