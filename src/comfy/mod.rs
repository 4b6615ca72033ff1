//! ComfyUI: installed, started, watched, and spoken to.

mod answers;
pub mod client;
pub mod demo;
mod everybody;
mod files;
mod folders;
pub mod git;
pub mod gpu;
mod handle;
pub mod install;
pub mod memory;
pub mod message;
pub mod nodes;
mod pass;
pub mod process;
pub mod relay;
mod several;
pub mod socket;
pub mod unpack;
mod version;

pub use client::ComfyClient;
pub use files::RemoteFile;
pub use folders::Folders;
pub(crate) use folders::plain as plain_names;
pub use handle::{Boot, Comfy, ComfyState, LOCAL, Made, Warnings};
pub use process::Connection;
pub use relay::{Ear, Frame, Listener, Relay};
pub use several::{Comfys, EngineState, together};
pub use version::{ComfyVersion, KnownVersion};
