//! ComfyUI's own API.

pub mod hub;
mod logs;
mod socket;

use crate::http::route::Route;

/// The routes of its websocket.
pub(in crate::http) const ROUTES: &[Route] = &[socket::SOCKET, logs::SUBSCRIBE];

/// The longest `clientId`, in bytes.
const LONGEST_CLIENT_ID: usize = 256;
