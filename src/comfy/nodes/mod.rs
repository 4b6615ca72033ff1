//! Custom nodes: which packs are wanted, where they are had, and the nodes that every ComfyUI of ours has.

pub mod known;
pub mod manifest;
pub mod own;
pub mod registry;
