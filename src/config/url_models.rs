//! Models that requests name by their address.

use url::{Host, Url};

use super::models::bytes;
use super::urls::PrivateUrls;
use super::variable::{Reader, Variable, boolean, listed, parsed, web_address};
use crate::display::redacted;

/// How Hugging Face is called in a list of hosts.
pub const HUGGING_FACE: &str = "huggingface.co";
/// How Civitai is called in a list of hosts.
pub const CIVITAI: &str = "civitai.com";

/// Models that requests name by their address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlModelsConfig {
    /// The hosts that they may name.
    pub hosts: UrlHosts,
    /// The most bytes of one model.
    pub max_bytes: u64,
    /// Civitai, or a mirror of it.
    pub civitai: Url,
    /// What their addresses may name beside public ones, as those of images may.
    pub private: PrivateUrls,
}

/// Hosts that requests may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UrlHosts {
    /// None.
    None,
    /// Any.
    Any,
    /// These, and those below them. `huggingface.co` and `civitai.com` stand for the configured Hub and Civitai too.
    Listed(Vec<String>),
}

impl UrlHosts {
    /// Reads `true`, `false`, or host names with commas between them.
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(all) = boolean(text) {
            return Ok(if all { Self::Any } else { Self::None });
        }
        let hosts: Result<Vec<String>, String> = listed(text)
            .map(|part| match Host::parse(part) {
                Ok(host) if part.contains('.') || host == Host::Domain("localhost".to_owned()) => Ok(host.to_string()),
                _ => Err(format!("has `{part}`, which is no name of a host")),
            })
            .collect();
        match hosts? {
            hosts if hosts.is_empty() => Err("lists nothing".to_owned()),
            hosts => Ok(Self::Listed(hosts)),
        }
    }

    /// Whether a host is one of them, or below one.
    pub fn allow(&self, host: &str) -> bool {
        match self {
            Self::None => false,
            Self::Any => true,
            Self::Listed(hosts) => {
                let is_below = |rest: &str| rest.is_empty() || rest.ends_with('.');
                hosts
                    .iter()
                    .any(|name| host.strip_suffix(name.as_str()).is_some_and(is_below))
            }
        }
    }
}

const URL_MODELS: Variable<UrlHosts> = parsed("URL_MODELS", "true, false, or host names, comma-separated", UrlHosts::parse)
    .default_and_example("huggingface.co,civitai.com", "huggingface.co,civitai.com,models.example.com")
    .meaning("The hosts from which requests may name LoRAs and other models by URL. A list stands in place of the default, and names the hosts below it too; `huggingface.co` stands for `HF_ENDPOINT` as well, `civitai.com` for `CIVITAI_ENDPOINT`. `true`: any public host. `false`: none.");
const URL_MODEL_MAX_GB: Variable<u64> = parsed("URL_MODEL_MAX_GB", "GB, above 0", bytes)
    .default_and_example("25", "2")
    .meaning("The largest model that a request may name by URL. `MODEL_CACHE_GB` limits it too.");
const CIVITAI_ENDPOINT: Variable<Url> = parsed("CIVITAI_ENDPOINT", "URL", endpoint)
    .hidden()
    .default_and_example("https://civitai.com", "https://civitai-mirror.example.com")
    .meaning("Civitai, or a mirror of it, for models that requests name by URL. `CIVITAI_TOKEN` goes there too.");

pub(super) fn read(reader: &mut Reader) -> UrlModelsConfig {
    let civitai = reader.value(&CIVITAI_ENDPOINT);
    reader.computed(&CIVITAI_ENDPOINT, redacted(&civitai).trim_end_matches('/'));
    UrlModelsConfig {
        hosts: reader.value(&URL_MODELS),
        max_bytes: reader.value(&URL_MODEL_MAX_GB),
        civitai,
        private: PrivateUrls::None,
    }
}

fn endpoint(text: &str) -> Result<Url, String> {
    let url = web_address(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_stands_for_its_hosts_and_those_below() {
        let usual = read(&mut Reader::of(&[])).hosts;
        assert!(usual.allow("huggingface.co") && usual.allow("www.civitai.com"));
        assert!(!usual.allow("models.example.com") && !usual.allow("evilhuggingface.co"));
        let own = UrlHosts::parse("Models.Example.com, 127.0.0.1").unwrap();
        assert!(own.allow("models.example.com") && own.allow("a.models.example.com") && own.allow("127.0.0.1"));
        assert!(!own.allow("huggingface.co"));
        assert_eq!(UrlHosts::parse("true"), Ok(UrlHosts::Any));
        assert_eq!(UrlHosts::parse("False"), Ok(UrlHosts::None));
        for wrong in [",", "https://x.example.com", "a b", "models"] {
            UrlHosts::parse(wrong).unwrap_err();
        }
    }
}
