//! The events of `/events/{id}`: `progress` while the job waits and runs, then one `status` with the final answer.

use serde::Serialize;

use super::answers::{ProgressBody, status, status_word};
use crate::job::JobView;

/// An event, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `progress` or `status`.
    pub name: &'static str,
    /// One line of JSON.
    pub data: String,
}

#[derive(Serialize)]
struct Seen<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(flatten)]
    progress: ProgressBody<'a>,
}

/// What is to be said about a job at one moment.
pub fn events(view: &JobView) -> Vec<Event> {
    if view.state.is_final() {
        let data = String::from_utf8_lossy(&status(view).to_vec()).into_owned();
        return vec![Event { name: "status", data }];
    }
    let seen = Seen {
        status: status_word(view.state),
        position: view.position,
        progress: ProgressBody::from(&view.progress),
    };
    // A number that is no JSON is the one thing that could fail, and there is none.
    let data = serde_json::to_string(&seen).unwrap_or_default();
    // `preview` follows here, with `{"image": "<base64 of the JPEG>"}`, once `Progress` carries a preview.
    vec![Event { name: "progress", data }]
}
