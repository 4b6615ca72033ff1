//! Where a request says that a model is: what people copy from a page, and what tools write. Nothing here asks a server.
//!
//! ```text
//! https://huggingface.co/OWNER/NAME/blob/main/FILE      hf://OWNER/NAME[@REVISION]/FILE
//! https://civitai.com/models/MODEL?modelVersionId=ID    civitai:ID    urn:air:BASE:lora:civitai:MODEL@ID
//! https://HOST/FILE
//! ```

use std::fmt;
use std::path::Path;

use url::Url;

use crate::config::{CIVITAI, Origin, Secret, UrlModelsConfig};
use crate::display::redacted;
use crate::echo::cut;
use crate::net::unescaped;

/// The longest address that is taken, in bytes.
const LONGEST: usize = 4_096;
/// Names of resources begin so; the first part may be left out.
const AIR: [&str; 2] = ["urn:air:", "air:"];
/// Formats that run what is in them when they are loaded.
const PICKLES: &[&str] = &["ckpt", "pt", "pt2", "pth", "bin", "pkl", "pickle"];
/// Formats that hold several files.
const ARCHIVES: &[&str] = &["tar", "tgz", "gz", "bz2", "xz", "zst", "zip", "7z", "rar"];
/// What may stand behind a model's address.
const FORM: &str =
    "write https://…, hf://owner/name/path, the address of a page of Civitai, civitai:VERSION or urn:air:…";

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelAddress {
    /// A file on the Hub, or at a plain URL.
    File(Origin),
    /// A model on Civitai.
    Civitai(CivitaiModel),
}

/// A model on Civitai.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CivitaiModel {
    /// The model, which may have several versions.
    pub model: Option<u64>,
    /// The version; [`None`]: the newest.
    pub version: Option<u64>,
    /// Which of the version's files: what stands in a download's address, such as `fp=fp16`.
    pub which: Vec<(String, String)>,
    /// The key that the address brings.
    pub token: Option<Secret>,
}

impl fmt::Display for ModelAddress {
    /// Without what may be secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(origin) => f.write_str(&cut(&origin.to_string())),
            Self::Civitai(civitai) => match (civitai.model, civitai.version) {
                (Some(model), Some(version)) => write!(f, "civitai:{model}@{version}"),
                (Some(model), None) => write!(f, "civitai.com/models/{model}"),
                (None, version) => write!(f, "civitai:{}", version.unwrap_or_default()),
            },
        }
    }
}

impl ModelAddress {
    /// Whether a text is meant as an address: no file of ComfyUI's is called so.
    pub fn is_meant(text: &str) -> bool {
        let text = text.trim_start();
        let begins = |with: &str| {
            text.get(..with.len())
                .is_some_and(|begin| begin.eq_ignore_ascii_case(with))
        };
        ["https://", "http://", "hf://", "civitai:"]
            .iter()
            .any(|with| begins(with))
            || AIR.iter().any(|with| begins(with))
    }

    /// Reads an address, with the usual Hub and the usual Civitai. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::read(text, None)
    }

    /// The same with the configured ones.
    pub fn parse_with(text: &str, hub: &Url, config: &UrlModelsConfig) -> Result<Self, String> {
        Self::read(text, Some((hub, &config.civitai)))
    }

    fn read(text: &str, ours: Option<(&Url, &Url)>) -> Result<Self, String> {
        let text = text.trim();
        if text.len() > LONGEST {
            return Err(format!("is longer than {LONGEST} bytes"));
        }
        let after = |with: &str| {
            let begin = text.get(..with.len())?;
            begin.eq_ignore_ascii_case(with).then(|| &text[with.len()..])
        };
        if let Some(rest) = AIR.iter().find_map(|with| after(with)) {
            return air(rest).map(Self::Civitai);
        }
        if let Some(rest) = after("civitai:") {
            return civitai_id(rest).map(Self::Civitai);
        }
        if let Some(rest) = after("hf://") {
            return file(format!("hf://{rest}").parse().map_err(why)?);
        }
        let Ok(url) = Url::parse(text) else {
            return Err(format!("is no address: {FORM}"));
        };
        let same = |other: &Url| {
            url.host_str() == other.host_str() && url.port_or_known_default() == other.port_or_known_default()
        };
        let host = url.host_str().unwrap_or_default();
        if host == CIVITAI
            || host.strip_prefix("www.") == Some(CIVITAI)
            || ours.is_some_and(|(_, civitai)| same(civitai))
        {
            return civitai_page(&url).map(Self::Civitai);
        }
        if ours.is_some_and(|(hub, _)| same(hub))
            && let Some(origin) = hub_file(&url)
        {
            return file(origin.map_err(why)?);
        }
        file(url.as_str().parse().map_err(why)?)
    }
}

fn why(error: crate::config::ModelFileError) -> String {
    match error {
        crate::config::ModelFileError::Source { reason, .. } => reason.to_owned(),
        other => other.to_string(),
    }
}

