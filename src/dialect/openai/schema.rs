//! What the routes take and answer, for their documentation.

use super::Operation as Kind;
use super::fields::{form, request};
use crate::config::ImageFormat;
use crate::dialect::schema::{EVENTS, FORM, JSON, Operation, Schema};

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
