//! The fields of a request. Both APIs have those of a picture: `generate` at the top, `createTask` in `input`.

use serde_json::{Value, json};

use super::PREFIX;
use super::models::{GENERATE, MODELS, TEXT_TO_IMAGE, names};
use crate::dialect::field::{Described as _, Object, Seed, fields, number, prompt, seed, shaped, text, truth};
use crate::dialect::loras;
use crate::dialect::schema::{JOB, SCENE, Schema};
use crate::workflow::limits;

/// Each size with its aspect ratio, by which KIE's newer models call it. Pictures have the size that Qwen-Image was trained
/// for.
pub(super) const SIZES: &[(&str, &str)] = &[
    ("square", "1:1"),
    ("square_hd", "1:1"),
    ("portrait_4_3", "3:4"),
    ("portrait_3_2", "2:3"),
    ("portrait_16_9", "9:16"),
    ("landscape_4_3", "4:3"),
    ("landscape_3_2", "3:2"),
    ("landscape_16_9", "16:9"),
];

/// Each size by its names.
pub(super) fn size_names() -> impl Iterator<Item = &'static str> {
    // `square` and `square_hd` have one ratio.
    let ratios = SIZES.iter().map(|(_, ratio)| *ratio).skip(1);
    SIZES.iter().map(|(name, _)| *name).chain(ratios)
}

fields! {
    /// What stands around the picture in `createTask`.
    TASK:
    MODEL: String = shaped("model", || Schema::one_of(names())).required();
    INPUT: Object = shaped("input", || Schema::object().fields(PICTURE).named("Input")).required();
    CALL_BACK: String = shaped("callBackUrl", || or_nothing(Schema::address()))
        .means("Where the record is posted at the task's end: an http or https address.");
}

fields! {
    /// The fields of a picture. Where a request leaves one out, each model has its own value. The specification leaves the
    /// ranges of steps and guidance open: they are KIE's.
    PICTURE:
    PROMPT: String = prompt().required();
    NEGATIVE_PROMPT: String = text("negative_prompt").means("What the picture does not show.");
    IMAGE: Value = shaped("image_url", images);
    STRENGTH: f64 = number("strength", limits::DENOISE)
        .means("How much of the image is made again, with qwen/image-to-image.");
    IMAGE_SIZE: String = shaped("image_size", || Schema::one_of(size_names()));
    STEPS: u32 = number("num_inference_steps", 1..=250).means("Steps; the accelerated models have their own.");
    GUIDANCE: f64 = number("guidance_scale", 0.0..=20.0)
        .means("How closely to follow the prompt; without effect on the accelerated models.");
    LORA_URLS: Value = shaped("lora_urls", loras::any_schema)
        .means("LoRAs by URL, which KIE's API does not have; or by name.");
    NUM_IMAGES: u32 = number("num_images", 1..=4).or(1).means("How many pictures.");
    SEED: Seed = seed(0..=u64::MAX);
    ACCELERATION: String = shaped("acceleration", acceleration).or("none").means("All steps, 8 or 4.");
    /// The specification's name.
    ACCELERATION_LEVEL: String = shaped("acceleration_level", || acceleration().with("deprecated", true)).or("none")
        .means("All steps, 8 or 4.");
    OUTPUT_FORMAT: String = shaped("output_format", || Schema::one_of(["png", "jpeg", "jpg"])).or("png");
    ENABLE_SAFETY_CHECKER: bool = truth("enable_safety_checker").means(JUDGED);
    NSFW_CHECKER: bool = truth("nsfw_checker").means(JUDGED);
    /// The specification's name.
    SAFETY_CHECK: bool = truth("safety_check").means(JUDGED);
    SYNC_MODE: bool = truth("sync_mode").means("Without effect.");
}

const JUDGED: &str = "Whether a moderation endpoint, where one is configured, looks at the pictures.";

fn acceleration() -> Schema {
    Schema::one_of(["none", "regular", "high"])
}

/// Forms send empty fields.
fn or_nothing(schema: Schema) -> Schema {
    Schema::either([schema, Schema::one_of([""])])
}

fn images() -> Schema {
    let most = MODELS.iter().map(|model| model.images).max().unwrap_or_default();
    // Empty texts in a list do not count, so it may have any number of items.
    let image = || or_nothing(Schema::picture());
    Schema::either([image(), Schema::list(image())]).means(format!(
        "The image that is edited, or up to {most} where the model takes several."
    ))
}

/// `?taskId=`, the task that is asked about.
pub fn task_asked_for() -> Schema {
    let example = format!("{PREFIX}{JOB}");
    Schema::said().means("The task's id.").example(example)
}

/// The body of `createTask`.
pub fn task() -> Schema {
    let input = json!({ PROMPT.name: SCENE, IMAGE_SIZE.name: "square_hd", ACCELERATION.name: "high" });
    Schema::object()
        .fields(TASK)
        .example(json!({ MODEL.name: TEXT_TO_IMAGE.name, INPUT.name: input }))
        .named("Task")
}

/// The body of `generate`, which is a model of its own.
pub fn request() -> Schema {
    Schema::object()
        .fields(PICTURE)
        .takes(IMAGE_SIZE.name, IMAGE_SIZE.schema().or(GENERATE.size))
        .takes(STEPS.name, STEPS.schema().or(GENERATE.steps))
        .takes(GUIDANCE.name, GUIDANCE.schema().or(GENERATE.guidance))
        .fields(&[&CALL_BACK])
        .example(json!({ PROMPT.name: SCENE, IMAGE_SIZE.name: "square_hd" }))
        .named("Request")
}
