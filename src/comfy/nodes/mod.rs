//! Custom nodes: which packs are wanted, where they are had, the nodes that every ComfyUI of ours has, what became of all of
//! them when it started, and whence a class comes that it does not have.

pub mod finder;
pub mod known;
pub mod manifest;
pub mod own;
pub mod registry;
pub mod report;
