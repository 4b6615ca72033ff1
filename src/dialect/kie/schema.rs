//! What the routes take and answer, for their documentation.

use super::input::{ACCELERATIONS, DEFAULT_GUIDANCE, DEFAULT_SIZE, DEFAULT_STEPS, FORMATS, GUIDANCE, SIZES, STEPS};
use crate::dialect::schema::{JSON, Operation, Schema};

/// `POST /api/v1/qwen/generate`.
pub fn generate() -> Operation {
    let task = Schema::object().needs("taskId", task_id());
    Operation::answers(envelope(task)).body(JSON, request())
}

/// `GET /api/v1/qwen/record-info`.
pub fn record_info() -> Operation {
    let record = brief()
        .takes(
            "response",
            Schema::object().needs("resultUrls", Schema::list(Schema::text())),
        )
        .needs("progress", Schema::integer(&(0..=100)).means("Percent of the work."))
        .needs(
            "safetyChecked",
            Schema::truth().means("Whether a moderation endpoint has looked at the pictures."),
        )
        .takes("seed", Schema::count())
        .takes("errorCode", Schema::count())
        .takes("errorMessage", Schema::text())
        .named("KieRecord");
    Operation::answers(flat(envelope(record))).needs("taskId", task_id())
}

fn task_id() -> Schema {
    Schema::text().with("minLength", 1).means("The task's id.")
}

pub(super) fn request() -> Schema {
    Schema::object()
        .needs("prompt", Schema::prompt())
        .takes(
            "image_size",
            Schema::one_of(SIZES.iter().map(|(name, _)| *name)).or(DEFAULT_SIZE),
        )
        .takes(
            "num_inference_steps",
            Schema::integer(&STEPS)
                .or(DEFAULT_STEPS)
                .means("Steps; the accelerated models have their own."),
        )
        .takes(
            "guidance_scale",
            Schema::number(&GUIDANCE)
                .or(DEFAULT_GUIDANCE)
                .means("How closely to follow the prompt; without effect on the accelerated models."),
        )
        .takes("seed", Schema::seed())
        .takes(
            "acceleration_level",
            Schema::one_of(ACCELERATIONS)
                .or(ACCELERATIONS[0])
                .means("All steps, 8 or 4."),
        )
        .takes("output_format", Schema::one_of(FORMATS).or(FORMATS[0]))
        .takes(
            "safety_check",
            Schema::truth()
                .or(true)
                .means("Whether a moderation endpoint, where one is configured, looks at the pictures."),
        )
        .takes(
            "callBackUrl",
            Schema::either([Schema::address(), Schema::one_of([""])])
                .means("Where the record is posted at the task's end: an http or https address."),
        )
        .named("KieRequest")
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::ReturnImagesAs;
    use crate::dialect::kie::{Options, parse};
    use crate::dialect::schema::tests::agrees;

    #[test]
    fn the_schema_agrees_with_the_parser() {
        let options = Options {
            url_form: ReturnImagesAs::Metadata,
        };
        agrees(request(), &json!({"prompt": "a fox"}), |body| {
            parse(body.to_string().as_bytes(), options).is_ok()
        });
    }
}
