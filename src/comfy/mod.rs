//! ComfyUI: installed, started, watched, and spoken to.

pub mod demo;
pub mod install;
pub mod process;