/// A file on a mirror of the Hub, whose paths are the Hub's.
fn hub_file(url: &Url) -> Option<Result<Origin, crate::config::ModelFileError>> {
    let parts: Vec<&str> = url.path().trim_start_matches('/').splitn(5, '/').collect();
    let [owner, name, "resolve" | "blob" | "raw", revision, path] = parts[..] else {
        return None;
    };
    Some(Origin::hub(
        &format!("{owner}/{name}"),
        &unescaped(revision),
        &unescaped(path),
    ))
}

/// A file whose name does not say that it is none that is taken.
fn file(origin: Origin) -> Result<ModelAddress, String> {
    let name = match &origin {
        Origin::Hub { path, .. } => path.clone(),
        Origin::Url(url) => unescaped(url.path()),
    };
    let ending = Path::new(&name).extension().and_then(|ending| ending.to_str());
    let ending = ending.unwrap_or_default().to_ascii_lowercase();
    if PICKLES.contains(&ending.as_str()) {
        return Err(format!(
            "is a .{ending} file, which may run any code when it is loaded: only .safetensors is taken"
        ));
    }
    if ARCHIVES.contains(&ending.as_str()) {
        return Err(format!(
            "is a .{ending} archive: name the .safetensors file that is in it, at an address of its own"
        ));
    }
    if ending == "gguf" {
        return Err("is a .gguf file: only .safetensors is taken by URL".to_owned());
    }
    Ok(ModelAddress::File(origin))
}

