//! `PATCH /internal/logs/subscribe`: whether a client's websocket is told what ComfyUI logs.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::routing;
use serde_json::Value;

use crate::comfy::Listener;
use crate::dialect::comfyui::LONGEST_CLIENT_ID;
use crate::dialect::schema::Operation;
use crate::error::JobError;
use crate::http::auth::Caller;
use crate::http::route::Route;
use crate::http::state::State;
use crate::json::read as read_json;

/// `PATCH /internal/logs/subscribe`.
pub(super) const SUBSCRIBE: Route = Route::new(
    &["PATCH"],
    "/internal/logs/subscribe",
    "Whether a client's websocket is told what ComfyUI logs: `{enabled, clientId}`.",
    || Operation::default().empty_reply(200, "It is, or is no longer."),
    |_| routing::patch(subscribe),
)
.api();

/// The largest body, in bytes.
const LARGEST_BODY: usize = 16 * 1024;

async fn subscribe(Shared(state): Shared<Arc<State>>, request: Request) -> Result<StatusCode, JobError> {
    let (parts, body) = request.into_parts();
    let body = state.bodies.read_at_most(LARGEST_BODY, &parts.headers, body).await?;
    let (client_id, enabled) = read(&body.content)?;
    let key = Caller::of(&parts.extensions).key;
    state.hub.read_logs(Listener { key, client_id }, enabled);
    Ok(StatusCode::OK)
}

fn read(body: &[u8]) -> Result<(String, bool), JobError> {
    let body: Value = read_json(body)
        .map_err(|error| error.of_request(|error| JobError::invalid(format!("The body is no JSON: {error}"))))?;
    let hint = "Send {\"enabled\": true, \"clientId\": \"…\"}.";
    let enabled = body["enabled"].as_bool().ok_or_else(|| {
        JobError::invalid("`enabled` is neither true nor false")
            .at("enabled")
            .hint(hint)
    })?;
    match body["clientId"].as_str() {
        Some(id) if !id.is_empty() && id.len() <= LONGEST_CLIENT_ID => Ok((id.to_owned(), enabled)),
        _ => Err(JobError::invalid("`clientId` is no id of a websocket")
            .at("clientId")
            .hint(hint)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_reads_the_logs_is_named_with_a_yes_or_a_no() {
        let told = |body: Value| read(body.to_string().as_bytes());
        assert_eq!(
            told(json!({"enabled": true, "clientId": "a"})),
            Ok(("a".to_owned(), true))
        );
        assert_eq!(
            told(json!({"enabled": false, "clientId": "a"})),
            Ok(("a".to_owned(), false))
        );
        for wrong in [
            json!({}),
            json!([]),
            json!({"enabled": 1, "clientId": "a"}),
            json!({"enabled": true, "clientId": ""}),
            json!({"enabled": true, "clientId": 7}),
            json!({"enabled": true, "clientId": "x".repeat(LONGEST_CLIENT_ID + 1)}),
        ] {
            assert!(told(wrong.clone()).is_err(), "{wrong}");
        }
        assert!(read(b"").is_err());
    }
}
