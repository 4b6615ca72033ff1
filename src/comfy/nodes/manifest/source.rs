//! The text of a manifest, from a file or from the web.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use url::Url;

use crate::config::ManifestSource;
use crate::disk::blocking;
use crate::display::{error_chain, redacted};
use crate::net::guard::{ReadError, read_limited};
use crate::net::retry::RetryPolicy;

/// The largest manifest that is read, in bytes. A snapshot of a thousand packs has 200 kB.
pub(super) const LARGEST: usize = 1_000_000;
/// The longest that one try to fetch a manifest may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Waits between tries to fetch a manifest: a worker does not start without it.
const RETRY: RetryPolicy = RetryPolicy {
    initial: Duration::from_millis(500),
    factor: 2.0,
    longest: Duration::from_secs(5),
    jitter: 0.25,
    attempts: Some(3),
};

/// The text, or why there is none; that names neither password nor query.
pub(super) async fn text(source: &ManifestSource) -> Result<String, String> {
    let bytes = match source {
        ManifestSource::File(path) => {
            let path = path.clone();
            blocking(move || read_file(&path)).await?
        }
        ManifestSource::Url(url) => fetch(url).await?,
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

async fn fetch(url: &Url) -> Result<Vec<u8>, String> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).build();
    let client = client.map_err(|error| error_chain(&error))?;
    let mut delays = RETRY.delays();
    loop {
        let (reason, may_pass) = match try_fetch(&client, url).await {
            Ok(bytes) => return Ok(bytes),
            Err(failure) => failure,
        };
        if !may_pass || !delays.wait().await {
            return Err(reason);
        }
        tracing::warn!(
            "the manifest of custom nodes {} is fetched again: {reason}",
            redacted(url)
        );
    }
}

/// Tries once. A failure comes with whether it may pass.
async fn try_fetch(client: &reqwest::Client, url: &Url) -> Result<Vec<u8>, (String, bool)> {
    let response = client.get(url.clone()).send().await;
    let response = response.map_err(|error| (error_chain(&error.without_url()), true))?;
    let status = response.status();
    if !status.is_success() {
        let may_pass = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        return Err((format!("the server answers {status}"), may_pass));
    }
    match read_limited(response, LARGEST).await {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(ReadError::TooLarge { .. }) => Err((too_large(), false)),
        Err(error) => Err((error_chain(&error), true)),
    }
}
