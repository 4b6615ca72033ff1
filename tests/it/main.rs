//! The one test binary: the whole worker on the real ComfyUI with demo weights.

mod auth;
mod bad_input;
mod cli;
mod faults;
mod runsync;
mod support;
