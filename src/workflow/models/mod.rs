//! The catalogue of model files: which file belongs in which folder and where it can be had (`workflows/models.toml`,
//! and a manifest of the user's own).

mod manifest;

use indexmap::{IndexMap, IndexSet};
use serde::Deserialize;

use super::wording::file_name;
use crate::config::ModelFile;
use crate::config::model_folder::kind_of;

/// A catalogue that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// It is neither TOML nor JSON, or has fields that a catalogue does not have.
    #[error("{}{message}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
    Syntax {
        /// Where, from 1, as far as it is known.
        line: Option<usize>,
        /// What is wrong.
        message: String,
    },
    /// A set includes another that is not there.
    #[error("set `{set}` of the model catalogue includes `{included}`, which is not there")]
    UnknownSet {
        /// The set that includes.
        set: String,
        /// The name that no set has.
        included: String,
    },
    /// A file of a set cannot be used.
    #[error("set `{set}`, file {entry}: {reason}")]
    File {
        /// The set.
        set: String,
        /// Which of its files, from 1.
        entry: usize,
        /// What is wrong.
        reason: String,
    },
    /// A set has two sources for one target.
    #[error("set `{set}`: {conflict}")]
    Set {
        /// The set.
        set: String,
        /// What does not go together.
        conflict: Conflict,
    },
}

/// Two descriptions of one file that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{target}` is described twice, as {first} and as {second}: leave one of them out, or give it another name")]
pub struct Conflict {
    /// Where both belong, such as `loras/x.safetensors`.
    target: String,
    first: String,
    second: String,
}

/// All model files that are known, in sets and without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelCatalog {
    sets: IndexMap<String, ModelSet>,
    /// Files of no set.
    files: Vec<ModelFile>,
    /// The licences that are to be accepted before anything under them is fetched, by the short names that sets use.
    licences: IndexMap<String, Licence>,
    /// Those that are.
    accepted: Vec<String>,
}

/// A licence that is to be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// Its name, and what it forbids, in words that follow "the".
    pub title: String,
    /// Where to read it.
    pub url: String,
}

/// A licence that has not been accepted, and stands in the way of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is under the {} ({}); if you accept it, set ACCEPT_LICENSES={name}", licence.title, licence.url)]
pub struct Unaccepted {
    /// The licence's short name.
    pub name: String,
    /// What it is.
    pub licence: Licence,
}

/// The files that one workflow needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSet {
    /// What the set is, for people.
    pub title: String,
    /// The licence of its own files, by a short name such as `apache-2.0`, where the catalogue says.
    pub licence: Option<String>,
    /// Other sets that belong to this one.
    includes: Vec<String>,
    /// The set's own files.
    files: Vec<ModelFile>,
}

impl ModelCatalog {
    /// The catalogue that the worker brings along.
    pub fn builtin() -> Result<Self, CatalogError> {
        Self::default().with(Self::parse(include_str!("../../../workflows/models.toml"))?)
    }

    /// Reads a catalogue, in TOML or in JSON. Sets that it includes are looked for by [`Self::with`], since they may be
    /// in another one.
    pub fn parse(text: &str) -> Result<Self, CatalogError> {
        manifest::read(text)
    }

    /// This catalogue with another one, whose sets come first and stand for ours of the same name; makes sure that every
    /// included set is there.
    pub fn with(self, other: Self) -> Result<Self, CatalogError> {
        let mut all = other;
        for (name, set) in self.sets {
            all.sets.entry(name).or_insert(set);
        }
        all.files.extend(self.files);
        for (name, licence) in self.licences {
            all.licences.entry(name).or_insert(licence);
        }
        all.accepted.extend(self.accepted);
        for (name, set) in &all.sets {
            if let Some(missing) = set.includes.iter().find(|name| !all.sets.contains_key(*name)) {
                return Err(CatalogError::UnknownSet {
                    set: name.clone(),
                    included: missing.clone(),
                });
            }
        }
        Ok(all)
    }

    /// This catalogue with further files of no set.
    #[must_use]
    pub fn with_files(mut self, files: &[ModelFile]) -> Self {
        self.files.extend_from_slice(files);
        self
    }

