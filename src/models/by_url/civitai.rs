//! What Civitai says of a model: which versions it has, which files a version has, and their hashes.
//!
//! `GET /api/v1/models/ID` and `GET /api/v1/model-versions/ID`, as Civitai's documentation of its REST API has them. The
//! download itself is a redirect to a signed address on another host, which must not see the key.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::config::{Secret, parse_sha256};
use crate::display::{error_chain, redacted};
use crate::echo::cut;
use crate::models::download::FetchError;
use crate::net::guard::{GuardedClient, Refused, read_limited};
use crate::net::retry::RetryPolicy;
use crate::workflow::CivitaiModel;

/// The largest answer that is read, in bytes: a model with hundreds of versions has some megabytes.
const LARGEST: usize = 8_000_000;
/// How long one answer may take.
const WHOLE: Duration = Duration::from_mins(1);
/// Where downloads are.
const DOWNLOADS: &str = "/api/download/models/";
/// What to do about a refusal, where no key was sent.
const SET_TOKEN: &str = "Set CIVITAI_TOKEN to a key of your account at Civitai.";

/// A file of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    /// Where it is downloaded.
    pub(super) url: Url,
    /// Its SHA-256 in lowercase hexadecimal, where Civitai names it.
    pub(super) sha256: Option<String>,
    /// The kind of model that it is made for, in Civitai's words.
    pub(super) base: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Model {
    #[serde(default, rename = "modelVersions")]
    versions: Vec<VersionId>,
}

#[derive(Debug, Deserialize)]
struct VersionId {
    id: u64,
}

#[derive(Debug, Deserialize)]
struct Version {
    id: u64,
    #[serde(default, rename = "modelId")]
    model: Option<u64>,
    #[serde(default, rename = "baseModel")]
    base: Option<String>,
    #[serde(default)]
    files: Vec<File>,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    id: Option<u64>,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    primary: Option<bool>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    hashes: Option<Hashes>,
    #[serde(default, rename = "downloadUrl")]
    url: Option<String>,
}

#[derive(Debug, Default, Clone, Deserialize)]
struct Metadata {
    #[serde(default)]
    format: Option<String>,
    #[serde(default)]
    size: Option<String>,
    #[serde(default)]
    fp: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Hashes {
    #[serde(default, rename = "SHA256")]
    sha256: Option<String>,
}

impl File {
    fn is_safetensors(&self) -> bool {
        let format = self.metadata.as_ref().and_then(|metadata| metadata.format.as_deref());
        format.is_some_and(|format| format.eq_ignore_ascii_case("SafeTensor"))
            || (format.is_none() && self.name.to_ascii_lowercase().ends_with(".safetensors"))
    }

