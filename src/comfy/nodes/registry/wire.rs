//! The Registry's answers as they come over the wire, and how their ids and versions are read.

use serde::Deserialize;

use crate::echo;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawVersion {
    pub(super) version: String,
    pub(super) download_url: Option<String>,
    #[serde(rename = "node_id")]
    pub(super) node_id: Option<String>,
    pub(super) dependencies: Option<Vec<String>>,
    pub(super) deprecated: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct RawVersionName {
    pub(super) version: String,
}

#[derive(Deserialize)]
pub(super) struct RawNode {
    pub(super) id: String,
    pub(super) latest_version: Option<RawVersionName>,
}

#[derive(Deserialize)]
pub(super) struct RawNodes {
    pub(super) nodes: Option<Vec<RawNode>>,
}

/// What an error of the Registry says, `{"error", "message"}`. Pages and the like say nothing.
pub(super) fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct RawError {
        message: Option<String>,
        error: Option<String>,
    }
    let raw: Option<RawError> = serde_json::from_slice(body).ok();
    let said = raw.and_then(|raw| raw.message.filter(|message| !message.is_empty()).or(raw.error));
    said.map_or_else(String::new, |said| echo::cut(&said))
}

/// Whether a version can be written into `CUSTOM_NODES`.
pub(super) fn is_plain(version: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+' | b'_');
    !version.is_empty() && version.len() <= 100 && version.bytes().all(plain)
}

/// An id by which the Registry knows the same pack: it makes no difference between capitals, and between `-`, `_` and `.`.
pub(super) fn same(id: &str) -> String {
    id.to_ascii_lowercase().replace(['_', '.'], "-")
}

/// A version's numbers.
pub(super) fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(|letter: char| !letter.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}
