//! A Gradio Space's form: `/infer` of the Qwen-Image Space, as its clients ask for it.
//!
//! A client reads `/config` and `/gradio_api/info` ([`config`], [`info`]), joins the queue with seven values
//! ([`parse_join`]), and reads the events of its session from one stream ([`messages()`], [`completed`],
//! [`CLOSE_STREAM`]). The shapes are those of Gradio 6.31.0, recorded with npm's `@gradio/client` 2.7.0 and Python's
//! `gradio_client` 2.7.2 and 1.14.0.

mod answers;
mod describe;
mod enhance;
mod input;
mod messages;

pub use answers::{ErrorBody, Joined, Success, joined, render_error, success};
pub use describe::{config, info};
pub use enhance::{chat_request, parse_chat, with_suffix};
pub use input::{
    Infer, Join, SESSION, call, cancel, infer, join, parse_call, parse_cancel, parse_join, parse_named_call, session,
};
pub use messages::{
    CALL_HEARTBEAT, CLOSE_STREAM, Cursor, HEARTBEAT, Refusal, Snapshot, UNKNOWN_SESSION, call_result, completed,
    messages,
};

#[cfg(test)]
mod tests;
