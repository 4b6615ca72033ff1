//! Custom nodes: what became of them when ComfyUI started, and which pack brings which class.

pub mod report;
