//! The one test binary: the whole worker on the real ComfyUI with demo weights.

mod auth;
mod bad_input;
mod bucket;
mod cancel;
mod cli;
mod clients;
mod delivery;
mod durability;
mod edit_plus;
mod faults;
mod hub;
mod hub_cache;
mod image;
mod images;
mod kie;
mod lb;
mod logs;
mod models;
mod models_download;
mod openai;
mod platform;
mod results_in_bucket;
mod runpod;
mod runsync;
mod support;
mod volumes;
