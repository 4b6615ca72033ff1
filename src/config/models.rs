//! Models: which are wanted, where they go, and how they are fetched.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use url::{Host, Url};

use super::hub::{self, HubConfig, address, folder, token};
use super::model_file::ModelFile;
use super::secret::Secret;
use super::variable::{Reader, Variable, boolean};
use crate::display::redacted;

/// The models that the worker sees to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelsConfig {
    /// Sets of the manifest by name; [`None`]: not chosen; empty: none is wanted (`MODEL_SET=none`).
    pub sets: Option<Vec<String>>,
    /// A manifest of the user's own.
    pub manifest: Option<ManifestSource>,
    /// Files beside the sets.
    pub files: Vec<ModelFile>,
    /// Whether several files, and several ranges of a file, are fetched at once.
    pub parallel: bool,
    /// Whether a job may have a missing model of the manifest fetched.
    pub on_demand: bool,
    /// Where new files go; [`None`]: to a volume if there is one to write to, else `ComfyUI`'s own models folder.
    pub dir: Option<PathBuf>,
    /// The most bytes of models that were fetched for jobs; the least recently used go first.
    pub cache_max_bytes: Option<u64>,
    /// The Hugging Face Hub.
    pub hub: HubConfig,
    /// Tokens for other hosts, by host name.
    pub tokens: Vec<(String, Secret)>,
    /// Whether the log tells where models were looked for.
    pub debug: bool,
}

/// Where a manifest is read from. Prints without what may be secret in a URL.
#[derive(Clone, PartialEq, Eq)]
pub enum ManifestSource {
    /// A file on this machine.
    File(PathBuf),
    /// An http or https URL.
    Url(Url),
}

impl fmt::Display for ManifestSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(&redacted(url)),
        }
    }
}

impl FromStr for ManifestSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains("://") {
            Ok(Self::Url(address(text)?))
        } else {
            Ok(Self::File(PathBuf::from(text)))
        }
    }
}

impl fmt::Debug for ManifestSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ModelsConfig {
    /// Whether any models were asked for.
    pub fn are_chosen(&self) -> bool {
        !self.files.is_empty() || self.sets.as_ref().is_some_and(|sets| !sets.is_empty())
    }

    /// The token for a host: the one of the longest name that it is, or ends in.
    pub fn token(&self, host: &str) -> Option<&Secret> {
        let mut found: Option<&(String, Secret)> = None;
        for entry in &self.tokens {
            let below = host
                .strip_suffix(&entry.0)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            if below && found.is_none_or(|found| found.0.len() < entry.0.len()) {
                found = Some(entry);
            }
        }
        found.map(|(_, token)| token)
    }
}

