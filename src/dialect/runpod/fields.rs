//! The fields of a request.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::config::{Fallback, ImageFormat, ReturnImagesAs};
use crate::dialect::field::{Described, Field, Object, Seed, fields, number, prompt, seed, shaped, text, truth};
use crate::dialect::loras;
use crate::dialect::schema::{SCENE, Schema};
use crate::job::MOST_IMAGES;
use crate::workflow::{ControlType, limits};

const WEEK_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// RunPod's range of `policy.executionTimeout`, in milliseconds
/// (docs.runpod.io/serverless/endpoints/send-requests, execution policies).
const EXECUTION_TIMEOUT_MS: RangeInclusive<u64> = 5_000..=WEEK_MS;
/// RunPod's range of `policy.ttl`, in milliseconds (the same page).
const TTL_MS: RangeInclusive<u64> = 10_000..=WEEK_MS;

fields! {
    /// What stands around `input`. `priority` is ours.
    ENVELOPE:
    INPUT: Value = shaped("input", || Schema::either([input(), Schema::text().means("The same object as a text.")])).required();
    POLICY: Object = shaped("policy", || Schema::object().fields(POLICY_FIELDS));
    WEBHOOK: String = shaped("webhook", Schema::address)
        .means("Where the answer is posted at the job's end: an http or https address.");
    PRIORITY: i32 = number("priority", -100..=100).or(0).means("Higher is sooner.");
    S3_CONFIG: Object = shaped("s3Config", s3_config);
}

fields! {
    POLICY_FIELDS:
    EXECUTION_TIMEOUT: u64 = number("executionTimeout", EXECUTION_TIMEOUT_MS)
        .means("The longest time of execution, in milliseconds.");
    TTL: u64 = number("ttl", TTL_MS).means("The longest time from coming to end, in milliseconds.");
    LOW_PRIORITY: bool = truth("lowPriority").means("The same as a `priority` of -1.");
    FALLBACK: String = shaped("fallback", || Schema::one_of(Fallback::WORDS))
        .means("At a front: what becomes of a job that its engine does not run. Not set: FALLBACK.");
}

fields! {
    /// A bucket of the user's, as RunPod documents it (docs.runpod.io/serverless/endpoints/send-requests, S3-compatible
    /// storage integration); `region` is ours.
    S3_FIELDS:
    ENDPOINT_URL: String = shaped("endpointUrl", Schema::address).required();
    ACCESS_ID: String = shaped("accessId", Schema::said).required();
    ACCESS_SECRET: String = shaped("accessSecret", Schema::said).required();
    BUCKET_NAME: String = text("bucketName");
    REGION: String = text("region");
}

fields! {
    /// The fields of `input` that go with a graph too.
    COMMON:
    WORKFLOW: Value = shaped("workflow", || Schema::either([Schema::object(), Schema::text()]))
        .means("A ComfyUI graph in API format, or a workflow as ComfyUI's page saves it; also as a text.");
    INPUTS: Object = shaped("inputs", Schema::object)
        .means("The inputs that a saved workflow names (an app's `.app.json`), by their names.");
    RETURN_WORKFLOW: bool = truth("return_workflow").or(false)
        .means("Whether `output.workflow` holds the graph that ran.");
    PROMPT: String = prompt();
    IMAGES: Value = shaped("images", || Schema::either([several_images(), Schema::picture()]))
        .means("The images; with a prompt alone, those that it edits.");
    FILES: Value = shaped("files", several_files)
        .means("Files for a graph: audio, video, 3D models, latents, images. What each is, its content tells.");
    AUDIOS: Value = shaped("audios", several_files).means("The same as `files`.");
    VIDEOS: Value = shaped("videos", several_files).means("The same as `files`.");
    COMFY_ORG_API_KEY: String = text("comfy_org_api_key").means("The key for ComfyUI's API nodes.");
    API_KEY_COMFY_ORG: String = text("api_key_comfy_org").means("The same as `comfy_org_api_key`.");
    RETURN_IMAGES_AS: String = shaped("return_images_as", || Schema::one_of(ReturnImagesAs::NAMES));
    OUTPUT_FORMAT: String = shaped("output_format", || Schema::one_of(ImageFormat::NAMES));
    QUALITY: u8 = number("quality", limits::QUALITY).means("Quality of a JPEG or WebP.");
    /// Here too, where a client cannot put it beside `input`.
    S3_CONFIG_WITHIN: Object = S3_CONFIG;
    STREAM: bool = truth("stream").or(false).means("For RunPod's queue: progress goes to `/stream`.");
    REFRESH_WORKER: bool = truth("refresh_worker").or(false)
        .means("For RunPod's queue: a clean worker takes over afterwards.");
    IMAGE: Value = shaped("image", one_image).means("An image before those of `images`.");
    IMAGE_URL: Value = shaped("image_url", one_image).means("The same as `image`.");
    ENABLE_SAFETY_CHECKER: bool = truth("enable_safety_checker")
        .means("Whether the pictures are judged, where an endpoint for that is configured.");
    ENABLE_BASE64_OUTPUT: bool = truth("enable_base64_output")
        .means("`true`: the same as `return_images_as` of `base64`.");
    ENABLE_SYNC_MODE: bool = truth("enable_sync_mode").means("Has no effect: the route says whether to wait.");
}

