//! What the routes take and answer, for their documentation.

use super::input;
use crate::dialect::schema::{EVENTS, JSON, Operation, Schema};

/// `GET /config`.
pub fn config() -> Operation {
    Operation::answers(Schema::object().means("Gradio's description of the Space: its components and functions."))
}

/// `GET /gradio_api/info`.
pub fn info() -> Operation {
    Operation::answers(
        Schema::object()
            .needs("named_endpoints", Schema::object())
            .needs("unnamed_endpoints", Schema::object()),
    )
}

/// `GET /gradio_api/heartbeat/{session_hash}`.
pub fn heartbeat() -> Operation {
    Operation::default().reply(200, "`ALIVE`, again and again.", EVENTS, Schema::event())
}

/// `POST /gradio_api/queue/join`.
pub fn join() -> Operation {
    Operation::answers(joined()).body(JSON, input::join())
}

/// `POST /gradio_api/call/infer`.
pub fn call() -> Operation {
    Operation::answers(joined()).body(JSON, input::call())
}

/// `POST /gradio_api/call/v2/infer`.
pub fn named_call() -> Operation {
    Operation::answers(joined()).body(JSON, input::infer())
}

/// `GET /gradio_api/queue/data`.
pub fn data() -> Operation {
    let events = "Server-sent events, one line of JSON each: `estimation`, `process_starts`, `progress`, `heartbeat`, `process_completed`, `close_stream`.";
    Operation::default()
        .query("session_hash", Schema::text().means("The client's session."))
        .reply(200, events, EVENTS, Schema::event())
}

/// `GET /gradio_api/call/infer/{event_id}`.
pub fn call_result() -> Operation {
    let events =
        "Server-sent events: `heartbeat` while it goes on, then `complete` with the picture and the seed, or `error`.";
    Operation::default().reply(200, events, EVENTS, Schema::event())
}

/// `POST /gradio_api/cancel`.
pub fn cancel() -> Operation {
    let request = Schema::object()
        .needs("event_id", Schema::text())
        .takes("session_hash", Schema::any().means("The client's session."));
    Operation::answers(success()).body(JSON, request)
}

/// `POST /gradio_api/reset`.
pub fn reset() -> Operation {
    // Whatever is sent, or nothing, is answered alike.
    Operation::answers(success())
}

fn joined() -> Schema {
    Schema::object().needs("event_id", Schema::text().means("The event's id, which is the job's."))
}

fn success() -> Schema {
    Schema::object().needs("success", Schema::truth())
}

/// An error outside the stream.
pub fn error() -> Schema {
    let problem = Schema::object()
        .needs("type", Schema::text())
        .needs("loc", Schema::list(Schema::text()))
        .needs("msg", Schema::text());
    Schema::object()
        .needs("detail", Schema::either([Schema::text(), Schema::list(problem)]))
        .named("GradioError")
}
