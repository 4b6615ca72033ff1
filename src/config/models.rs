//! Models: which are wanted, where they go, and how they are fetched.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use url::{Host, Url};

use super::model_file::{HUB, ModelFile};
use super::url_models::{self, CIVITAI, UrlModelsConfig};
use super::variable::{Reader, Secret, Variable, parsed, switch, text, web_address};
use crate::display::redacted;

/// The models that the worker sees to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
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
    /// The licences that the user accepts, by the manifest's names.
    pub accepted_licences: Vec<String>,
    /// Where new files go; [`None`]: to a volume if there is one to write to, else `ComfyUI`'s own models folder.
    pub dir: Option<PathBuf>,
    /// The most bytes of models that were fetched for jobs; the least recently used go first.
    pub cache_max_bytes: Option<u64>,
    /// The Hugging Face Hub.
    pub hub: HubConfig,
    /// Models that requests name by their address.
    pub by_url: UrlModelsConfig,
    /// Tokens for other hosts, by host name.
    pub tokens: Vec<(String, Secret)>,
    /// The most bytes of copies on the local disk of models that lie on network volumes; 0: none are made.
    pub local_copies_bytes: u64,
    /// Whether the files that the first job will need are read into memory while ComfyUI starts.
    pub prefetch: bool,
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
            web_address(text).map(Self::Url)
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
        let is_below = |rest: &str| rest.is_empty() || rest.ends_with('.');
        let known = self.tokens.iter();
        let known = known.filter(|(name, _)| host.strip_suffix(name).is_some_and(is_below));
        known.max_by_key(|(name, _)| name.len()).map(|(_, token)| token)
    }
}

/// The Hugging Face Hub, as its own tools read it from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// The Hub, or a mirror of it.
    pub endpoint: Url,
    /// The user's token.
    pub token: Option<Secret>,
    /// Where the tools keep what they fetched.
    pub cache: Option<PathBuf>,
}

const MODEL_SET: Variable<Vec<String>> = parsed("MODEL_SET", "names, comma-separated, or none", set_names)
    .example("qwen-image-lightning,qwen-image-edit-2511")
    .meaning("Sets of model files to have: those of `workflows/models.toml`, or of `MODEL_MANIFEST`. `none`: no model is fetched before a job asks for it. Not set: what the workflow templates need, on a GPU.");
// The query of a URL may be a signature.
const MODEL_MANIFEST: Variable<ManifestSource> = parsed("MODEL_MANIFEST", "file or URL", str::parse)
    .hidden()
    .example("/runpod-volume/models.toml")
    .meaning("Model sets of your own, in TOML or JSON as in `workflows/models.toml`; they are added to ours. A manifest with `files` alone is the set `files`.");
// As above.
const MODELS: Variable<Vec<ModelFile>> = parsed("MODELS", "list of folder/file=source", files)
    .hidden()
    .example("loras/mine.safetensors=hf://owner/name/mine.safetensors")
    .meaning("Further model files to have, separated by commas or line breaks. A source is `hf://owner/name[@revision]/path`, the address of a file on the Hub, or any other https URL (write `%2C` for a comma in it). A source may stand alone where its folder tells the kind of model: `hf://owner/name/loras/mine.safetensors`.");
const MODEL_DOWNLOAD_PARALLEL: Variable<bool> = switch("MODEL_DOWNLOAD_PARALLEL", true).meaning(
    "Fetch several models, and several parts of a model, at once. `false`: one file over one connection at a time.",
);
const MODEL_ON_DEMAND: Variable<bool> = switch("MODEL_ON_DEMAND", true)
    .meaning("When a job needs a model that is missing and that a manifest or `MODELS` knows, fetch it and run the job. `false`: the job fails.");
const ACCEPT_LICENSES: Variable<Vec<String>> = parsed("ACCEPT_LICENSES", "names, comma-separated", licence_names)
    .example("qwen-research")
    .meaning("Licences that you have read and accept. Models under one that restricts their use, as `qwen-research` of Qwen-Image 2.1 forbids commercial use, are not fetched before.");
const MODEL_DIR: Variable<String> = text("MODEL_DIR", "folder")
    .example("/runpod-volume/models")
    .meaning("Where new models go, in folders by kind, and where ComfyUI reads models too. Not set: the first network volume that can be written to, else ComfyUI's own models folder.");
