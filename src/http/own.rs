//! What the routes take and answer that are no dialect's, for their documentation.

use crate::dialect::schema::{JSON, Operation, Schema};

/// `GET /ping`.
pub(super) fn ping() -> Operation {
    let ready = Schema::object().needs("status", Schema::one_of(["ready"]));
    Operation::default()
        .reply(200, "Jobs can run.", JSON, ready)
        .empty_reply(204, "ComfyUI starts, or models are fetched.")
        .reply(503, "No job can run; the body has the reason.", JSON, Schema::object())
}

/// `GET /health`.
pub(super) fn health() -> Operation {
    let counts = |names: &[&str]| {
        names
            .iter()
            .fold(Schema::object(), |counts, name| counts.needs(name, Schema::count()))
    };
    let state = || Schema::object().needs("state", Schema::text());
    let jobs = counts(&["completed", "failed", "inProgress", "inQueue", "retried"]);
    let workers = counts(&["idle", "initializing", "ready", "running", "throttled", "unhealthy"]);
    let models = state()
        .needs("wanted", Schema::count())
        .needs("present", Schema::count())
        .takes("download", Schema::object())
        .takes("failed", Schema::list(Schema::object()));
    Operation::answers(
        Schema::object()
            .needs("jobs", jobs)
            .needs("workers", workers)
            .needs("comfyui", state())
            .needs("models", models)
            .needs("version", Schema::text())
            .takes("warnings", Schema::list(Schema::text()))
            .named("Health"),
    )
}

/// `GET /view`.
pub(super) fn view() -> Operation {
    Operation::default()
        .needs("filename", Schema::text())
        .query("subfolder", Schema::text().or(""))
        .query("type", Schema::one_of(["output", "temp", "input"]).or("output"))
        .reply(200, "The file.", "*/*", Schema::file())
}

/// `GET /files/{job}/{index}/{name}`.
pub(super) fn file() -> Operation {
    Operation::default()
        .needs(
            "expires",
            Schema::count().means("Until when the link works, in seconds since 1970."),
        )
        .needs("signature", Schema::text())
        .reply(200, "The file.", "*/*", Schema::file())
}

/// `GET /openapi.json`.
pub(super) fn document() -> Operation {
    Operation::answers(Schema::object().means("This document."))
}

/// `GET /docs`.
pub(super) fn page() -> Operation {
    Operation::default().reply(200, "The page.", "text/html", Schema::text())
}