fn number(text: &str) -> Option<u64> {
    let is_plain = !text.is_empty() && text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

/// `VERSION` or `MODEL@VERSION`.
fn civitai_id(text: &str) -> Result<CivitaiModel, String> {
    let wrong =
        || "is no version of a model on Civitai: write civitai:VERSION, the number behind modelVersionId=".to_owned();
    let (model, version) = match text.split_once('@') {
        Some((model, version)) => (Some(number(model).ok_or_else(wrong)?), version),
        None => (None, text),
    };
    Ok(CivitaiModel {
        model,
        version: Some(number(version).ok_or_else(wrong)?),
        ..CivitaiModel::default()
    })
}

/// `BASE:TYPE:SOURCE:ID[@VERSION][:LAYER][.FORMAT]`, as Civitai's documentation of AIR has it.
fn air(text: &str) -> Result<CivitaiModel, String> {
    const SHAPE: &str = "is not of the form urn:air:BASE:TYPE:civitai:MODEL@VERSION";
    let parts: Vec<&str> = text.split(':').collect();
    let [_, _, source, id, ..] = parts[..] else {
        return Err(SHAPE.to_owned());
    };
    if !source.eq_ignore_ascii_case("civitai") {
        let source = cut(source);
        return Err(format!(
            "names the source `{source}`: only civitai is known; write a model of the Hub as hf://owner/name/path"
        ));
    }
    let id = id.split('.').next().unwrap_or_default();
    let (model, version) = match id.split_once('@') {
        Some((model, version)) => (model, Some(version)),
        None => (id, None),
    };
    let version = version.map(|version| number(version).ok_or(SHAPE)).transpose()?;
    Ok(CivitaiModel {
        model: Some(number(model).ok_or(SHAPE)?),
        version,
        ..CivitaiModel::default()
    })
}

/// A model's page, or the address of a download.
fn civitai_page(url: &Url) -> Result<CivitaiModel, String> {
    let parts: Vec<&str> = url
        .path_segments()
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
        .collect();
    let mut civitai = CivitaiModel::default();
    for (name, value) in url.query_pairs() {
        match &*name {
            "modelVersionId" => {
                let version = number(&value).ok_or("has a modelVersionId that is no number")?;
                civitai.version = Some(version);
            }
            "token" => civitai.token = Some(Secret::new(value.into_owned())).filter(is_token),
            _ => civitai.which.push((name.into_owned(), value.into_owned())),
        }
    }
    match parts[..] {
        ["models", model, ..] => {
            civitai.model = number(model);
            // A page's query says nothing of the files.
            civitai.which.clear();
        }
        ["api", "download", "models", version]
        | ["api", "v1", "model-versions", version]
        | ["model-versions", version] => {
            civitai.version = number(version);
        }
        ["api", "v1", "models", model] => civitai.model = number(model),
        _ => {}
    }
    if civitai.model.is_none() && civitai.version.is_none() {
        return Err(
            "is no model's page on Civitai: it looks like https://civitai.com/models/MODEL?modelVersionId=VERSION"
                .to_owned(),
        );
    }
    Ok(civitai)
}

/// What can stand in a header.
fn is_token(token: &Secret) -> bool {
    let text = token.reveal();
    !text.is_empty() && text.len() <= 512 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// An address as messages call it: without what may be secret, whatever it is.
pub fn shown_address(text: &str) -> String {
    match ModelAddress::parse(text) {
        Ok(address) => address.to_string(),
        Err(_) => match Url::parse(text.trim()) {
            Ok(url) if url.has_host() => cut(&redacted(&url)),
            _ => cut(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn civitai(text: &str) -> (Option<u64>, Option<u64>) {
        match ModelAddress::parse(text) {
            Ok(ModelAddress::Civitai(civitai)) => (civitai.model, civitai.version),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn files_of_the_hub_are_known_in_each_form() {
        for text in [
            "hf://o/n/a/x.safetensors",
            "HF://o/n@main/a/x.safetensors",
            "https://huggingface.co/o/n/blob/main/a/x.safetensors",
            " https://huggingface.co/o/n/resolve/main/a/x.safetensors?download=true ",
            "https://hf.co/o/n/resolve/main/a/x.safetensors",
        ] {
            assert!(ModelAddress::is_meant(text), "{text}");
            let address = ModelAddress::parse(text).unwrap();
            assert_eq!(address.to_string(), "hf://o/n@main/a/x.safetensors", "{text}");
        }
        let mirror: Url = "http://127.0.0.1:8000".parse().unwrap();
        let config = UrlModelsConfig {
            hosts: crate::config::UrlHosts::Any,
            max_bytes: 1,
            civitai: "http://127.0.0.1:9000".parse().unwrap(),
            private: crate::config::PrivateUrls::None,
        };
        let parse = |text: &str| ModelAddress::parse_with(text, &mirror, &config).map(|address| address.to_string());
        assert_eq!(
            parse("http://127.0.0.1:8000/o/n/blob/main/x.safetensors").unwrap(),
            "hf://o/n@main/x.safetensors"
        );
        assert_eq!(
            parse("http://127.0.0.1:9000/models/5?modelVersionId=7").unwrap(),
            "civitai:5@7"
        );
        assert_eq!(
            parse("http://127.0.0.1:7000/models/5").unwrap(),
            "http://127.0.0.1:7000/models/5"
        );
    }

    #[test]
    fn models_of_civitai_are_known_in_each_form() {
        for (text, model, version) in [
            (
                "https://civitai.com/models/5/a-style?modelVersionId=7",
                Some(5),
                Some(7),
            ),
            ("https://www.civitai.com/models/5", Some(5), None),
            (
                "https://civitai.com/api/download/models/7?type=Model&format=SafeTensor",
                None,
                Some(7),
            ),
            ("https://civitai.com/api/v1/model-versions/7", None, Some(7)),
            ("civitai:7", None, Some(7)),
            ("civitai:5@7", Some(5), Some(7)),
            ("urn:air:qwen:lora:civitai:5@7", Some(5), Some(7)),
            ("URN:AIR:sdxl:lora:civitai:5@7.safetensors", Some(5), Some(7)),
            ("air:flux1:lora:civitai:5", Some(5), None),
        ] {
            assert!(ModelAddress::is_meant(text), "{text}");
            assert_eq!(civitai(text), (model, version), "{text}");
        }
    }

    #[test]
    fn a_key_in_an_address_is_never_shown() {
        let text = "https://civitai.com/api/download/models/7?fp=fp16&token=4711";
        let address = ModelAddress::parse(text).unwrap();
        let shown = format!("{address} {address:?} {}", shown_address(text));
        assert!(!shown.contains("4711"), "{shown}");
        let ModelAddress::Civitai(civitai) = address else {
            panic!()
        };
        assert_eq!(civitai.which, [("fp".to_owned(), "fp16".to_owned())]);
        assert_eq!(civitai.token.unwrap().reveal(), "4711");
        assert!(!shown_address("https://u:4711@x.example.com/a.ckpt?k=4711").contains("4711"));
    }

    #[test]
    fn what_is_no_model_is_refused_with_the_reason() {
        for (text, word) in [
            ("https://models.example.com/x.ckpt", "any code"),
            ("https://models.example.com/x.PT?a=b", "any code"),
            ("hf://o/n/pytorch_model.bin", "any code"),
            ("https://models.example.com/x.tar", "archive"),
            ("https://models.example.com/x.zip", "archive"),
            ("https://models.example.com/x.gguf", "only .safetensors"),
            ("https://huggingface.co/o/n", "page"),
            ("hf://o/x.safetensors", "hf://owner/name"),
            ("civitai:abc", "civitai:VERSION"),
            ("civitai:99999999999999999999", "civitai:VERSION"),
            ("https://civitai.com/user/somebody", "page"),
            ("https://civitai.com/models/5?modelVersionId=x", "number"),
            ("urn:air:sdxl:lora:civitai", "urn:air"),
            ("urn:air:sdxl:lora:leonardo:5@7", "leonardo"),
            ("https://", "address"),
        ] {
            let reason = ModelAddress::parse(text).unwrap_err();
            assert!(reason.contains(word), "{text}: {reason}");
        }
        assert!(ModelAddress::parse(&format!("https://x.example.com/{}", "a".repeat(5_000))).is_err());
        for name in ["style.safetensors", "sub/a.safetensors", "C:\\x.safetensors", "httpsx"] {
            assert!(!ModelAddress::is_meant(name), "{name}");
        }
    }
}
