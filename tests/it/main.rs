//! The one test binary: the whole worker on the real ComfyUI with demo weights.

mod auth;
mod bad_input;
mod bucket;
mod cancel;
mod cli;
mod clients;
mod delivery;
mod durability;
mod faults;
mod gradio;
mod hub;
mod image;
mod lb;
mod logs;
mod openai;
mod platform;
mod results_in_bucket;
mod runpod;
mod runsync;
mod support;
mod volumes;
