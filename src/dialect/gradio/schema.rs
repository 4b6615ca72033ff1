//! What the routes take and answer, for their documentation.

use super::input::{
    DEFAULT_ASPECT_RATIO, DEFAULT_GUIDANCE_SCALE, DEFAULT_STEPS, GUIDANCE_SCALE, PARAMETERS, SEED, SESSION_BYTES, STEPS,
};
use crate::dialect::schema::{EVENTS, JSON, Operation, Schema};
use crate::workflow::sizes;

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
    let request = Schema::object()
        .needs("data", values())
        .needs("session_hash", session())
        .takes(
            "fn_index",
            Schema::integer(&(0..=0)).means("The one function is 0, `/infer`."),
        )
        .named("GradioJoin");
    Operation::answers(joined()).body(JSON, request)
}

/// `POST /gradio_api/call/infer`.
pub fn call() -> Operation {
    Operation::answers(joined()).body(JSON, Schema::object().needs("data", values()))
}

/// `POST /gradio_api/call/v2/infer`.
pub fn named_call() -> Operation {
    Operation::answers(joined()).body(JSON, infer())
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

/// The parameters of `/infer` by name.
pub(super) fn infer() -> Schema {
    parameters()
        .into_iter()
        .fold(Schema::object(), |infer, (name, schema)| match name {
            "prompt" => infer.needs(name, schema),
            name => infer.takes(name, schema),
        })
        .named("GradioInfer")
}

/// The same by position.
fn values() -> Schema {
    let values: Vec<_> = parameters()
        .into_iter()
        .map(|(name, schema)| schema.with("title", name).into_value())
        .collect();
    Schema::any()
        .with("type", "array")
        .with("minItems", 1)
        .with("maxItems", values.len())
        .with("prefixItems", values)
        .named("GradioValues")
}

fn parameters() -> [(&'static str, Schema); PARAMETERS.len()] {
    let schemas = [
        Schema::prompt(),
        Schema::integer(&SEED)
            .with("minimum", -1)
            .or(0)
            .means("The seed, unless `randomize_seed`; -1 is a random one."),
        Schema::truth().or(true).means("Whether any seed will do."),
        Schema::one_of(sizes::aspect_ratios()).or(DEFAULT_ASPECT_RATIO),
        Schema::number(&(f64::from(GUIDANCE_SCALE[0])..=f64::from(GUIDANCE_SCALE[1])))
            .or(DEFAULT_GUIDANCE_SCALE)
            .means("How closely to follow the prompt."),
        Schema::integer(&STEPS).or(DEFAULT_STEPS),
        Schema::truth().or(true).means("Whether the prompt is made better."),
    ];
    let mut names = PARAMETERS.into_iter();
    schemas.map(|schema| (names.next().unwrap_or_default(), schema))
}

fn session() -> Schema {
    Schema::text()
        .with("minLength", 1)
        .with("maxLength", SESSION_BYTES)
        .means("The client's session.")
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::dialect::gradio::parse_named_call;
    use crate::dialect::schema::tests::agrees;

    #[test]
    fn the_schema_agrees_with_the_parser() {
        agrees(infer(), &json!({"prompt": "a fox"}), |body| {
            parse_named_call(body.to_string().as_bytes()).is_ok_and(|infer| infer.is_ok())
        });
    }
}
