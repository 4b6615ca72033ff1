//! What the routes take and answer, for their documentation.

use super::Operation as Kind;
use super::form::IMAGE_PARTS;
use super::input::{COMPRESSION, EDIT_SIDE, PARTIALS, PICTURES, QUALITIES};
use super::models::{MODELS, STAND_INS};
use crate::config::ImageFormat;
use crate::dialect::schema::{EVENTS, FORM, JSON, Operation, Schema};
use crate::workflow::limits;

/// `POST /v1/images/generations`.
pub fn generations() -> Operation {
    pictures_from(Kind::Generate)
}

/// `POST /v1/images/edits`.
pub fn edits() -> Operation {
    pictures_from(Kind::Edit)
}

/// `POST /v1/images/variations`.
pub fn variations() -> Operation {
    pictures_from(Kind::Vary)
}

/// `GET /v1/models`.
pub fn models() -> Operation {
    Operation::answers(
        Schema::object()
            .needs("object", Schema::one_of(["list"]))
            .needs("data", Schema::list(listed())),
    )
}

/// `GET /v1/models/{model}`.
pub fn model() -> Operation {
    Operation::answers(listed())
}

fn listed() -> Schema {
    Schema::object()
        .needs("id", Schema::text())
        .needs("object", Schema::one_of(["model"]))
        .needs("created", Schema::count())
        .needs("owned_by", Schema::text())
        .named("OpenAiModel")
}

fn pictures_from(kind: Kind) -> Operation {
    let events = "With `stream`: server-sent events, `image_generation.partial_image` and `image_generation.completed`, or `image_edit.…` where pictures are edited; `error` where it fails.";
    Operation::default()
        .body(JSON, request(kind))
        .body(FORM, form(kind))
        .reply(200, "The pictures.", JSON, answer())
        .reply(200, events, EVENTS, Schema::event())
}

pub(super) fn request(kind: Kind) -> Schema {
    let image = || {
        let place = Schema::object().takes("image_url", Schema::picture());
        Schema::either([Schema::picture(), place])
    };
    let images = Schema::either([image(), Schema::list(image()).with("maxItems", most_images())])
        .means("The picture, or a list of pictures, as many as the model takes.");
    let request = match kind {
        Kind::Generate | Kind::Edit => common().needs("prompt", Schema::prompt()),
        Kind::Vary => common(),
    };
    let request = match kind {
        Kind::Generate => request.takes("image", images.clone()),
        // Either name will do; without both the parser complains of `image`.
        Kind::Edit | Kind::Vary => request.takes("image", images.clone()).with(
            "anyOf",
            serde_json::json!([{"required": ["image"]}, {"required": ["images"]}]),
        ),
    };
    let request = request.takes("images", images.means("The same as `image`."));
    request
        .takes("mask", Schema::either([image(), Schema::list(image())]).means(MASK))
        .takes(
            "mask_image",
            Schema::either([image(), Schema::list(image())]).means("The same as `mask`."),
        )
        .named(match kind {
            Kind::Generate => "OpenAiGeneration",
            Kind::Edit => "OpenAiEdit",
            Kind::Vary => "OpenAiVariation",
        })
}

const MASK: &str = "A picture of the first picture's size: what is transparent in it is changed, the rest stays.";

fn form(kind: Kind) -> Schema {
    let images = || Schema::list(Schema::file()).means("Pictures: files, or texts as in JSON.");
    let form = match kind {
        Kind::Generate | Kind::Edit => common().needs("prompt", Schema::prompt()),
        Kind::Vary => common(),
    };
    IMAGE_PARTS
        .iter()
        .fold(form, |form, name| form.takes(name, images()))
        .takes("mask", Schema::file().means(MASK))
        .takes("mask_image", Schema::file().means("The same as `mask`."))
        .named(match kind {
            Kind::Generate => "OpenAiGenerationForm",
            Kind::Edit => "OpenAiEditForm",
            Kind::Vary => "OpenAiVariationForm",
        })
}

fn most_images() -> usize {
    MODELS.iter().map(|model| model.images).max().unwrap_or_default()
}