const MODEL_CACHE_GB: Variable<u64> = parsed("MODEL_CACHE_GB", "GB, above 0", bytes)
    .example("100")
    .meaning("The most space for models that jobs asked for; beyond it those that were not used for longest are removed. Not set: no limit.");
const MODEL_LOCAL_CACHE_GB: Variable<u64> = parsed("MODEL_LOCAL_CACHE_GB", "GB, 0 or more", bytes_or_none)
    .default_and_example("0", "60")
    .meaning("The most space for copies on the local disk, under `DATA_DIR`, of models on network volumes that were used; ComfyUI reads the copies. Beyond it those that were not used for longest are removed, and none that was used within the last hour. `0`: none are made.");
const MODEL_PREFETCH: Variable<bool> = switch("MODEL_PREFETCH", true)
    .meaning("While ComfyUI starts, read the model files of the first job into memory, as far as there is room. `false`: ComfyUI reads them when it loads them.");
const CIVITAI_TOKEN: Variable<Secret> = parsed("CIVITAI_TOKEN", "secret", token)
    .hidden()
    .example("0123456789abcdef")
    .meaning("Your Civitai API key, for files of `MODELS` and of requests from there; sent to civitai.com and `CIVITAI_ENDPOINT` alone.");
const MODEL_TOKENS: Variable<Vec<(String, Secret)>> = parsed("MODEL_TOKENS", "list of host=token", tokens)
    .hidden()
    .example("models.example.com=abc123")
    .meaning("Tokens for other hosts, comma-separated, each sent to its host and the hosts below it alone, as `Authorization: Bearer`.");
const NETWORK_VOLUME_DEBUG: Variable<bool> =
    switch("NETWORK_VOLUME_DEBUG", false).meaning("Log where models were looked for, and what was found.");
const HF_TOKEN: Variable<Secret> = parsed("HF_TOKEN", "secret", token)
    .alias("HUGGING_FACE_HUB_TOKEN")
    .hidden()
    .example("hf_…")
    .meaning("Your Hugging Face token, for gated and private repositories and for higher limits; sent to the Hub alone. Not set: `HUGGING_FACE_HUB_TOKEN`, else what `hf auth login` has kept (`HF_TOKEN_PATH`, or `HF_HOME/token`).");
// A mirror may want a password.
const HF_ENDPOINT: Variable<Url> = parsed("HF_ENDPOINT", "URL", endpoint)
    .hidden()
    .default_and_example(HUB, "https://hub.example.com")
    .meaning("The Hugging Face Hub, or a mirror of it.");
const HF_HOME: Variable<String> = text("HF_HOME", "folder").example("/runpod-volume/huggingface").meaning(
    "Where Hugging Face's tools keep their files. Not set: `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface`.",
);
const HF_HUB_CACHE: Variable<String> = text("HF_HUB_CACHE", "folder")
    .alias("HUGGINGFACE_HUB_CACHE")
    .example("/runpod-volume/huggingface/hub")
    .meaning("Where Hugging Face's tools keep what they fetched; files found there are used. Not set: `HF_HOME/hub`.");

/// The longest token file that is read, in bytes.
const LONGEST_TOKEN: u64 = 64 * 1024;

pub(super) fn read(reader: &mut Reader) -> ModelsConfig {
    let home = reader.foreign("HOME");
    let sets = reader.optional(&MODEL_SET);
    let manifest = reader.optional(&MODEL_MANIFEST);
    if let Some(manifest) = &manifest {
        reader.computed(&MODEL_MANIFEST, manifest);
    }
    let files = reader.optional(&MODELS);
    if let Some(files) = &files {
        let shown = files.iter().map(|file| format!("{}={}", file.target(), file.origin));
        reader.computed(&MODELS, shown.collect::<Vec<_>>().join(","));
    }
    let by_url = url_models::read(reader);
    ModelsConfig {
        sets,
        manifest,
        files: files.unwrap_or_default(),
        parallel: reader.value(&MODEL_DOWNLOAD_PARALLEL),
        on_demand: reader.value(&MODEL_ON_DEMAND),
        accepted_licences: reader.optional(&ACCEPT_LICENSES).unwrap_or_default(),
        dir: reader.optional(&MODEL_DIR).map(|dir| folder(&dir, home.as_deref())),
        cache_max_bytes: reader.optional(&MODEL_CACHE_GB),
        local_copies_bytes: reader.value(&MODEL_LOCAL_CACHE_GB),
        prefetch: reader.value(&MODEL_PREFETCH),
        tokens: {
            let civitai = reader.optional(&CIVITAI_TOKEN);
            let mut tokens = reader.optional(&MODEL_TOKENS).unwrap_or_default();
            let mirror = by_url.civitai.host_str().filter(|host| *host != CIVITAI);
            for host in [CIVITAI].into_iter().chain(mirror) {
                let token = civitai
                    .clone()
                    .filter(|_| !tokens.iter().any(|(known, _)| known == host));
                tokens.extend(token.map(|token| (host.to_owned(), token)));
            }
            tokens
        },
        by_url,
        debug: reader.value(&NETWORK_VOLUME_DEBUG),
        hub: hub(reader),
    }
}