    /// Whether it is the one that a download's address names so. What is not known says nothing.
    fn is(&self, name: &str, value: &str) -> bool {
        let metadata = self.metadata.clone().unwrap_or_default();
        let said = match name {
            "fileId" => self.id.map(|id| id.to_string()),
            "type" => Some(self.kind.clone()),
            "format" => metadata.format,
            "size" => metadata.size,
            "fp" => metadata.fp,
            _ => return true,
        };
        said.is_none_or(|said| said.eq_ignore_ascii_case(value))
    }
}

/// Asks which file is meant.
pub(super) async fn choose(
    client: &GuardedClient,
    endpoint: &Url,
    wanted: &CivitaiModel,
    token: Option<&Secret>,
) -> Result<Chosen, FetchError> {
    let version = match (wanted.version, wanted.model) {
        (Some(version), _) => version,
        (None, model) => {
            let address = at(endpoint, &format!("/api/v1/models/{}", model.unwrap_or_default()));
            let model: Model = ask(client, &address, token).await?;
            let newest = model.versions.first();
            newest
                .ok_or_else(|| told(&address, "names no version of this model"))?
                .id
        }
    };
    let address = at(endpoint, &format!("/api/v1/model-versions/{version}"));
    let version: Version = ask(client, &address, token).await?;
    pick(&version, wanted, endpoint).map_err(|why| told(&address, &why))
}

fn pick(version: &Version, wanted: &CivitaiModel, endpoint: &Url) -> Result<Chosen, String> {
    if let (Some(wanted), Some(model)) = (wanted.model, version.model)
        && wanted != model
    {
        return Err(format!(
            "says that version {} is of model {model}, not of {wanted}",
            version.id
        ));
    }
    let safe: Vec<&File> = version.files.iter().filter(|file| file.is_safetensors()).collect();
    if safe.is_empty() {
        let kinds = version
            .files
            .iter()
            .filter_map(|file| file.metadata.as_ref()?.format.as_deref());
        let kinds: Vec<String> = kinds.take(5).map(cut).collect();
        return Err(format!(
            "names no .safetensors file of this version{}: other formats may run any code when they are loaded",
            if kinds.is_empty() {
                String::new()
            } else {
                format!(" (but {})", kinds.join(", "))
            }
        ));
    }
    let meant = safe
        .iter()
        .filter(|file| wanted.which.iter().all(|(name, value)| file.is(name, value)));
    let meant: Vec<&&File> = meant.collect();
    let primary = meant.iter().find(|file| file.primary == Some(true));
    let Some(file) = primary.or(meant.first()) else {
        let which: Vec<String> = wanted
            .which
            .iter()
            .map(|(name, value)| cut(&format!("{name}={value}")))
            .collect();
        return Err(format!(
            "names no .safetensors file of this version with {}",
            which.join(", ")
        ));
    };
    let own = file.url.as_deref().and_then(|url| Url::parse(url).ok());
    let own = own.filter(|url| url.path().starts_with(DOWNLOADS));
    let mut url = at(endpoint, &format!("{DOWNLOADS}{}", version.id));
    if let Some(own) = own {
        url = at(endpoint, own.path());
        url.set_query(own.query());
    }
    let sha256 = file.hashes.as_ref().and_then(|hashes| hashes.sha256.as_deref());
    Ok(Chosen {
        url,
        sha256: sha256.and_then(|digits| parse_sha256(digits).ok()),
        base: version.base.as_deref().map(cut),
    })
}

fn at(endpoint: &Url, path: &str) -> Url {
    let mut url = endpoint.clone();
    url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
    url
}

fn told(address: &Url, why: &str) -> FetchError {
    FetchError::told(format!("{} {why}", redacted(address)), None)
}

/// Asks for JSON, more than once where that may help.
async fn ask<T: DeserializeOwned>(
    client: &GuardedClient,
    address: &Url,
    token: Option<&Secret>,
) -> Result<T, FetchError> {
    let mut delays = RetryPolicy::BRIEF.delays();
    loop {
        let asked = tokio::time::timeout(WHOLE, try_to_ask(client, address, token)).await;
        let (error, may_pass) = match asked {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failure)) => failure,
            Err(_) => {
                return Err(told(
                    address,
                    &format!("gives no whole answer within {} s", WHOLE.as_secs()),
                ));
            }
        };
        if !may_pass || !delays.wait().await {
            return Err(error);
        }
    }
}

/// Asks once. A failure comes with whether it may pass.
async fn try_to_ask<T: DeserializeOwned>(
    client: &GuardedClient,
    address: &Url,
    token: Option<&Secret>,
) -> Result<T, (FetchError, bool)> {
    let refused = |refused: &Refused| {
        (
            FetchError::told(refused.to_string(), Some("Name a public address.")),
            false,
        )
    };
    let mut request = client.request(Method::GET, address).map_err(|error| refused(&error))?;
    if let Some(token) = token {
        request = request.bearer_auth(token.reveal());
    }
    let response = request.send().await.map_err(|error| {
        if let Some(error) = Refused::within(&error) {
            return refused(error);
        }
        let why = error_chain(&error.without_url());
        (told(address, &format!("gives no answer: {why}")), true)
    })?;
    let status = response.status();
    if !status.is_success() {
        return Err(unanswered(address, &response, token.is_some()));
    }
    let answer = read_limited(response, LARGEST).await;
    let answer = answer.map_err(|error| {
        (
            told(address, &format!("gives no whole answer: {}", error_chain(&error))),
            true,
        )
    })?;
    serde_json::from_slice(&answer).map_err(|_| {
        (
            told(address, "gives an answer that is no description of a model"),
            false,
        )
    })
}

