//! `qwen-image-worker`: a worker around ComfyUI, for Qwen-Image first and for any ComfyUI workflow.
//!
//! ```text
//!  /runsync ──┐ parse            ┌──────────────────────────┐  collect   ┌──────────┐ render
//!             ├───────► Job ───► │ executor ► comfy         │ ─────────► │ delivery │ ──────► answer
//!  cli run  ──┘                  │  (child process, HTTP,   │  Outcome   │ inline   │
//!                                │   websocket)             │            └──────────┘
//!                                └──────────────────────────┘
//! ```
//!
//! Imports point one way: `cli` → [`app`] → [`http`] → [`dialect`] → [`executor`] → [`comfy`], [`delivery`] →
//! [`workflow`], [`job`] → [`net`], [`config`], [`telemetry`], [`error`].

pub mod comfy;
pub mod error;
pub mod net;
pub mod telemetry;
pub mod workflow;
