//! Custom nodes: which packs are wanted, where they are had, how they are installed, the nodes that every ComfyUI of ours has,
//! what became of all of them when it started, and whence a class comes that it does not have.
//!
//! ```text
//! CUSTOM_NODES, CUSTOM_NODES_MANIFEST ─► manifest ─► wishes ─┬─► key of the set: is it there? (set) ─► ComfyUI starts with it
//!                                                            └─► install: fetch (registry, git, folder)    │
//!                                                                         requirements ─► resolve          ▼
//!                                                                   base, environment                    report
//! ```

mod base;
mod copy;
mod environment;
mod error;
mod fetch;
pub mod finder;
mod install;
pub mod known;
mod look;
pub mod manifest;
pub mod own;
mod pack;
pub mod registry;
pub mod report;
mod requirements;
mod resolve;
mod script;
mod set;
mod stamp;
#[cfg(test)]
mod testing;
mod wishes;

pub use self::error::NodesError;
pub use self::install::{Checked, Effort, NodesOptions, check, ensure, install};
pub use self::look::{Frozen, Removed, Status, freeze, remove, status};
pub use self::set::{InstalledPack, NodeSet};