fn unanswered(address: &Url, response: &Response, token: bool) -> (FetchError, bool) {
    let status = response.status();
    let address = redacted(address);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let sent = if token { "with the key sent" } else { "no key sent" };
            let message = format!("{address} refuses access (status {}, {sent})", status.as_u16());
            let hint = if token {
                "Check that the key is valid and may read the model."
            } else {
                SET_TOKEN
            };
            (FetchError::told(message, Some(hint)), false)
        }
        StatusCode::NOT_FOUND => {
            let message = format!("{address}: Civitai has no such model or version");
            (
                FetchError::told(message, Some("Check the numbers on the model's page.")),
                false,
            )
        }
        _ => {
            let may_pass = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            (
                FetchError::told(format!("{address} answered with status {}", status.as_u16()), None),
                may_pass,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn version(files: &Value) -> Version {
        serde_json::from_value(json!({"id": 7, "modelId": 5, "baseModel": "Qwen", "files": files})).unwrap()
    }

    fn picked(files: &Value, which: &[(&str, &str)]) -> Result<String, String> {
        let which = which
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let wanted = CivitaiModel {
            model: Some(5),
            version: Some(7),
            which: which.collect(),
            token: None,
        };
        let endpoint = "http://127.0.0.1:9/mirror/".parse().unwrap();
        pick(&version(files), &wanted, &endpoint).map(|chosen| chosen.url.to_string())
    }

    #[test]
    fn the_file_that_is_meant_is_found_at_our_civitai() {
        let file = |fp: &str, primary: bool| {
            json!({"id": 1, "name": "x.safetensors", "type": "Model", "primary": primary,
                "metadata": {"format": "SafeTensor", "fp": fp, "size": "full"}, "hashes": {"SHA256": "A".repeat(64)},
                "downloadUrl": format!("https://evil.example.com/api/download/models/7?fp={fp}")})
        };
        let files = json!([file("fp32", false), file("fp16", true)]);
        let url = |fp| Ok(format!("http://127.0.0.1:9/mirror/api/download/models/7?fp={fp}"));
        assert_eq!(picked(&files, &[]), url("fp16"));
        assert_eq!(picked(&files, &[("fp", "FP32"), ("format", "SafeTensor")]), url("fp32"));
        assert!(picked(&files, &[("fp", "bf16")]).unwrap_err().contains("fp=bf16"));
        let mut elsewhere = file("fp16", true);
        elsewhere["downloadUrl"] = json!("https://evil.example.com/admin");
        assert_eq!(
            picked(&json!([elsewhere]), &[]),
            Ok("http://127.0.0.1:9/mirror/api/download/models/7".to_owned())
        );
    }

    #[test]
    fn a_version_without_a_safe_file_or_of_another_model_is_refused() {
        let pickle = json!([{"name": "x.ckpt", "type": "Model", "metadata": {"format": "PickleTensor"}}]);
        let reason = picked(&pickle, &[]).unwrap_err();
        assert!(
            reason.contains("PickleTensor") && reason.contains("any code"),
            "{reason}"
        );
        let mut of_another = version(&json!([]));
        of_another.model = Some(6);
        let wanted = CivitaiModel {
            model: Some(5),
            ..CivitaiModel::default()
        };
        let reason = pick(&of_another, &wanted, &"http://127.0.0.1:9".parse().unwrap()).unwrap_err();
        assert!(reason.contains("of model 6"), "{reason}");
    }
}
