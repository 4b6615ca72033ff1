//! Server-sent events.

use serde::Serialize;

/// An event, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub name: &'static str,
    /// One line of JSON.
    pub data: String,
}

/// JSON on one line. Nothing of ours fails to be JSON.
pub(super) fn line(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}
