//! What the routes take and answer, for their documentation.

use super::answers::status_word;
use super::envelope::{WAIT, WAIT_MS};
use super::fields::request;
use crate::dialect::schema::{EVENTS, JSON, Operation, Schema};
use crate::job::JobState;

/// `POST /runsync`; under `/v2` it waits 90 seconds unless told otherwise.
pub fn runsync() -> Operation {
    Operation::answers(job()).query("wait", wait()).body(JSON, request())
}

/// `POST /run`.
pub fn run() -> Operation {
    Operation::answers(brief()).body(JSON, request())
}

/// `/status/{id}`.
pub fn status() -> Operation {
    Operation::answers(job())
}

/// `GET /status-sync/{id}`.
pub fn status_sync() -> Operation {
    let wait = wait().or(u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX));
    Operation::answers(job()).query("wait", wait)
}

/// `/stream/{id}`.
pub fn stream() -> Operation {
    let chunk = Schema::object().needs("output", progress());
    Operation::answers(
        Schema::object()
            .needs("status", status_words())
            .needs("stream", Schema::list(chunk))
            .takes("error", Schema::text()),
    )
}

/// `POST /cancel/{id}`.
pub fn cancel() -> Operation {
    Operation::answers(
        brief()
            .needs("delayTime", milliseconds())
            .needs("executionTime", milliseconds())
            .named("RunpodCancelled"),
    )
}

/// `POST /retry/{id}`.
pub fn retry() -> Operation {
    Operation::answers(brief())
}

/// `POST /purge-queue`.
pub fn purge_queue() -> Operation {
    Operation::answers(
        Schema::object()
            .needs("removed", Schema::count())
            .needs("status", Schema::one_of(["completed"])),
    )
}

/// `GET /requests`, which lists `usual` jobs unless told otherwise, and `most` at most.
pub fn requests(usual: usize, most: usize) -> Operation {
    Operation::answers(Schema::object().needs("requests", Schema::list(job())))
        .query("status", status_words())
        .query("limit", Schema::integer(&(1..=most)).or(usual))
}

/// `GET /events/{id}`.
pub fn events() -> Operation {
    let events =
        "Server-sent events: `progress` and `preview` while the job waits and runs, then `status` with the answer.";
    Operation::default().reply(200, events, EVENTS, Schema::event())
}

fn wait() -> Schema {
    Schema::integer(&WAIT_MS).means("The longest wait, in milliseconds.")
}

fn status_words() -> Schema {
    Schema::one_of(JobState::ALL.map(status_word))
}

fn milliseconds() -> Schema {
    Schema::count().means("In milliseconds.")
}

fn brief() -> Schema {
    Schema::object()
        .needs("id", Schema::text().means("The job's id."))
        .needs("status", status_words())
}

/// A job as it is. A `/runsync` whose wait is over before the job has only the id and the status.
fn job() -> Schema {
    brief()
        .takes("output", output())
        .takes("error", Schema::text())
        .takes("details", Schema::list(problem()))
        .takes("position", Schema::count().means("Its place in the queue, from 1."))
        .takes("progress", progress())
        .takes(
            "execution_time",
            Schema::any().with("type", "number").means("In seconds."),
        )
        .takes("delayTime", milliseconds())
        .takes("executionTime", milliseconds())
        .named("RunpodJob")
}

fn output() -> Schema {
    let file = || {
        Schema::object()
            .needs("filename", Schema::text())
            .needs("subfolder", Schema::text())
            .needs("type", Schema::text().means("`base64`, `s3_url`, or ComfyUI's folder."))
            .takes("data", Schema::text().means("Base64, or the URL."))
    };
    let text = Schema::object()
        .needs("node_id", Schema::text())
        .needs("text", Schema::text());
    Schema::object()
        .takes("status", Schema::one_of(["success_no_images"]))
        .needs("images", Schema::list(file()))
        .takes(
            "files",
            Schema::list(file().needs("kind", Schema::text()).needs("node_id", Schema::text())),
        )
        .takes("texts", Schema::list(text))
        .takes("seed", Schema::count())
        .takes("warnings", Schema::list(Schema::text()))
        .takes(
            "image_url",
            Schema::text().means("Where the picture is, if one was made and it has an address."),
        )
        .takes(
            "result",
            Schema::text()
                .means("The same; or a data URI, where the request uses an `enable_…` field and there is no address."),
        )
        .named("RunpodOutput")
}

fn progress() -> Schema {
    let seconds = || Schema::any().with("type", "number").means("In seconds.");
    let percent = || Schema::integer(&(0..=100));
    let download = Schema::object()
        .needs("file", Schema::text())
        .takes("percent", percent())
        .needs("bytes", Schema::count())
        .takes("total_bytes", Schema::count())
        .takes("eta_s", seconds());
    Schema::object()
        .needs("stage", Schema::text())
        .needs("percent", percent())
        .takes("node_id", Schema::text())
        .takes("class_type", Schema::text())
        .takes("step", Schema::count())
        .takes("steps", Schema::count())
        .takes("eta_s", seconds())
        .takes("download", download)
        .named("RunpodProgress")
}

fn problem() -> Schema {
    Schema::object()
        .takes("node_id", Schema::text())
        .takes("class_type", Schema::text())
        .takes(
            "input",
            Schema::text().means("The input of the node, or the field of the request."),
        )
        .needs("message", Schema::text())
        .named("Problem")
}

/// An error.
pub fn error() -> Schema {
    Schema::object()
        .needs("error", Schema::text())
        .takes("details", Schema::list(problem()))
        .named("RunpodError")
}
