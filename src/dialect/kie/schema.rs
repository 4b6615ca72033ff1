//! What the routes take and answer, for their documentation.

use super::input::{ACCELERATIONS, FORMATS, GUIDANCE, PICTURES, STEPS, size_names};
use super::models::{GENERATE, IMAGE_TO_IMAGE, MODELS, names};
use crate::dialect::schema::{JSON, Operation, Schema};
use crate::workflow::limits;

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

fn task() -> Schema {
    Schema::object()
        .needs("model", Schema::one_of(names()))
        .needs("input", input())
        .takes("callBackUrl", call_back_url())
        .named("KieTask")
}

fn call_back_url() -> Schema {
    Schema::either([Schema::address(), Schema::one_of([""])])
        .means("Where the record is posted at the task's end: an http or https address.")
}

/// The fields of a picture. Where a request leaves one out, each model has its own value.
pub(super) fn input() -> Schema {
    let most = MODELS.iter().map(|model| model.images).max().unwrap_or_default();
    // Forms send empty fields; those of a list do not count.
    let image = || Schema::either([Schema::picture(), Schema::one_of([""])]);
    let images = Schema::list(image());
    let judged =
        || Schema::truth().means("Whether a moderation endpoint, where one is configured, looks at the pictures.");
    let acceleration = || {
        Schema::one_of(ACCELERATIONS)
            .or(ACCELERATIONS[0])
            .means("All steps, 8 or 4.")
    };
    Schema::object()
        .needs("prompt", Schema::prompt())
        .takes(
            "negative_prompt",
            Schema::text().means("What the picture does not show."),
        )
        .takes(
            "image_url",
            Schema::either([image(), images]).means(format!(
                "The image that is edited, or up to {most} where the model takes several."
            )),
        )
        .takes(
            "strength",
            Schema::number(&limits::DENOISE).means(format!(
                "How much of the image is made anew, with {}.",
                IMAGE_TO_IMAGE.name
            )),
        )
        .takes("image_size", Schema::one_of(size_names()))
        .takes(
            "num_inference_steps",
            Schema::integer(&STEPS).means("Steps; the accelerated models have their own."),
        )
        .takes(
            "guidance_scale",
            Schema::number(&GUIDANCE)
                .means("How closely to follow the prompt; without effect on the accelerated models."),
        )
        .takes(
            "num_images",
            Schema::integer(&PICTURES).or(1).means("How many pictures."),
        )
        .takes("seed", Schema::seed())
        .takes("acceleration", acceleration())
        .takes("acceleration_level", acceleration().with("deprecated", true))
        .takes("output_format", Schema::one_of(FORMATS).or(FORMATS[0]))
        .takes("enable_safety_checker", judged())
        .takes("nsfw_checker", judged())
        .takes("safety_check", judged())
        .takes("sync_mode", Schema::truth().means("Without effect."))
        .named("KieInput")
}

pub(super) fn request() -> Schema {
    let usual = |model: &super::models::Model| (model.size.unwrap_or_default(), model.steps, model.guidance);
    let (size, steps, guidance) = usual(&GENERATE);
    input()
        .takes("image_size", Schema::one_of(size_names()).or(size))
        .takes(
            "num_inference_steps",
            Schema::integer(&STEPS).or(steps.unwrap_or_default()),
        )
        .takes(
            "guidance_scale",
            Schema::number(&GUIDANCE).or(guidance.unwrap_or_default()),
        )
        .takes("callBackUrl", call_back_url())
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
    use crate::dialect::fields::Fields;
    use crate::dialect::kie::input::read;
    use crate::dialect::kie::models::TEXT_TO_IMAGE;
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

    #[test]
    fn the_schema_of_the_input_agrees_with_the_parser() {
        agrees(input(), &json!({"prompt": "a fox"}), |input| {
            let mut input = input.as_object().cloned().expect("an object");
            let mut fields = Fields::new(&mut input);
            read(&mut fields, &TEXT_TO_IMAGE);
            fields.finish().is_ok()
        });
    }
}
