//! The text of a manifest, from a file or from the web: that of models, and that of custom nodes.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use url::Url;

use super::guard::{ReadError, read_limited};
use super::retry::RetryPolicy;
use crate::config::{ManifestSource, Secret};
use crate::disk::blocking;
use crate::display::{error_chain, redacted};

/// The largest manifest that is read, in bytes. A snapshot of a thousand packs has 200 kB.
pub(crate) const LARGEST: usize = 1_000_000;
/// The longest that one try to fetch a manifest may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The text, or why there is none; that names neither password nor query nor token. `what` it is stands in the log, and
/// `advice` behind the status that a server refuses it with.
pub(crate) async fn text(
    source: &ManifestSource,
    what: &str,
    token: Option<&Secret>,
    advice: impl Fn(StatusCode) -> String,
) -> Result<String, String> {
    let bytes = match source {
        ManifestSource::File(path) => {
            let path = path.clone();
            blocking(move || read_file(&path)).await?
        }
        ManifestSource::Url(url) => fetch(url, what, token, advice).await?,
    };
    String::from_utf8(bytes).map_err(|_| "it is no text in UTF-8".to_owned())
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map(|file| file.take(LARGEST as u64 + 1));
    let read = file.and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    if bytes.len() > LARGEST {
        return Err(too_large());
    }
    Ok(bytes)
}

fn too_large() -> String {
    format!("it has more than {LARGEST} bytes, which no manifest has")
}

async fn fetch(
    url: &Url,
    what: &str,
    token: Option<&Secret>,
    advice: impl Fn(StatusCode) -> String,
) -> Result<Vec<u8>, String> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).build();
    let client = client.map_err(|error| error_chain(&error))?;
    let mut delays = RetryPolicy::AT_START.delays();
    loop {
        let (reason, may_pass) = match try_fetch(&client, url, token, &advice).await {
            Ok(bytes) => return Ok(bytes),
            Err(failure) => failure,
        };
        if !may_pass || !delays.wait().await {
            return Err(reason);
        }
        tracing::warn!("{what} {} is fetched again: {reason}", redacted(url));
    }
}

/// Tries once. A failure comes with whether it may pass.
async fn try_fetch(
    client: &reqwest::Client,
    url: &Url,
    token: Option<&Secret>,
    advice: impl Fn(StatusCode) -> String,
) -> Result<Vec<u8>, (String, bool)> {
    let mut request = client.get(url.clone());
    if let Some(token) = token {
        // The client takes it off again when a redirect leads to another host.
        request = request.bearer_auth(token.reveal());
    }
    let response = request.send().await;
    let response = response.map_err(|error| (error_chain(&error.without_url()), true))?;
    let status = response.status();
    if !status.is_success() {
        let may_pass = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        return Err((format!("the server answers {status}{}", advice(status)), may_pass));
    }
    match read_limited(response, LARGEST).await {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(ReadError::TooLarge { .. }) => Err((too_large(), false)),
        Err(error) => Err((error_chain(&error), true)),
    }
}
