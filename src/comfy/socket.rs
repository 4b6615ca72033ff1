//! ComfyUI's websocket: one connection for each prompt, under a client id of its own.
//!
//! A client id is never used twice: when an older connection of the same id closes late, ComfyUI drops the newer
//! one's registration, and it stays open and silent for good. Events of a prompt go to the client id that it was
//! submitted with and are never replayed, so after a loss the truth is in `/history` and `/queue`.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{self, Message as Received, protocol::WebSocketConfig};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::client::ComfyClient;
use super::message::Message;
use super::relay::Frame;

/// The longest that a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest message we take, in bytes: previews are up to 512 pixels a side, `executed` messages may hold text.
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;

/// Why there is no websocket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The handshake failed.
    #[error("the websocket of ComfyUI cannot be opened")]
    Connect(#[source] Box<tungstenite::Error>),
    /// The handshake took too long.
    #[error("the websocket of ComfyUI was not opened within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Slow,
    /// The connection broke.
    #[error("the websocket of ComfyUI broke")]
    Broken(#[source] Box<tungstenite::Error>),
    /// ComfyUI closed it.
    #[error("ComfyUI closed its websocket")]
    Closed,
}

/// An open websocket.
#[derive(Debug)]
pub struct ComfySocket {
    client_id: String,
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    trace: bool,
}

impl ComfySocket {
    /// Opens a websocket under a fresh client id, and announces what we understand.
    pub async fn connect(client: &ComfyClient, trace: bool) -> Result<Self, SocketError> {
        let client_id = uuid::Uuid::new_v4().simple().to_string();
        let url = client.websocket_url(&client_id);
        let config = WebSocketConfig::default()
            .max_message_size(Some(LARGEST_MESSAGE))
            .max_frame_size(Some(LARGEST_MESSAGE));
        let connecting = tokio_tungstenite::connect_async_with_config(url.as_str(), Some(config), true);
        let (stream, _) = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting)
            .await
            .map_err(|_| SocketError::Slow)?
            .map_err(|error| SocketError::Connect(error.into()))?;
        let mut socket = Self {
            client_id,
            stream,
            trace,
        };
        // It counts only as the first message; without it previews come without their prompt's id.
        let flags = r#"{"type":"feature_flags","data":{"supports_preview_metadata":true}}"#;
        socket.stream.send(Received::text(flags)).await.map_err(broken)?;
        Ok(socket)
    }

    /// The id that `/prompt` is given, so that the events come here.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The next message, and the frame that it came in. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<(Message, Frame), SocketError> {
        loop {
            let frame = self.stream.next().await.ok_or(SocketError::Closed)?;
            return Ok(match frame.map_err(broken)? {
                Received::Text(text) => {
                    if self.trace {
                        tracing::info!(target: "comfyui::websocket", "{}", text.as_str());
                    }
                    (Message::from_text(&text), Frame::Text(text))
                }
                Received::Binary(frame) => {
                    if self.trace {
                        tracing::info!(target: "comfyui::websocket", bytes = frame.len(), "binary message");
                    }
                    (Message::from_binary(&frame), Frame::Binary(frame))
                }
                Received::Close(_) => return Err(SocketError::Closed),
                Received::Ping(_) | Received::Pong(_) | Received::Frame(_) => continue,
            });
        }
    }
}

fn broken(error: tungstenite::Error) -> SocketError {
    SocketError::Broken(error.into())
}