const MODEL_SET: Variable = Variable {
    name: "MODEL_SET",
    kind: "names, comma-separated, or none",
    default: None,
    example: "qwen-image-lightning,qwen-image-edit-2511",
    meaning: "Sets of model files to have: those of `workflows/models.toml`, or of `MODEL_MANIFEST`. `none`: no model is fetched before a job asks for it. Not set: what the workflow templates need, on a GPU.",
    secret: false,
};
const MODEL_MANIFEST: Variable = Variable {
    name: "MODEL_MANIFEST",
    kind: "file or URL",
    default: None,
    example: "/runpod-volume/models.toml",
    meaning: "Model sets of your own, in TOML or JSON as in `workflows/models.toml`; they are added to ours. A manifest with `files` alone is the set `files`.",
    // The query of a URL may be a signature.
    secret: true,
};
const MODELS: Variable = Variable {
    name: "MODELS",
    kind: "list of folder/file=source",
    default: None,
    example: "loras/mine.safetensors=hf://owner/name/mine.safetensors",
    meaning: "Further model files to have, separated by commas or line breaks. A source is `hf://owner/name[@revision]/path`, the address of a file on the Hub, or any other https URL (write `%2C` for a comma in it). A source may stand alone where its folder tells the kind of model: `hf://owner/name/loras/mine.safetensors`.",
    // As above.
    secret: true,
};
const MODEL_DOWNLOAD_PARALLEL: Variable = Variable {
    name: "MODEL_DOWNLOAD_PARALLEL",
    kind: "true or false",
    default: Some("true"),
    example: "false",
    meaning: "Fetch several models, and several parts of a model, at once. `false`: one file over one connection at a time.",
    secret: false,
};
const MODEL_ON_DEMAND: Variable = Variable {
    name: "MODEL_ON_DEMAND",
    kind: "true or false",
    default: Some("true"),
    example: "false",
    meaning: "When a job needs a model that is missing and that a manifest or `MODELS` knows, fetch it and run the job. `false`: the job fails.",
    secret: false,
};
const MODEL_DIR: Variable = Variable {
    name: "MODEL_DIR",
    kind: "folder",
    default: None,
    example: "/runpod-volume/models",
    meaning: "Where new models go, in folders by kind, and where ComfyUI reads models too. Not set: the first network volume that can be written to, else ComfyUI's own models folder.",
    secret: false,
};
const MODEL_CACHE_GB: Variable = Variable {
    name: "MODEL_CACHE_GB",
    kind: "GB, above 0",
    default: None,
    example: "100",
    meaning: "The most space for models that jobs asked for; beyond it those that were not used for longest are removed. Not set: no limit.",
    secret: false,
};
const CIVITAI_TOKEN: Variable = Variable {
    name: "CIVITAI_TOKEN",
    kind: "secret",
    default: None,
    example: "0123456789abcdef",
    meaning: "Your Civitai API key, for files of `MODELS` from there; sent to civitai.com alone.",
    secret: true,
};
const MODEL_TOKENS: Variable = Variable {
    name: "MODEL_TOKENS",
    kind: "list of host=token",
    default: None,
    example: "models.example.com=abc123",
    meaning: "Tokens for other hosts, comma-separated, each sent to its host and the hosts below it alone, as `Authorization: Bearer`.",
    secret: true,
};
const NETWORK_VOLUME_DEBUG: Variable = Variable {
    name: "NETWORK_VOLUME_DEBUG",
    kind: "true or false",
    default: Some("false"),
    example: "true",
    meaning: "Log where models were looked for, and what was found.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[
    &MODEL_SET,
    &MODEL_MANIFEST,
    &MODELS,
    &MODEL_DOWNLOAD_PARALLEL,
    &MODEL_ON_DEMAND,
    &MODEL_DIR,
    &MODEL_CACHE_GB,
    &CIVITAI_TOKEN,
    &MODEL_TOKENS,
    &NETWORK_VOLUME_DEBUG,
];

/// The host that [`CIVITAI_TOKEN`] is for.
const CIVITAI: &str = "civitai.com";