/// The fields of every request.
fn common() -> Schema {
    let names: Vec<&str> = MODELS
        .iter()
        .map(|model| model.id)
        .chain(STAND_INS.iter().copied())
        .collect();
    let size = format!(
        "`WIDTHxHEIGHT` in pixels, each side from {} to {} where a picture is edited, else from {} to {}, or `auto`.",
        EDIT_SIDE.start(),
        EDIT_SIDE.end(),
        limits::SIDE.start(),
        limits::SIDE.end()
    );
    let steps =
        || Schema::integer(&limits::STEPS).means("Sampling steps; more than 8 mean the model without Lightning.");
    Schema::object()
        .takes(
            "model",
            Schema::text()
                .with("examples", names)
                .means("The model, with or without `Qwen/`; OpenAI's names, `gpt-image-…` and `chatgpt-image-…` of any version among them, stand for the usual one."),
        )
        .takes("n", Schema::integer(&PICTURES).or(1).means("How many pictures."))
        .takes("size", Schema::text().or("auto").means(size))
        .takes("seed", Schema::seed())
        .takes(
            "response_format",
            Schema::one_of(["url", "b64_json"])
                .means("Links to the pictures, or the pictures in base64. By default both; `b64_json` alone for `gpt-image-…` and `chatgpt-image-…`, `url` alone for DALL-E's names where no picture is edited."),
        )
        .takes("output_format", Schema::one_of(ImageFormat::NAMES))
        .takes(
            "output_compression",
            Schema::integer(&COMPRESSION).means("Quality of a JPEG or WebP."),
        )
        .takes(
            "quality",
            Schema::one_of(QUALITIES)
                .or("auto")
                .means(
                    "Steps: 4, 8 (or 4, by the model), or all with guidance. By default what the other fields ask for.",
                ),
        )
        .takes("background", Schema::one_of(["auto", "opaque"]).or("auto"))
        .takes(
            "negative_prompt",
            Schema::text().means("What the picture does not show."),
        )
        .takes("steps", steps())
        .takes(
            "num_inference_steps",
            steps().means("The same as `steps`, which comes first."),
        )
        .takes(
            "guidance_scale",
            Schema::number(&limits::CFG).means("How closely to follow the prompt."),
        )
        .takes("stream", Schema::truth().or(false).means("Answer with events."))
        .takes(
            "partial_images",
            Schema::integer(&PARTIALS)
                .or(0)
                .means("Pictures of the work in progress among the events."),
        )
}

fn answer() -> Schema {
    let picture = Schema::object()
        .takes(
            "url",
            Schema::text().with("format", "uri").means("Where the picture is."),
        )
        .takes(
            "b64_json",
            Schema::text().means("Base64, or a data URI with OPENAI_B64_DATA_URI."),
        );
    let usage = ["input_tokens", "output_tokens", "total_tokens"]
        .into_iter()
        .fold(Schema::object(), |usage, name| usage.needs(name, Schema::count()))
        .needs(
            "input_tokens_details",
            Schema::object()
                .needs("text_tokens", Schema::count())
                .needs("image_tokens", Schema::count()),
        );
    Schema::object()
        .needs("created", Schema::count().means("Seconds since 1970."))
        .needs("data", Schema::list(picture))
        .takes("size", Schema::text())
        .needs("quality", Schema::one_of(["low", "medium", "high"]))
        .needs("background", Schema::one_of(["opaque"]))
        .needs("output_format", Schema::one_of(ImageFormat::NAMES))
        .takes("seed", Schema::count())
        .needs("usage", usage.means("Always 0: nothing is counted in tokens."))
        .takes(
            "warnings",
            Schema::list(Schema::text()).means("What you should know although the pictures were made."),
        )
        .named("OpenAiImages")
}

/// An error.
pub fn error() -> Schema {
    let error = Schema::object()
        .needs("message", Schema::text())
        .needs("type", Schema::text())
        .needs(
            "param",
            Schema::text().means("The field at fault, else the request's id."),
        )
        .needs("code", Schema::text());
    Schema::object().needs("error", error).named("OpenAiError")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::ReturnImagesAs;
    use crate::dialect::openai::{Body, Options, parse};
    use crate::dialect::schema::tests::agrees;

    /// A PNG of one pixel.
    const PIXEL: &str =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

    fn takes(kind: Kind, body: &Value) -> bool {
        let options = Options {
            url_form: ReturnImagesAs::Metadata,
            data_uri: false,
        };
        let body = Body::Json(body.to_string().into_bytes().into());
        parse(kind, body, options).is_ok()
    }

    #[test]
    fn the_schemas_agree_with_the_parser() {
        for kind in [Kind::Generate, Kind::Edit] {
            let usual = json!({"prompt": "a fox", "image": PIXEL});
            agrees(request(kind), &usual, |body| takes(kind, body));
        }
        agrees(request(Kind::Vary), &json!({"image": PIXEL}), |body| {
            takes(Kind::Vary, body)
        });
    }
}
