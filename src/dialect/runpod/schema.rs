//! What the routes take and answer, for their documentation.

use super::answers::status_word;
use super::envelope::{EXECUTION_TIMEOUT_MS, PRIORITY, TTL_MS, WAIT, WAIT_MS};
use super::input::MOST_IMAGES;
use crate::config::{ImageFormat, ReturnImagesAs};
use crate::dialect::schema::{EVENTS, JSON, Operation, Schema};
use crate::job::JobState;
use crate::workflow::{limits, sizes};

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

/// What stands around `input`.
fn request() -> Schema {
    envelope(Schema::either([
        input(),
        Schema::text().means("The same object as a text."),
    ]))
}

pub(super) fn envelope(input: Schema) -> Schema {
    let policy = Schema::object()
        .takes(
            "executionTimeout",
            Schema::integer(&EXECUTION_TIMEOUT_MS).means("The longest time of execution, in milliseconds."),
        )
        .takes(
            "ttl",
            Schema::integer(&TTL_MS).means("The longest time from coming to end, in milliseconds."),
        )
        .takes("lowPriority", Schema::truth().means("The same as a `priority` of -1."));
    Schema::object()
        .needs("input", input)
        .takes("policy", policy)
        .takes(
            "webhook",
            Schema::address().means("Where the answer is posted at the job's end: an http or https address."),
        )
        .takes("priority", Schema::integer(&PRIORITY).or(0).means("Higher is sooner."))
        .takes("s3Config", s3_config())
        .named("RunpodRequest")
}

fn s3_config() -> Schema {
    Schema::object()
        .needs("endpointUrl", Schema::address())
        .needs("accessId", Schema::text().with("minLength", 1))
        .needs("accessSecret", Schema::text().with("minLength", 1))
        .takes("bucketName", Schema::text())
        .takes("region", Schema::text())
        .means("A bucket for the results.")
        .named("RunpodS3Config")
}

pub(super) fn input() -> Schema {
    let image = || {
        Schema::object()
            .takes("name", Schema::text().means("The name under which LoadImage finds it."))
            .needs("image", Schema::picture())
    };
    let one_image = || {
        let several = Schema::list(Schema::either([Schema::picture(), image()]));
        Schema::either([Schema::picture(), image(), several])
    };
    let lora = Schema::object()
        .needs("name", Schema::text().means("The file, as in ComfyUI's loras folder."))
        .takes("strength", Schema::number(&limits::LORA_STRENGTH).or(1.0));
    let side = || Schema::integer(&limits::SIDE).means("In pixels.");
    Schema::object()
        .means("Either `workflow`, or `prompt` with what goes with it into a template.")
        .takes(
            "workflow",
            Schema::either([Schema::object(), Schema::text()]).means("A ComfyUI graph in API format."),
        )
        .takes("prompt", Schema::prompt())
        .takes(
            "template",
            Schema::text()
                .means("The template that a prompt goes into; by default one that edits where there are images."),
        )
        .takes(
            "negative_prompt",
            Schema::text().means("What the picture does not show."),
        )
        .takes("seed", Schema::seed())
        .takes("width", side())
        .takes("height", side())
        .takes(
            "size",
            Schema::text().means("`WIDTHxHEIGHT` or `WIDTH*HEIGHT`, or `auto`: in place of width and height."),
        )
        .takes(
            "megapixels",
            Schema::number(&limits::MEGAPIXELS)
                .means("The size, with the shape of the first image, in place of width and height."),
        )
        .takes(
            "aspect_ratio",
            Schema::one_of(sizes::aspect_ratios()).means("In place of width and height."),
        )
        .takes("steps", Schema::integer(&limits::STEPS).means("Sampling steps."))
        .takes(
            "num_inference_steps",
            Schema::integer(&limits::STEPS).means("The same as `steps`."),
        )
        .takes(
            "cfg",
            Schema::number(&limits::CFG).means("Classifier-free guidance scale."),
        )
        .takes("guidance", Schema::number(&limits::CFG).means("The same as `cfg`."))
        .takes(
            "guidance_scale",
            Schema::number(&limits::CFG).means("The same as `cfg`."),
        )
        .takes(
            "batch_size",
            Schema::integer(&limits::BATCH_SIZE).means("How many pictures."),
        )
        .takes(
            "loras",
            Schema::list(Schema::either([Schema::text(), lora])).with("maxItems", limits::LORAS),
        )
        .takes(
            "images",
            Schema::either([
                Schema::list(Schema::either([Schema::picture(), image()])).with("maxItems", MOST_IMAGES),
                Schema::picture(),
            ])
            .means("The images; with a prompt alone, those that it edits."),
        )
        .takes("image", one_image().means("An image before those of `images`."))
        .takes("image_url", one_image().means("The same as `image`."))
        .takes(
            "enable_safety_checker",
            Schema::truth().means("Whether the pictures are judged, where an endpoint for that is configured."),
        )
        .takes(
            "enable_base64_output",
            Schema::truth().means("`true`: the same as `return_images_as` of `base64`."),
        )
        .takes(
            "enable_sync_mode",
            Schema::truth().means("Has no effect: the route says whether to wait."),
        )
        .takes("return_images_as", Schema::one_of(ReturnImagesAs::NAMES))
        .takes("output_format", Schema::one_of(ImageFormat::NAMES))
        .takes(
            "quality",
            Schema::integer(&limits::QUALITY).means("Quality of a JPEG or WebP."),
        )
        .takes(
            "comfy_org_api_key",
            Schema::text().means("The key for ComfyUI's API nodes."),
        )
        .takes(
            "api_key_comfy_org",
            Schema::text().means("The same as `comfy_org_api_key`."),
        )
        .takes("s3Config", s3_config())
        .takes(
            "stream",
            Schema::truth()
                .or(false)
                .means("For RunPod's queue: progress goes to `/stream`."),
        )
        .takes(
            "refresh_worker",
            Schema::truth()
                .or(false)
                .means("For RunPod's queue: a clean worker takes over afterwards."),
        )
        .named("RunpodInput")
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Map, Value, json};

    use super::*;
    use crate::dialect::runpod::{envelope as parser, input as input_parser};
    use crate::dialect::schema::tests::agrees;

    #[test]
    fn the_schema_of_the_input_agrees_with_the_parser() {
        agrees(input(), &json!({"prompt": "a fox"}), |input| {
            let input: Map<String, Value> = input.as_object().cloned().expect("an object");
            input_parser::parse(input).is_ok()
        });
    }

    #[test]
    fn the_schema_around_the_input_agrees_with_the_parser() {
        let around = envelope(Schema::object()).into_value();
        // What RunPod's queue adds is passed over.
        let ours = |name: &&str| !["id", "webhookV2"].contains(name);
        let known: BTreeSet<_> = parser::FIELDS.iter().copied().filter(ours).collect();
        assert_eq!(names(&around), known);
        let policy: BTreeSet<_> = parser::POLICY_FIELDS.iter().copied().collect();
        assert_eq!(names(&around["properties"]["policy"]), policy);
    }

    fn names(schema: &Value) -> BTreeSet<&str> {
        let fields = schema["properties"].as_object().expect("fields");
        fields.keys().map(String::as_str).collect()
    }
}