#[derive(Deserialize, Default)]
struct Raw {
    model_set: Option<String>,
    model_manifest: Option<String>,
    models: Option<String>,
    model_download_parallel: Option<String>,
    model_on_demand: Option<String>,
    model_dir: Option<String>,
    model_cache_gb: Option<String>,
    civitai_token: Option<String>,
    model_tokens: Option<String>,
    network_volume_debug: Option<String>,
    home: Option<String>,
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<ModelsConfig> {
    let raw: Raw = reader.raw(vars);
    let sets = reader.optional(&MODEL_SET, raw.model_set, set_names);
    let manifest = reader.optional(&MODEL_MANIFEST, raw.model_manifest, str::parse::<ManifestSource>);
    if let Some(Some(manifest)) = &manifest {
        reader.computed(&MODEL_MANIFEST, manifest.to_string());
    }
    let files = reader.optional(&MODELS, raw.models, files);
    if let Some(Some(files)) = &files {
        let shown = files.iter().map(|file| format!("{}={}", file.target(), file.origin));
        reader.computed(&MODELS, shown.collect::<Vec<_>>().join(","));
    }
    let parallel = reader.value(&MODEL_DOWNLOAD_PARALLEL, raw.model_download_parallel, boolean);
    let on_demand = reader.value(&MODEL_ON_DEMAND, raw.model_on_demand, boolean);
    let home = raw.home.as_deref();
    let dir = reader.optional(&MODEL_DIR, raw.model_dir, |text| Ok(folder(text, home)));
    let cache_max_bytes = reader.optional(&MODEL_CACHE_GB, raw.model_cache_gb, bytes);
    let civitai = reader.optional(&CIVITAI_TOKEN, raw.civitai_token, token);
    let tokens = reader.optional(&MODEL_TOKENS, raw.model_tokens, tokens);
    let hub = hub::read(reader, vars);
    let debug = reader.value(&NETWORK_VOLUME_DEBUG, raw.network_volume_debug, boolean);
    let mut tokens = tokens?.unwrap_or_default();
    if let Some(civitai) = civitai?
        && !tokens.iter().any(|(host, _)| host == CIVITAI)
    {
        tokens.push((CIVITAI.to_owned(), civitai));
    }
    Some(ModelsConfig {
        sets: sets?,
        manifest: manifest?,
        files: files?.unwrap_or_default(),
        parallel: parallel?,
        on_demand: on_demand?,
        dir: dir?,
        cache_max_bytes: cache_max_bytes?,
        hub: hub?,
        tokens,
        debug: debug?,
    })
}

/// The parts of a list that are not empty, without the space around them.
fn parts<'a>(text: &'a str, separators: &'a [char]) -> impl Iterator<Item = &'a str> {
    text.split(separators).map(str::trim).filter(|part| !part.is_empty())
}

fn set_names(text: &str) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = Vec::new();
    for name in parts(text, &[',', '\n']) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    let none = names.iter().any(|name| name.eq_ignore_ascii_case("none"));
    match names.len() {
        0 => Err("names no set; `none` means none".to_owned()),
        1 if none => Ok(Vec::new()),
        _ if none => Err("has `none` beside the names of sets".to_owned()),
        _ => Ok(names),
    }
}

fn files(text: &str) -> Result<Vec<ModelFile>, String> {
    let mut files: Vec<ModelFile> = Vec::new();
    for (index, entry) in parts(text, &[',', '\n']).enumerate() {
        let file: ModelFile = entry
            .parse()
            .map_err(|error| format!("cannot be used: in entry {}, {error}", index + 1))?;
        let target = file.target();
        if files.iter().any(|known| known.target() == target) {
            return Err(format!("has two entries for `{target}`"));
        }
        files.push(file);
    }
    Ok(files)
}

fn bytes(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range is checked, and a part of a byte is none"
        )]
        Ok(gigabytes) if gigabytes > 0.0 && gigabytes <= 1e6 => Ok((gigabytes * 1e9) as u64),
        _ => Err("is no number of GB above 0, up to 1000000".to_owned()),
    }
}

fn tokens(text: &str) -> Result<Vec<(String, Secret)>, String> {
    let mut tokens: Vec<(String, Secret)> = Vec::new();
    for (index, entry) in parts(text, &[',', '\n']).enumerate() {
        let wrong = |what: &str| format!("cannot be used: entry {} {what}", index + 1);
        let (host, secret) = entry
            .split_once('=')
            .ok_or_else(|| wrong("is not of the form host=token"))?;
        let host = Host::parse(host.trim()).map_err(|_| wrong("does not begin with the name of a host"))?;
        let host = host.to_string();
        if tokens.iter().any(|(known, _)| *known == host) {
            return Err(format!("has two entries for {host}"));
        }
        tokens.push((host, token(secret.trim()).map_err(|error| wrong(&error))?));
    }
    Ok(tokens)
}

#[cfg(test)]
#[path = "models_tests.rs"]
mod tests;
