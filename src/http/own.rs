//! The routes that are no dialect's, and what they take and answer, for their documentation.

use axum::routing;

use super::route::{DOCS, DOCUMENT, GET, PING, ROOT, Route};
use super::routes;
use crate::dialect::schema::{JSON, Operation, Schema};

/// The routes that are no dialect's.
pub(super) const ROUTES: &[Route] = &[
    Route::new(
        GET,
        "/health",
        "Jobs by state, and where ComfyUI stands.",
        health,
        |_| routing::get(routes::health::health),
    )
    .v2(),
    Route::new(
        GET,
        "/view",
        "The file that a result names: `?filename=&subfolder=&type=`.",
        view,
        |_| routing::get(routes::files::view),
    ),
    Route::new(
        GET,
        "/files/{job}/{index}/{name}",
        "A file of a job, by the link that an answer holds. The link's signature takes the place of a key.",
        file,
        |_| routing::get(routes::files::file),
    ),
    Route::new(
        GET,
        PING,
        "The health check: 204 while ComfyUI starts, 200 when jobs can run, 503 when ComfyUI cannot be started or was suspended, while the disk of `DATA_DIR` is full, and while the worker stops.",
        ping,
        |_| routing::get(routes::health::ping),
    ),
    Route::new(GET, ROOT, "Leads to `/docs`.", root, |_| {
        routing::get(routes::docs::root)
    }),
    Route::new(
        GET,
        DOCUMENT,
        "These routes as an OpenAPI 3.1 document.",
        document,
        |_| routing::get(routes::docs::document),
    ),
    Route::new(GET, DOCS, "The same as a page for people.", page, |_| {
        routing::get(routes::docs::page)
    }),
];

/// `GET /ping`.
fn ping() -> Operation {
    let ready = Schema::object().needs("status", Schema::one_of(["ready"]));
    Operation::default()
        .reply(200, "Jobs can run.", JSON, ready)
        .empty_reply(204, "ComfyUI starts, or models are fetched.")
        .reply(503, "No job can run; the body has the reason.", JSON, Schema::object())
}

/// `GET /health`.
fn health() -> Operation {
    let counts = |names: &[&str]| {
        names
            .iter()
            .fold(Schema::object(), |counts, name| counts.needs(name, Schema::count()))
    };
    let state = || Schema::object().needs("state", Schema::text());
    let comfyui = state()
        .takes("pid", Schema::count().means("Its process, where that is ours."))
        .takes("generation", Schema::count().means("Which start this is."))
        .takes("reason", Schema::text().means("Why it cannot be started."));
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
            .needs("comfyui", comfyui)
            .needs("models", models)
            .needs("version", Schema::text())
            .takes("warnings", Schema::list(Schema::text()))
            .named("Health"),
    )
}

/// `GET /view`.
fn view() -> Operation {
    Operation::default()
        .needs("filename", Schema::text().with("minLength", 1))
        .query("subfolder", Schema::text().or(""))
        .query("type", Schema::one_of(["output", "temp", "input"]).or("output"))
        .reply(200, "The file.", "*/*", Schema::file())
}

/// `GET /files/{job}/{index}/{name}`.
fn file() -> Operation {
    Operation::default()
        .needs(
            "expires",
            Schema::count().means("Until when the link works, in seconds since 1970."),
        )
        .needs("signature", Schema::text())
        .reply(200, "The file.", "*/*", Schema::file())
}

/// `GET /`.
fn root() -> Operation {
    Operation::default().empty_reply(303, "The page.")
}

/// `GET /openapi.json`.
fn document() -> Operation {
    Operation::answers(Schema::object().means("This document."))
}

/// `GET /docs`.
fn page() -> Operation {
    Operation::default().reply(200, "The page.", "text/html", Schema::text())
}
