//! ComfyUI: installed, started, watched, and spoken to.

pub mod client;
pub mod collector;
pub mod demo;
mod files;
mod folders;
pub mod gpu;
mod handle;
pub mod install;
mod lenient;
pub mod message;
pub mod own_nodes;
pub mod process;
mod prompt;
pub mod socket;

pub use client::ComfyClient;
pub use files::RemoteFile;
pub use folders::Folders;
pub(crate) use folders::plain as plain_names;
pub use handle::{Boot, Comfy, ComfyState, Connection};