/// What `huggingface_hub`'s `constants.py` and `utils/_auth.py` read, by the same names.
fn hub(reader: &mut Reader) -> HubConfig {
    let home = reader.foreign("HOME");
    let path = |text: String| folder(&text, home.as_deref());
    let mut token = reader.optional(&HF_TOKEN);
    let endpoint = reader.value(&HF_ENDPOINT);
    reader.computed(&HF_ENDPOINT, redacted(&endpoint).trim_end_matches('/'));
    let caches = reader.foreign("XDG_CACHE_HOME").map(path);
    let caches = caches.or_else(|| Some(Path::new(home.as_deref()?).join(".cache")));
    let hf_home = reader.optional(&HF_HOME).map(path);
    let hf_home = hf_home.or_else(|| Some(caches?.join("huggingface")));
    let cache = reader.optional(&HF_HUB_CACHE).map(path);
    let cache = cache.or_else(|| Some(hf_home.as_ref()?.join("hub")));
    for (variable, folder) in [(&HF_HOME, &hf_home), (&HF_HUB_CACHE, &cache)] {
        if let Some(folder) = folder {
            reader.computed(variable, folder.display());
        }
    }
    if !reader.is_set(&HF_TOKEN) {
        let file = reader.foreign("HF_TOKEN_PATH").map(path);
        let file = file.or_else(|| Some(hf_home.as_ref()?.join("token")));
        token = file.and_then(|file| kept_token(&file));
        if let Some(token) = &token {
            reader.computed(&HF_TOKEN, token);
        }
    }
    HubConfig { endpoint, token, cache }
}

/// The parts of a list that are not empty, without the space around them.
fn parts<'a>(text: &'a str, separators: &'a [char]) -> impl Iterator<Item = &'a str> {
    text.split(separators).map(str::trim).filter(|part| !part.is_empty())
}

fn licence_names(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = parts(text, &[',', '\n']).map(str::to_owned).collect();
    if names.is_empty() {
        return Err("names no licence".to_owned());
    }
    Ok(names)
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

/// Reads gigabytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
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

/// The same, of which there may be none.
fn bytes_or_none(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(0.0) => Ok(0),
        _ => bytes(text).map_err(|_| "is no number of GB from 0 to 1000000".to_owned()),
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

/// A token that can stand in a header.
fn token(text: &str) -> Result<Secret, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("is no token: tokens have neither spaces nor special letters".to_owned());
    }
    Ok(Secret::new(text))
}

/// What `hf auth login` has kept, if it has. A file that cannot be read counts as none.
fn kept_token(file: &Path) -> Option<Secret> {
    if !std::fs::metadata(file).is_ok_and(|data| data.is_file() && data.len() <= LONGEST_TOKEN) {
        return None;
    }
    token(std::fs::read_to_string(file).ok()?.trim()).ok()
}

fn endpoint(text: &str) -> Result<Url, String> {
    let url = web_address(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment".to_owned());
    }
    Ok(url)
}

/// A folder that does not move with the working directory; `~` is the home folder.
fn folder(text: &str, home: Option<&str>) -> PathBuf {
    let path = match (text.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            Path::new(home).join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(text),
    };
    std::path::absolute(&path).unwrap_or(path)
}

#[cfg(test)]
#[path = "models_tests.rs"]
mod tests;
