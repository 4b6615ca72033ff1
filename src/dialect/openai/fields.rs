//! The fields of a request.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use super::Operation;
use super::models::{MODELS, STAND_INS, each};
use crate::config::ImageFormat;
use crate::dialect::field::{Described, Field, Seed, fields, number, prompt, seed, shaped, text, truth};
use crate::dialect::loras;
use crate::dialect::schema::{BALL, CHANGE, SCENE, Schema};
use crate::workflow::limits;

/// How many pictures one request may ask for (openai-openapi 2.3.0, `n`).
const PICTURES: RangeInclusive<u32> = 1..=10;
/// How many pictures of work in progress it may ask for (openai-openapi 2.3.0, `partial_images`).
const PARTIALS: RangeInclusive<u32> = 0..=3;
/// Quality of a JPEG or WebP (openai-openapi 2.3.0, `output_compression`).
const COMPRESSION: RangeInclusive<u8> = 0..=100;
/// Sides of a picture that is made from a picture, in pixels, as the specification has them.
pub(super) const EDIT_SIDE: RangeInclusive<u32> = 256..=1536;
/// The words for quality: OpenAI's for GPT image and for DALL-E.
pub(super) const QUALITIES: [&str; 8] = ["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"];
/// The names under which pictures come in a form.
pub(super) const IMAGE_PARTS: &[&str] = &["image", "image[]", "images", "images[]", "url", "url[]"];
/// Those under which masks come.
pub(super) const MASK_PARTS: &[&str] = &[MASK.name, MASK_IMAGE.name];

pub(super) const PROMPT: Field<String> = prompt();

fields! {
    /// The fields that a form has as JSON has them.
    COMMON:
    MODEL: String = shaped("model", model)
        .means("The model, with or without `Qwen/`; OpenAI's names, `gpt-image-…` and `chatgpt-image-…` of any version among them, stand for the usual one.");
    N: u32 = number("n", PICTURES).or(1).means("How many pictures.");
    SIZE: String = shaped("size", size).or("auto");
    SEED: Seed = seed(0..=u64::MAX);
    RESPONSE_FORMAT: String = shaped("response_format", || Schema::one_of(["url", "b64_json"]))
        .means("Links to the pictures, or the pictures in base64. By default both; `b64_json` alone for `gpt-image-…` and `chatgpt-image-…`, `url` alone for DALL-E's names where no picture is edited.");
    OUTPUT_FORMAT: String = shaped("output_format", || Schema::one_of(ImageFormat::NAMES));
    OUTPUT_COMPRESSION: u8 = number("output_compression", COMPRESSION).means("Quality of a JPEG or WebP.");
    QUALITY: String = shaped("quality", || Schema::one_of(QUALITIES)).or("auto")
        .means("Steps: 4, 8 (or 4, by the model), or all with guidance. By default what the other fields ask for.");
    BACKGROUND: String = text("background").or("auto")
        .means("`auto`, or what the model makes: `transparent` for layers, else `opaque`.");
    NEGATIVE_PROMPT: String = text("negative_prompt").means("What the picture does not show.");
    STEPS: u32 = number("steps", limits::STEPS)
        .means("Sampling steps; more than 8 mean the model without Lightning.");
    NUM_INFERENCE_STEPS: u32 = number("num_inference_steps", limits::STEPS)
        .means("The same as `steps`, which comes first.");
    GUIDANCE_SCALE: f64 = number("guidance_scale", limits::CFG).means("How closely to follow the prompt.");
    LORAS: Value = shaped("loras", loras::any_schema)
        .means("LoRAs by name or by URL, which OpenAI's API does not have. In a form, a text of JSON.");
    STREAM: bool = truth("stream").or(false).means("Answer with events.");
    PARTIAL_IMAGES: u32 = number("partial_images", PARTIALS).or(0)
        .means("Pictures of the work in progress among the events.");
}

fields! {
    /// Pictures, as JSON has them.
    IN_JSON:
    IMAGE: Value = shaped("image", images).means("The picture, or a list of pictures, as many as the model takes.");
    IMAGES: Value = shaped("images", images).means("The same as `image`.");
    MASK: Value = shaped("mask", || Schema::either([image(), Schema::list(image())]))
        .means("A picture of the first picture's size: what is transparent in it is changed, the rest stays.");
    MASK_IMAGE: Value = shaped("mask_image", || Schema::either([image(), Schema::list(image())]))
        .means("The same as `mask`.");
}

/// Every field.
pub(super) fn all() -> Vec<&'static dyn Described> {
    [COMMON, IN_JSON, &[&PROMPT]].concat()
}

/// The body of a request.
pub fn request(operation: Operation) -> Schema {
    let request = common(operation).fields(IN_JSON);
    let (request, name) = match operation {
        Operation::Generate => (request.example(generation()), "Generation"),
        Operation::Edit => {
            let example = json!({ PROMPT.name: CHANGE, IMAGE.name: BALL });
            (with_image(request).example(example), "Edit")
        }
        Operation::Vary => (with_image(request).example(json!({ IMAGE.name: BALL })), "Variation"),
    };
    request.named(name)
}

/// The same as a form.
pub fn form(operation: Operation) -> Schema {
    let images = || Schema::list(Schema::file()).means("Pictures: files, or texts as in JSON.");
    let mask = |field: &Field<Value>| Schema::file().means(field.meaning());
    let form = IMAGE_PARTS
        .iter()
        .fold(common(operation), |form, name| form.takes(name, images()))
        .takes(MASK.name, mask(&MASK))
        .takes(MASK_IMAGE.name, mask(&MASK_IMAGE));
    // A file stands in no example: it is chosen on the page.
    let (example, name) = match operation {
        Operation::Generate => (generation(), "GenerationForm"),
        Operation::Edit => (json!({ PROMPT.name: CHANGE }), "EditForm"),
        Operation::Vary => (json!({ N.name: 1 }), "VariationForm"),
    };
    form.example(example).named(name)
}

/// An example of a request for a picture from text.
fn generation() -> Value {
    json!({ PROMPT.name: SCENE, SIZE.name: "1024x1024" })
}

/// The fields of every request.
fn common(operation: Operation) -> Schema {
    let common = Schema::object().fields(COMMON);
    match operation {
        Operation::Generate | Operation::Edit => common.fields(&[&PROMPT.required()]),
        Operation::Vary => common,
    }
}

/// Either name will do; without both the parser complains of `image`.
fn with_image(request: Schema) -> Schema {
    request.with(
        "anyOf",
        json!([{"required": [IMAGE.name]}, {"required": [IMAGES.name]}]),
    )
}

fn image() -> Schema {
    let place = Schema::object().takes("image_url", Schema::picture());
    Schema::either([Schema::picture(), place])
}

fn images() -> Schema {
    let most = MODELS.iter().map(|model| model.images).max();
    Schema::either([image(), Schema::list(image()).with("maxItems", most)])
}

fn model() -> Schema {
    let own = each().map(|model| model.id);
    let names: Vec<_> = own.chain(STAND_INS.iter().copied()).collect();
    Schema::text().with("examples", names)
}

fn size() -> Schema {
    let ((low, high), sides) = (EDIT_SIDE.into_inner(), limits::SIDE);
    Schema::text().means(format!(
        "`WIDTHxHEIGHT` in pixels, each side from {low} to {high} where a picture is edited, else from {} to {}, or `auto`.",
        sides.start(),
        sides.end()
    ))
}
