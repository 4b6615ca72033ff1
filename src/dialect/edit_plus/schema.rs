//! What the routes take and answer, for their documentation.

use super::input::request;
use crate::dialect::schema::{JSON, Operation, Schema};

/// `GET /`.
pub fn about() -> Operation {
    Operation::answers(
        Schema::object()
            .needs("message", Schema::text())
            .needs("status", Schema::text())
            .needs("version", Schema::text())
            .needs("features", Schema::list(Schema::text())),
    )
}

/// `POST /edit-image`.
pub fn edit_image() -> Operation {
    let accepted = Schema::object()
        .needs("job_id", Schema::text())
        .needs("status", Schema::one_of(["queued"]))
        .needs("message", Schema::text());
    Operation::answers(accepted).body(JSON, request())
}

fn brief() -> Schema {
    Schema::object()
        .needs("status", Schema::one_of(["queued", "processing", "completed", "error"]))
        .needs("progress", Schema::integer(&(0..=100)).means("Percent of the work."))
}

fn job() -> Schema {
    brief()
        .takes(
            "prompt_id",
            Schema::text().means("The prompt in ComfyUI that carries the job."),
        )
        .takes("position", Schema::count().means("Its place in the queue, from 1."))
        .takes("image_ready", Schema::truth())
        .takes("download_url", Schema::text())
        .takes("image_path", Schema::text())
        .takes("seed", Schema::count())
        .takes("warnings", Schema::list(Schema::text()))
        .takes("error", Schema::text())
        .named("EditPlusJob")
}

/// `GET /status/{id}`.
pub fn status() -> Operation {
    Operation::answers(job())
}

/// `GET /download/{id}`.
pub fn download() -> Operation {
    Operation::default().reply(200, "The picture.", "image/*", Schema::file())
}

/// `GET /jobs`.
pub fn jobs() -> Operation {
    let jobs = Schema::object().with("additionalProperties", brief().into_value());
    Operation::answers(Schema::object().needs("jobs", jobs.means("The jobs by their ids.")))
}

/// `DELETE /jobs/{id}`.
pub fn delete() -> Operation {
    Operation::answers(Schema::object().needs("message", Schema::text()))
}

/// `GET /debug/files`.
pub fn debug_files() -> Operation {
    let file = Schema::object()
        .needs("path", Schema::text())
        .needs("size", Schema::count().means("In bytes."))
        .needs("modified", Schema::count().means("Seconds since 1970."));
    Operation::answers(
        Schema::object()
            .needs("output_dir", Schema::text())
            .needs("files", Schema::list(file))
            .needs("total", Schema::count())
            .needs("complete", Schema::truth().means("Whether these are all files.")),
    )
}

/// `GET /debug/job/{id}`.
pub fn debug_job() -> Operation {
    let file = Schema::object()
        .needs("path", Schema::text())
        .needs("exists", Schema::truth())
        .needs(
            "size",
            Schema::any().with("type", vec!["integer", "null"]).means("In bytes."),
        );
    Operation::answers(
        Schema::object()
            .needs("job_id", Schema::text())
            .needs("job", job())
            .needs("created", Schema::count().means("Seconds since 1970."))
            .needs("queued_ms", Schema::count())
            .needs("execution_ms", Schema::count())
            .needs("files", Schema::list(file)),
    )
}

/// An error.
pub fn error() -> Schema {
    Schema::object().needs("detail", Schema::text()).named("EditPlusError")
}
