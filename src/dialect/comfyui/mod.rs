//! ComfyUI's own API.

pub mod frames;
