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
//! Imports point down this list, never up: [`cli`] → [`app`] → [`http`], [`runpod`], [`webhooks`] → [`member`] → [`warm_up`], [`assets`] → [`queue`] → [`engine`] → [`executor`],
//! [`boot`] → [`models`], [`dialect`] → [`delivery`] → [`comfy`] → [`fleet`] → [`job`] → [`workflow`], [`net`] → [`config`], [`telemetry`],
//! `json`, [`error`], `encoding`, `disk`, `display`, `echo`.

pub mod app;
pub mod assets;
pub mod blobs;
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
pub mod engine;
pub mod error;
pub mod executor;
pub mod fleet;
pub mod http;
pub mod job;
mod json;
pub mod member;
pub mod models;
pub mod net;
pub mod queue;
pub mod runpod;
pub mod telemetry;
pub mod warm_up;
pub mod webhooks;
pub mod workflow;

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn what_the_pages_name_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let missing: Vec<String> = ["docs/architecture.md", "CONTRIBUTING.md"]
            .iter()
            .flat_map(|page| {
                let text = std::fs::read_to_string(root.join(page)).unwrap();
                let named = text
                    .split('`')
                    .filter(|code| code.starts_with("src/") || code.starts_with(".github/"));
                let missing = named.filter(|path| !root.join(path).exists());
                missing.map(|path| format!("{page} names {path}")).collect::<Vec<_>>()
            })
            .collect();
        assert!(missing.is_empty(), "{missing:#?}");
    }
}
