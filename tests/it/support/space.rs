//! A Space with the real Gradio, of the form of Qwen/Qwen-Image.

use serde_json::Value;
use tokio::process::Child;

use super::clients::python_server;
use super::{json_at, text};

/// A Space. It ends when it is dropped.
pub(crate) struct Space {
    pub(crate) url: String,
    told: String,
    _child: Child,
}

impl Space {
    pub(crate) async fn start() -> Self {
        let script = include_str!("../clients/gradio_space.py");
        let (child, line) = python_server("gradio==6.31.0", script).await;
        Self {
            url: text(&line, "url").to_owned(),
            told: text(&line, "told").to_owned(),
            _child: child,
        }
    }

    /// What `/infer` was asked with, one list for each time.
    pub(crate) async fn asked(&self) -> Vec<Value> {
        json_at(&self.told).await["asked"].as_array().expect("a list").clone()
    }

    /// How many wait in its queue.
    pub(crate) async fn waiting(&self) -> u64 {
        let status = json_at(&format!("{}/gradio_api/queue/status", self.url)).await;
        status["queue_size"].as_u64().expect("a number")
    }

    /// The prompts that it has done with.
    pub(crate) async fn ended(&self) -> Vec<Value> {
        json_at(&self.told).await["ended"].as_array().expect("a list").clone()
    }
}
