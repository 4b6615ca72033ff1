//! `output` of a completed job, in the form of worker-comfyui 5.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::dialect::answer::Splices;
use crate::dialect::links::pictures;
use crate::dialect::schema::Schema;
use crate::job::{FileKind, Outcome, OutputFile, OutputText};

/// What a job made.
#[derive(Serialize, ToSchema)]
pub(super) struct Output<'a> {
    /// `success_no_images`, where nothing was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    images: Vec<File<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<Entry<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    texts: &'a [OutputText],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// The template that was filled, where the request is a prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<&'a str>,
    /// The engine elsewhere that made it, at a front.
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<&'a str>,
    /// The graph that ran, where `return_workflow` asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = graph)]
    workflow: Option<&'a Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
    /// Where the picture is, if one was made and it has an address: as RunPod's public endpoints say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_url: Option<String>,
    /// The same; or a data URI, where the request uses an `enable_…` field and there is no address.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct File<'a> {
    filename: &'a str,
    subfolder: &'a str,
    /// `base64`, `s3_url`, or ComfyUI's folder.
    #[serde(rename = "type")]
    form: &'static str,
    /// Base64, or the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Cow<'a, str>>,
}

/// A file of any kind. The base64 of an image stands under `images` and not here again.
#[derive(Serialize, ToSchema)]
struct Entry<'a> {
    #[schema(value_type = String)]
    kind: FileKind,
    node_id: &'a str,
    #[serde(flatten)]
    file: File<'a>,
}

impl<'a> File<'a> {
    /// `hold` gives what stands for base64.
    fn of(file: &'a OutputFile, hold: impl FnOnce(Bytes) -> Option<String>) -> Self {
        let (form, data) = match (&file.url, &file.base64) {
            (Some(url), _) => ("s3_url", Some(Cow::Borrowed(url.as_str()))),
            (None, Some(text)) => ("base64", hold(text.clone()).map(Cow::Owned)),
            (None, None) => (file.folder.as_str(), None),
        };
        Self {
            filename: &file.filename,
            subfolder: &file.subfolder,
            form,
            data,
        }
    }
}

/// `link` gives the address of a file that is in no bucket, by its place among the files, where there is one.
pub(super) fn output<'a>(
    outcome: &'a Outcome,
    splices: &mut Splices,
    link: impl Fn(usize, &OutputFile) -> Option<String>,
) -> Output<'a> {
    let is_image = |file: &OutputFile| file.kind == FileKind::Image;
    // Splices are filled in the order of the body: images come before the files.
    let images: Vec<_> = outcome
        .wanted()
        .filter(|file| is_image(file))
        .map(|file| File::of(file, |text| Some(splices.insert(text))))
        .collect();
    let files: Vec<_> = outcome
        .wanted()
        .map(|file| Entry {
            kind: file.kind,
            node_id: &file.node_id,
            file: File::of(file, |text| (!is_image(file)).then(|| splices.insert(text))),
        })
        .collect();
    let picture = only(pictures(outcome));
    let image_url = picture.and_then(|(index, file)| file.url.clone().or_else(|| link(index, file)));
    // It is here a second time, so only for those who read nothing else.
    let held = picture.filter(|_| image_url.is_none() && outcome.picture_url);
    let held = held.and_then(|(_, file)| {
        let text = file.base64.clone()?;
        Some(format!("data:{};base64,{}", file.media_type(), splices.insert(text)))
    });
    Output {
        // As worker-comfyui says it: texts are no files.
        status: files.is_empty().then_some("success_no_images"),
        images,
        files,
        texts: &outcome.texts,
        seed: outcome.seed,
        template: outcome.template.as_deref(),
        engine: outcome.engine.as_deref(),
        workflow: outcome.workflow.as_ref(),
        warnings: &outcome.warnings,
        result: image_url.clone().or(held),
        image_url,
    }
}

fn graph() -> Schema {
    Schema::object()
}

/// The only one, where there is one and no other.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    first.filter(|_| items.next().is_none())
}
