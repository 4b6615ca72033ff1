//! OpenAI's Images API: `/v1/images/generations`, `/edits` and `/variations`, and `/v1/models`.
//!
//! The shapes are those of OpenAI's specification (openai-openapi 2.3.0) with the fields that hosts of Qwen models add
//! (`seed`, `image` in generations, `negative_prompt`, `steps`, `guidance_scale`), as PyPI's `openai` 3.52.0 and npm's
//! `openai` 6.49.0 send and read them, and what is built on them or beside them (npm's `@ai-sdk/openai` 3.0.141).

mod answers;
mod events;
mod fields;
mod form;
mod input;
mod models;
mod strange;

use std::time::Duration;

use crate::config::{ImageFormat, ReturnImagesAs};
use crate::job::{JobRequest, Policy};

pub use answers::{ErrorBody, Images, Model, Models, answer, model, models, render_error};
pub use events::{Cursor, error_event, events};
pub use fields::{form, request};
pub use input::{Body, parse};
pub use models::{AskedAs, asked_as};

use models::Quality;

/// How long the links in an answer work, as the specification promises: "the link will expire in 7 days".
pub const LINKS_WORK: Duration = Duration::from_hours(7 * 24);

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Pictures from text; from a picture too, where one is sent.
    Generate,
    /// Pictures from pictures and text.
    Edit,
    /// Pictures like a picture.
    Vary,
}

/// What is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The form of results that are answered by URL.
    pub url_form: ReturnImagesAs,
    /// Whether `b64_json` holds a data URI.
    pub data_uri: bool,
}

/// A request: its job, and how its answer looks.
#[derive(Debug)]
pub struct Asked {
    /// The job.
    pub request: JobRequest,
    /// How it is handled.
    pub policy: Policy,
    /// How its answer looks.
    pub reply: Reply,
}

/// How an answer looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    operation: Operation,
    form: Form,
    /// Whether `b64_json` is a data URI.
    data_uri: bool,
    /// Events as it goes on; the most pictures of work in progress among them.
    stream: Option<u32>,
    size: Option<String>,
    quality: Quality,
    format: Option<ImageFormat>,
    /// Whether the pictures have transparency that counts.
    alpha: bool,
    /// The seed that was asked for.
    seed: Option<u64>,
}

/// What a picture comes as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `url`.
    Url,
    /// `b64_json`.
    Inline,
    /// Both, as the specification's example shows it: each client takes the one that it knows.
    Both,
}

impl Reply {
    /// What is behind what the pictures show, in OpenAI's words.
    fn background(&self) -> &'static str {
        if self.alpha { "transparent" } else { "opaque" }
    }

    /// What its pictures come as.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Whether the answer is a stream of events.
    pub fn is_streamed(&self) -> bool {
        self.stream.is_some()
    }
}

#[cfg(test)]
mod tests;
