//! The one test binary: the whole worker on the real ComfyUI with demo weights.

mod auth;
mod bad_input;
mod bucket;
mod cancel;
mod cli;
mod clients;
mod durability;
mod faults;
mod runpod;
mod runsync;
mod support;
