//! Streams of server-sent events.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use tokio::time::{Instant, Interval, interval_at};

/// How often a quiet stream says something: proxies close one after a minute, Gradio's Python clients give one up after
/// 20 seconds of silence.
const EVERY: Duration = Duration::from_secs(15);

/// An event stream that nobody keeps or gathers on its way.
pub(super) fn response(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        // nginx gathers answers before it passes them on, unless told not to.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// When a quiet stream is to say something.
pub(super) fn ticks() -> Interval {
    interval_at(Instant::now() + EVERY, EVERY)
}
