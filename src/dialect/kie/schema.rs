//! What the routes take and answer, for their documentation.

use super::fields::{request, task};
use crate::dialect::schema::{JSON, Operation, Schema};

/// `POST /api/v1/jobs/createTask`.
pub fn create_task() -> Operation {
    Operation::answers(envelope(accepted())).body(JSON, task())
}

/// `GET /api/v1/jobs/recordInfo`.
pub fn job_record() -> Operation {
    let record = Schema::object()
        .needs("taskId", task_id())
        .takes("model", Schema::text())
        .needs(
            "state",
            Schema::one_of(["waiting", "queuing", "generating", "success", "fail"]),
        )
        .takes("param", Schema::text().means("What was asked, as JSON in a text."))
        .needs(
            "resultJson",
            Schema::text().means("`{\"resultUrls\": […]}` as a text; empty until the task has succeeded."),
        )
        .needs("failCode", or_null("string"))
        .needs("failMsg", or_null("string"))
        .needs("costTime", or_null("integer").means("Milliseconds of work."))
        .needs("completeTime", or_null("integer").means(MILLIS))
        .needs("createTime", Schema::count().means(MILLIS))
        .needs("updateTime", Schema::count().means(MILLIS))
        .needs("progress", progress())
        .needs("safetyChecked", safety_checked())
        .takes("seed", Schema::count())
        .takes("warnings", warnings())
        .named("KieJobRecord");
    let answer = envelope(record).needs("message", Schema::text());
    Operation::answers(answer).needs("taskId", task_id())
}

/// `POST /api/v1/qwen/generate`.
pub fn generate() -> Operation {
    Operation::answers(envelope(accepted())).body(JSON, request())
}

/// `GET /api/v1/qwen/record-info`.
pub fn record_info() -> Operation {
    let record = brief()
        .takes(
            "response",
            Schema::object().needs("resultUrls", Schema::list(Schema::text())),
        )
        .needs("progress", progress())
        .needs("safetyChecked", safety_checked())
        .takes("seed", Schema::count())
        .takes("errorCode", Schema::count())
        .takes("errorMessage", Schema::text())
        .takes("warnings", warnings())
        .named("KieRecord");
    Operation::answers(flat(envelope(record))).needs("taskId", task_id())
}

const MILLIS: &str = "Milliseconds since 1970.";

fn accepted() -> Schema {
    Schema::object().needs("taskId", task_id())
}

fn task_id() -> Schema {
    Schema::text().with("minLength", 1).means("The task's id.")
}

fn or_null(kind: &str) -> Schema {
    Schema::any().with("type", vec![kind, "null"])
}

fn progress() -> Schema {
    Schema::integer(&(0..=100)).means("Percent of the work.")
}

fn safety_checked() -> Schema {
    Schema::truth().means("Whether a moderation endpoint has looked at the pictures.")
}

fn warnings() -> Schema {
    Schema::list(Schema::text()).means("What of the request had no effect, and why.")
}

fn brief() -> Schema {
    flat(Schema::object())
}

/// The fields that a record shows beside its envelope too.
fn flat(schema: Schema) -> Schema {
    schema
        .needs("taskId", task_id())
        .needs(
            "successFlag",
            Schema::integer(&(0..=3)).means("0 generating, 1 success, 2 failed, 3 failed before it began."),
        )
        .takes("imageUrl", Schema::text())
        .needs("createTime", Schema::text().with("format", "date-time"))
        .takes("completeTime", Schema::text().with("format", "date-time"))
}

fn envelope(data: Schema) -> Schema {
    Schema::object()
        .needs("code", Schema::count())
        .needs("msg", Schema::text())
        .needs("data", data)
}

/// An error.
pub fn error() -> Schema {
    envelope(Schema::any().with("type", "null")).named("KieError")
}
