//! The Hugging Face Hub, as its own tools read it from the environment.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;

use super::model_file::HUB;
use super::secret::Secret;
use super::variable::{Reader, Variable};
use crate::display::redacted;

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

const HF_TOKEN: Variable = Variable {
    name: "HF_TOKEN",
    kind: "secret",
    default: None,
    example: "hf_…",
    meaning: "Your Hugging Face token, for gated and private repositories and for higher limits; sent to the Hub alone. Not set: `HUGGING_FACE_HUB_TOKEN`, else what `hf auth login` has kept (`HF_TOKEN_PATH`, or `HF_HOME/token`).",
    secret: true,
};
const HF_ENDPOINT: Variable = Variable {
    name: "HF_ENDPOINT",
    kind: "URL",
    default: Some(HUB),
    example: "https://hub.example.com",
    meaning: "The Hugging Face Hub, or a mirror of it.",
    // A mirror may want a password.
    secret: true,
};
const HF_HOME: Variable = Variable {
    name: "HF_HOME",
    kind: "folder",
    default: None,
    example: "/runpod-volume/huggingface",
    meaning: "Where Hugging Face's tools keep their files. Not set: `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface`.",
    secret: false,
};
const HF_HUB_CACHE: Variable = Variable {
    name: "HF_HUB_CACHE",
    kind: "folder",
    default: None,
    example: "/runpod-volume/huggingface/hub",
    meaning: "Where Hugging Face's tools keep what they fetched; files found there are used. Not set: `HF_HOME/hub`.",
    secret: false,
};
pub(super) const VARIABLES: &[&Variable] = &[&HF_TOKEN, &HF_ENDPOINT, &HF_HOME, &HF_HUB_CACHE];

/// The longest token file that is read, in bytes.
const LONGEST_TOKEN: u64 = 64 * 1024;

#[derive(Deserialize, Default)]
struct Raw {
    hf_token: Option<String>,
    hugging_face_hub_token: Option<String>,
    hf_token_path: Option<String>,
    hf_endpoint: Option<String>,
    hf_home: Option<String>,
    hf_hub_cache: Option<String>,
    huggingface_hub_cache: Option<String>,
    xdg_cache_home: Option<String>,
    home: Option<String>,
}

/// The Hub. [`None`] only after a mistake.
///
/// What `huggingface_hub`'s `constants.py` and `utils/_auth.py` read, by the same names.
pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<HubConfig> {
    let raw: Raw = reader.raw(vars);
    let endpoint = reader.value(&HF_ENDPOINT, raw.hf_endpoint, endpoint);
    if let Some(endpoint) = &endpoint {
        reader.computed(&HF_ENDPOINT, redacted(endpoint).trim_end_matches('/').to_owned());
    }
    let home = raw.home.as_deref();
    let path = |text: &str| Ok(folder(text, home));
    let hf_home = reader.optional(&HF_HOME, raw.hf_home, path)?.or_else(|| {
        let caches = raw.xdg_cache_home.as_deref().map(|text| folder(text, home));
        let caches = caches.or_else(|| home.map(|home| Path::new(home).join(".cache")))?;
        Some(caches.join("huggingface"))
    });
    if let Some(hf_home) = &hf_home {
        reader.computed(&HF_HOME, hf_home.display().to_string());
    }
    let cache = raw.hf_hub_cache.or(raw.huggingface_hub_cache);
    let cache = reader.optional(&HF_HUB_CACHE, cache, path)?;
    let cache = cache.or_else(|| Some(hf_home.as_ref()?.join("hub")));
    if let Some(cache) = &cache {
        reader.computed(&HF_HUB_CACHE, cache.display().to_string());
    }
    let given = raw.hf_token.or(raw.hugging_face_hub_token);
    let kept = || {
        let file = raw.hf_token_path.as_deref().map(|text| folder(text, home));
        kept_token(&file.or_else(|| Some(hf_home.as_ref()?.join("token")))?)
    };
    let mut given = reader.optional(&HF_TOKEN, given, token);
    if let Some(None) = given
        && let Some(kept) = kept()
    {
        reader.computed(&HF_TOKEN, kept.to_string());
        given = Some(Some(kept));
    }
    Some(HubConfig {
        endpoint: endpoint?,
        token: given?,
        cache,
    })
}

/// What `hf auth login` has kept, if it has. A file that cannot be read counts as none.
fn kept_token(file: &Path) -> Option<Secret> {
    if !std::fs::metadata(file).is_ok_and(|data| data.is_file() && data.len() <= LONGEST_TOKEN) {
        return None;
    }
    token(std::fs::read_to_string(file).ok()?.trim()).ok()
}

fn endpoint(text: &str) -> Result<Url, String> {
    let url = address(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment".to_owned());
    }
    Ok(url)
}

/// A folder that does not move with the working directory; `~` is the home folder.
pub(super) fn folder(text: &str, home: Option<&str>) -> PathBuf {
    let path = match (text.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            Path::new(home).join(rest.trim_start_matches('/'))
        }
        _ => PathBuf::from(text),
    };
    std::path::absolute(&path).unwrap_or(path)
}

/// An http or https URL.
pub(super) fn address(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => Err("is no http or https URL".to_owned()),
    }
}

/// A token that can stand in a header.
pub(super) fn token(text: &str) -> Result<Secret, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("is no token: tokens have neither spaces nor special letters".to_owned());
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
