//! The catalogue of model files: which file belongs in which folder and where it can be had (`workflows/models.toml`).

use std::ffi::OsStr;
use std::path::Path;

use indexmap::{IndexMap, IndexSet};
use serde::Deserialize;

use super::suggest::file_name;

/// Where files of the Hugging Face Hub are fetched from.
pub const HUB: &str = "https://huggingface.co";

/// Extensions of model files (`supported_pt_extensions` in ComfyUI's `folder_paths.py`, and GGUF).
pub(super) const MODEL_EXTENSIONS: &[&str] = &[
    ".safetensors",
    ".sft",
    ".gguf",
    ".ckpt",
    ".pt",
    ".pt2",
    ".pth",
    ".bin",
    ".pkl",
];

/// A catalogue file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// It is no TOML, or has fields that a catalogue does not have.
    #[error("the model catalogue cannot be read")]
    Syntax(#[from] toml::de::Error),
    /// A set includes another that is not there.
    #[error("set `{set}` of the model catalogue includes `{included}`, which is not there")]
    UnknownSet {
        /// The set that includes.
        set: String,
        /// The name that no set has.
        included: String,
    },
}

/// All sets of model files that are known.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCatalog {
    sets: IndexMap<String, ModelSet>,
}

/// The files that one workflow needs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSet {
    /// What the set is, for people.
    pub title: String,
    /// Other sets that belong to this one.
    #[serde(default)]
    includes: Vec<String>,
    /// The set's own files.
    files: Vec<ModelFile>,
}

/// One model file on the Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// The repository, `owner/name`.
    pub repo: String,
    /// Branch, tag or commit.
    #[serde(default = "main_branch")]
    pub revision: String,
    /// The path in the repository.
    pub path: String,
    /// The folder under ComfyUI's models folder, such as `loras`.
    pub target: String,
    /// The size in bytes, where it is known.
    pub size: Option<u64>,
    /// The SHA-256 in lowercase hexadecimal, where it is known.
    pub sha256: Option<String>,
}

fn main_branch() -> String {
    "main".to_owned()
}

impl ModelFile {
    /// The name under which ComfyUI lists the file: the last part of its path.
    pub fn file_name(&self) -> &str {
        file_name(&self.path)
    }

    /// The address on the Hub.
    pub fn url(&self) -> String {
        format!("{HUB}/{}/resolve/{}/{}", self.repo, self.revision, self.path)
    }
}

impl ModelCatalog {
    /// The catalogue that the worker brings along.
    pub fn builtin() -> Result<Self, CatalogError> {
        Self::parse(include_str!("../../workflows/models.toml"))
    }

    /// Reads a catalogue and makes sure that every included set is there.
    pub fn parse(text: &str) -> Result<Self, CatalogError> {
        let catalog: Self = toml::from_str(text)?;
        for (name, set) in &catalog.sets {
            if let Some(missing) = set.includes.iter().find(|name| !catalog.sets.contains_key(*name)) {
                return Err(CatalogError::UnknownSet {
                    set: name.clone(),
                    included: missing.clone(),
                });
            }
        }
        Ok(catalog)
    }

    /// The sets by name, in the order of the file.
    pub fn sets(&self) -> impl Iterator<Item = (&str, &ModelSet)> {
        self.sets.iter().map(|(name, set)| (name.as_str(), set))
    }

    /// All files of a set, those of included sets first, each once; `None` for a set that is not there.
    pub fn files(&self, set: &str) -> Option<Vec<&ModelFile>> {
        let (set, _) = self.sets.get_key_value(set)?;
        let mut files = IndexSet::new();
        self.collect(set, &mut IndexSet::new(), &mut files);
        Some(files.into_iter().collect())
    }

    /// The file that ComfyUI would list under this name; folders before the name do not count.
    pub fn lookup(&self, name: &str) -> Option<&ModelFile> {
        let name = file_name(name);
        self.sets
            .values()
            .flat_map(|set| &set.files)
            .find(|file| file.file_name() == name)
    }

    fn collect<'a>(&'a self, set: &'a str, seen: &mut IndexSet<&'a str>, files: &mut IndexSet<&'a ModelFile>) {
        if !seen.insert(set) {
            return;
        }
        let Some(set) = self.sets.get(set) else { return };
        for included in &set.includes {
            self.collect(included, seen, files);
        }
        files.extend(&set.files);
    }
}

/// The folder of ComfyUI's models folder from which an input of a loader takes its files.
pub(super) fn model_folder(class: &str, input: &str) -> Option<&'static str> {
    Some(match input.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "ckpt_name" => "checkpoints",
        "clip_name" if class == "CLIPVisionLoader" => "clip_vision",
        "clip_name" | "text_encoder" => "text_encoders",
        "control_net_name" => "controlnet",
        "gligen_name" => "gligen",
        "hypernetwork_name" => "hypernetworks",
        "lora_name" => "loras",
        "model_name" if class == "UpscaleModelLoader" => "upscale_models",
        "model_name" if class == "LatentUpscaleModelLoader" => "latent_upscale_models",
        "style_model_name" => "style_models",
        "unet_name" => "diffusion_models",
        "vae_name" => "vae",
        _ => return None,
    })
}

/// Whether a file name ends in one of these, in whichever case.
/// Whether a file of this path holds a model, by its ending.
pub fn is_model_file(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| has_extension(name, MODEL_EXTENSIONS))
}

pub(super) fn has_extension(name: &str, extensions: &[&str]) -> bool {
    let name = file_name(name).to_ascii_lowercase();
    extensions.iter().any(|extension| name.ends_with(extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_files_of_the_sets_it_includes() {
        let catalog = ModelCatalog::builtin().expect("the catalogue");
        let files = catalog.files("qwen-image-lightning").expect("the set");
        let names: Vec<_> = files
            .iter()
            .map(|file| (file.target.as_str(), file.file_name()))
            .collect();
        assert_eq!(
            names,
            [
                ("text_encoders", "qwen_2.5_vl_7b_fp8_scaled.safetensors"),
                ("vae", "qwen_image_vae.safetensors"),
                ("diffusion_models", "qwen_image_fp8_e4m3fn.safetensors"),
                ("loras", "Qwen-Image-Lightning-8steps-V1.0.safetensors"),
            ]
        );
        assert!(catalog.files("nope").is_none());
    }

    #[test]
    fn a_file_is_found_by_its_name() {
        let catalog = ModelCatalog::builtin().expect("the catalogue");
        let name = "qwen/Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16.safetensors";
        let file = catalog.lookup(name).expect("the file");
        assert_eq!(
            file.url(),
            "https://huggingface.co/lightx2v/Qwen-Image-Lightning/resolve/main/Qwen-Image-Edit-2509/Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16.safetensors"
        );
        assert_eq!(file.target, "loras");
        assert!(catalog.lookup("flux1-dev.safetensors").is_none());
    }

    #[test]
    fn circles_end_and_unknown_sets_are_named() {
        let circle = "[sets.a]\ntitle='a'\nincludes=['b']\nfiles=[]\n[sets.b]\ntitle='b'\nincludes=['a']\nfiles=[]";
        let catalog = ModelCatalog::parse(circle).expect("a catalogue");
        assert_eq!(catalog.files("a").map(|files| files.len()), Some(0));

        let error = ModelCatalog::parse("[sets.a]\ntitle='a'\nincludes=['c']\nfiles=[]").expect_err("no set c");
        assert_eq!(
            error.to_string(),
            "set `a` of the model catalogue includes `c`, which is not there"
        );
    }
}
