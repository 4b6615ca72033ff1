//! `GET /ws`: a client's websocket, on which it hears of its prompts.

use std::sync::Arc;

use axum::extract::{FromRequestParts as _, Request, State as Shared};
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use serde_json::Value;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::hub::Hub;
use crate::comfy::{Ear, Frame, Listener};
use crate::dialect::comfyui::{LONGEST_CLIENT_ID, frames};
use crate::dialect::schema::{Operation, Schema};
use crate::error::JobError;
use crate::http::auth::Caller;
use crate::http::route::Route;
use crate::http::state::State;
use crate::http::websocket::{Gone, Upgrade, WebSocket};

/// `GET /ws`.
pub(super) const SOCKET: Route = Route::get(
    "/ws",
    "ComfyUI's websocket: what becomes of the prompts that were sent with its `clientId` as their `client_id`, step by step, \
     with previews, and how many jobs there are.",
    || {
        Operation::default()
            .query("clientId", Schema::text())
            .empty_reply(101, "The websocket is open.")
    },
    |_| routing::get(open),
)
.api();

/// The largest message of a client, in bytes. They send their flags, and nothing else that is read.
const LARGEST_MESSAGE: usize = 1024 * 1024;

/// The parameter that names the client.
const CLIENT_ID: &str = "clientId";

async fn open(Shared(state): Shared<Arc<State>>, request: Request) -> Result<Response, Response> {
    let (mut parts, _) = request.into_parts();
    let client_id = client_id(&parts.uri).map_err(JobError::into_response)?;
    let key = Caller::of(&parts.extensions).key;
    let upgrade = Upgrade::from_request_parts(&mut parts, &state).await?;
    Ok(meet(upgrade, state.hub.clone(), Listener { key, client_id }))
}

/// Opens the websocket of a client.
fn meet(upgrade: Upgrade, hub: Hub, who: Listener) -> Response {
    upgrade.accept(LARGEST_MESSAGE, move |mut socket| async move {
        let mut ear = hub.relay().listen(who.clone());
        let _ = converse(&hub, &who, &mut ear, &mut socket).await;
        // Nothing more is kept for it.
        drop(ear);
        socket.end().await;
    })
}

/// The client's id, or a new one where it names none.
fn client_id(uri: &Uri) -> Result<String, JobError> {
    let query = uri.query().unwrap_or_default();
    let mut query = url::form_urlencoded::parse(query.as_bytes());
    match query.find(|(name, _)| name == CLIENT_ID) {
        Some((_, id)) if id.len() > LONGEST_CLIENT_ID => {
            let message = format!(
                "The clientId has {} bytes; at most {LONGEST_CLIENT_ID} are taken",
                id.len()
            );
            Err(JobError::invalid(message).at(CLIENT_ID).hint("A UUID will do."))
        }
        Some((_, id)) if !id.is_empty() => Ok(id.into_owned()),
        _ => Ok(uuid::Uuid::new_v4().simple().to_string()),
    }
}

/// Tells a client what is for it, until one of both has had enough.
async fn converse(hub: &Hub, who: &Listener, ear: &mut Ear, socket: &mut WebSocket) -> Result<(), Gone> {
    socket.send(hub.status(Some(&who.client_id))).await?;
    if let Some(node) = hub.node_at_work(who) {
        socket.send(frames::executing(&node)).await?;
    }
    let mut client = Client::default();
    loop {
        tokio::select! {
            frame = ear.next() => {
                let Some(frame) = frame else { return lag(socket) };
                tokio::select! {
                    sent = socket.send(client.understood(frame)) => sent?,
                    () = ear.lost() => return lag(socket),
                }
            }
            message = socket.next() => {
                if client.says(&message.ok_or(Gone)?) {
                    socket.send(frames::feature_flags(&hub.flags().await)).await?;
                }
            }
        }
    }
}

/// Ends a client's websocket that does not keep up.
fn lag(socket: &mut WebSocket) -> Result<(), Gone> {
    socket.refuse(CloseCode::Policy, "messages are not read");
    Err(Gone)
}

/// What is known of a client.
#[derive(Debug, Default)]
struct Client {
    /// Whether it has said something that counts: flags do only as the first message.
    has_spoken: bool,
    /// Whether it knows previews that say of which node they are.
    knows_metadata: bool,
}

impl Client {
    /// Takes in what it says; whether the server's flags answer it. Everything else is passed over, as ComfyUI does.
    fn says(&mut self, message: &Frame) -> bool {
        let Frame::Text(text) = message else { return false };
        if self.has_spoken {
            return false;
        }
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return false;
        };
        self.has_spoken = message.is_object();
        let has_flags = message["type"] == "feature_flags";
        if has_flags {
            self.knows_metadata = message["data"]["supports_preview_metadata"] == true;
        }
        has_flags
    }

    /// A frame in a form that it knows.
    fn understood(&self, frame: Frame) -> Frame {
        if self.knows_metadata {
            frame
        } else {
            frames::without_metadata(frame)
        }
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