fields! {
    /// The fields of `input` that only a template can use.
    OF_TEMPLATE:
    NEGATIVE_PROMPT: String = text("negative_prompt").means("What the picture does not show.");
    SEED: Seed = seed(0..=u64::MAX);
    WIDTH: u32 = number("width", limits::SIDE).means("In pixels.");
    HEIGHT: u32 = number("height", limits::SIDE).means("In pixels.");
    MEGAPIXELS: f64 = number("megapixels", limits::MEGAPIXELS)
        .means("The size, with the shape of the first image, in place of width and height.");
    ASPECT_RATIO: String = shaped("aspect_ratio", || Schema::one_of(limits::aspect_ratios()))
        .means("In place of width and height.");
    STEPS: u32 = number("steps", limits::STEPS).means("Sampling steps.");
    CFG: f64 = number("cfg", limits::CFG).means("Classifier-free guidance scale.");
    DENOISE: f64 = number("denoise", limits::DENOISE)
        .means("How much of the first image is drawn anew, where a template starts from it; 1 is all of it.");
    MASK: String = shaped("mask", Schema::maybe_picture)
        .means("A PNG of the first image's size: what is transparent in it is changed, the rest stays.");
    BATCH_SIZE: u32 = number("batch_size", limits::BATCH_SIZE).means("How many pictures.");
    LAYERS: u32 = number("layers", limits::LAYERS).means("Into how many layers a picture is taken apart.");
    CONTROL: Object = shaped("control", control);
    LORAS: Vec<Value> = shaped("loras", loras::schema)
        .means("LoRAs after the template's own, in this order.");
    TEMPLATE: String = text("template")
        .means("The template that a prompt goes into; by default one that edits where there are images.");
    SIZE: String = text("size")
        .means("`WIDTHxHEIGHT` or `WIDTH*HEIGHT`, or `auto`: in place of width and height.");
    NUM_INFERENCE_STEPS: u32 = number("num_inference_steps", limits::STEPS).means("The same as `steps`.");
    GUIDANCE: f64 = number("guidance", limits::CFG).means("The same as `cfg`.");
    GUIDANCE_SCALE: f64 = number("guidance_scale", limits::CFG).means("The same as `cfg`.");
}

fields! {
    /// An entry of `images`, `files`, `audios` or `videos`: the name, and the content under one of the others.
    ENTRY_FIELDS:
    ENTRY_NAME: String = text("name").means("The name under which a loader of the graph finds it.");
    ENTRY_IMAGE: String = shaped("image", Schema::any_file).required();
    ENTRY_FILE: String = shaped("file", Schema::any_file).required();
    ENTRY_AUDIO: String = shaped("audio", Schema::any_file).required();
    ENTRY_VIDEO: String = shaped("video", Schema::any_file).required();
}

/// Where the content of an entry may stand.
pub(super) const CONTENTS: [&Field<String>; 4] = [&ENTRY_IMAGE, &ENTRY_FILE, &ENTRY_AUDIO, &ENTRY_VIDEO];

fields! {
    /// A control picture.
    CONTROL_FIELDS:
    CONTROL_IMAGE: String = shaped("image", Schema::maybe_picture)
        .means("The picture, of any size; without it the first of `images`.");
    CONTROL_TYPE: String = shaped("type", || Schema::one_of(ControlType::names()))
        .means("What is drawn from it, as far as a node for that is installed, and taken as it is otherwise: `canny` always is drawn, `ready` never.");
    CONTROL_STRENGTH: f64 = number("strength", limits::CONTROL_STRENGTH).means("How strongly it counts.");
}

/// The body of a request.
pub fn request() -> Schema {
    Schema::object()
        .fields(ENVELOPE)
        .example(json!({ INPUT.name: example() }))
        .named("Request")
}

pub(super) fn input() -> Schema {
    Schema::object()
        .means("Either `workflow`, or `prompt` with what goes with it into a template.")
        .fields(COMMON)
        .fields(OF_TEMPLATE)
        .example(example())
        .named("Input")
}

fn example() -> Value {
    json!({ PROMPT.name: SCENE })
}

fn s3_config() -> Schema {
    let bucket = Schema::object()
        .fields(S3_FIELDS)
        .means("A bucket for the results.")
        .named("S3Config");
    // An empty one is none.
    Schema::either([bucket, Schema::object().with("maxProperties", 0)])
}

fn image() -> Schema {
    entry(Schema::picture())
}

fn several_images() -> Schema {
    Schema::list(image()).with("maxItems", MOST_IMAGES)
}

fn several_files() -> Schema {
    let files = Schema::list(entry(Schema::any_file())).with("maxItems", MOST_IMAGES);
    Schema::either([files, Schema::any_file()])
}

/// The content alone, or a name and the content.
fn entry(content: Schema) -> Schema {
    let named = CONTENTS.map(|content| Schema::object().fields(&[&ENTRY_NAME as &dyn Described, content]));
    Schema::either([content].into_iter().chain(named))
}

fn one_image() -> Schema {
    Schema::either([image(), Schema::list(image())])
}

fn control() -> Schema {
    Schema::object()
        .fields(CONTROL_FIELDS)
        .means("A control picture, for templates that go by one.")
        .named("Control")
}
