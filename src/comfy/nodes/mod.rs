//! Custom nodes: which packs are wanted, where they are had, the nodes that every ComfyUI of ours has, and what became of all
//! of them when it started.

pub mod known;
pub mod manifest;
pub mod own;
pub mod registry;
pub mod report;