    /// This catalogue with licences that somebody accepts, by their short names. An unknown one is given back as the error.
    pub fn accepting(mut self, names: &[String]) -> Result<Self, String> {
        if let Some(unknown) = names.iter().find(|name| !self.licences.contains_key(*name)) {
            return Err(unknown.clone());
        }
        self.accepted.extend_from_slice(names);
        Ok(self)
    }

    /// The short names of the licences that are to be accepted.
    pub fn licences(&self) -> impl Iterator<Item = &str> {
        self.licences.keys().map(String::as_str)
    }

    /// The short name of the licence that a file is under, where a set says so.
    pub fn licence(&self, file: &ModelFile) -> Option<&str> {
        let has_it = |set: &&ModelSet| {
            let mut files = set.files.iter();
            files.any(|known| known.folder == file.folder && known.name == file.name)
        };
        self.sets.values().find(has_it)?.licence.as_deref()
    }

    /// The licence that keeps a file from being fetched.
    pub fn unaccepted(&self, file: &ModelFile) -> Option<Unaccepted> {
        let (name, licence) = self.licences.get_key_value(self.licence(file)?)?;
        (!self.accepted.contains(name)).then(|| Unaccepted {
            name: name.clone(),
            licence: licence.clone(),
        })
    }

    /// The sets by name, those of a user's manifest first.
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

    /// Every file, each target once.
    pub fn all_files(&self) -> Vec<ModelFile> {
        let of_sets = self.sets.values().flat_map(|set| &set.files);
        let files = of_sets.chain(&self.files).map(|file| (file.target(), file));
        let mut by_target = IndexMap::new();
        for (target, file) in files {
            by_target.entry(target).or_insert(file);
        }
        by_target.into_values().cloned().collect()
    }

    /// The file that ComfyUI would list under this name; if there is none, one of the same name in another folder.
    pub fn lookup(&self, name: &str) -> Option<&ModelFile> {
        let last = file_name(name);
        let same_last = || self.all().find(|file| file.file_name() == last);
        self.all().find(|file| file.name == name).or_else(same_last)
    }

    /// The file that ComfyUI would list under exactly this name among the models of a folder; that the folder may have
    /// two names (`clip`, `text_encoders`) makes no difference.
    pub fn lookup_in(&self, folder: &str, name: &str) -> Option<&ModelFile> {
        let kind = kind_of(folder);
        self.all().find(|file| file.folder == kind && file.name == name)
    }

    /// Every file; those of no set first, since a user has named them one by one.
    fn all(&self) -> impl Iterator<Item = &ModelFile> {
        self.files.iter().chain(self.sets.values().flat_map(|set| &set.files))
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

/// Each file once, in order. What one description does not say of size and checksum is taken from the other.
pub fn unite<'a>(files: impl IntoIterator<Item = &'a ModelFile>) -> Result<Vec<ModelFile>, Conflict> {
    let mut united: IndexMap<(&str, &str), ModelFile> = IndexMap::new();
    for file in files {
        let known = united.entry((&file.folder, &file.name)).or_insert_with(|| file.clone());
        let differs = known.origin != file.origin
            || differ(known.size.as_ref(), file.size.as_ref())
            || differ(known.sha256.as_ref(), file.sha256.as_ref());
        if differs {
            return Err(Conflict {
                target: file.target(),
                first: described(known),
                second: described(file),
            });
        }
        known.size = known.size.or(file.size);
        known.sha256 = known.sha256.take().or_else(|| file.sha256.clone());
    }
    Ok(united.into_values().collect())
}

fn differ<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
    a.is_some() && b.is_some() && a != b
}

/// `hf://owner/name@main/x.safetensors (1234 bytes, SHA-256 0123…)`
fn described(file: &ModelFile) -> String {
    let size = file.size.map(|size| format!("{size} bytes"));
    let sha256 = file.sha256.as_ref().map(|digits| format!("SHA-256 {digits}"));
    let facts: Vec<String> = size.into_iter().chain(sha256).collect();
    if facts.is_empty() {
        return file.origin.to_string();
    }
    format!("{} ({})", file.origin, facts.join(", "))
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
pub(super) fn has_extension(name: &str, extensions: &[&str]) -> bool {
    let name = file_name(name).to_ascii_lowercase();
    extensions.iter().any(|extension| name.ends_with(extension))
}

#[cfg(test)]
mod tests;
