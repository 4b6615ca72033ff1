//! `qwen-image-worker`: a worker around ComfyUI, for Qwen-Image first and for any ComfyUI workflow.
//!
//! ```text
//!  runpod queue ───┐
//!  /runsync, /run ─┤ parse           ┌───────┐   ┌─────────────────────────┐  collect   ┌──────────┐ render
//!                  ├──────► Job ───► │ queue │ ► │ executor ► comfy        │ ─────────► │ delivery │ ──────► answer
//!  cli run  ───────┘                 └───┬───┘   │  (child process, HTTP,  │  Outcome   │ inline   │
//!                                      store     │   websocket)            │            │ S3       │
//!                                    (SQLite)    └─────────────────────────┘            │ webhook  │
//!                                                                                       └──────────┘
//! ```
//!
//! Imports point down this list, never up: [`cli`] → [`app`] → [`http`], [`runpod`], [`webhooks`] → [`queue`] → [`executor`],
//! [`boot`] → [`models`] → [`comfy`], [`dialect`] → [`job`], [`delivery`] → [`workflow`], [`net`] → [`config`], [`telemetry`],
//! `json`, [`error`], `encoding`, `disk`, `display`, `echo`.

pub mod app;
pub mod boot;
pub mod cli;
pub mod comfy;
pub mod config;
pub mod delivery;
pub mod dialect;
mod disk;
mod display;
mod echo;
mod encoding;
pub mod error;
pub mod executor;
pub mod http;
pub mod job;
mod json;
pub mod models;
pub mod net;
pub mod queue;
pub mod runpod;
pub mod telemetry;
pub mod webhooks;
pub mod workflow;
