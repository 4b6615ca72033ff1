//! `output` of a completed job, in the form of worker-comfyui 5.

use serde::Serialize;

use crate::dialect::answer::Places;
use crate::job::{FileKind, Outcome, OutputFile, OutputFolder, OutputText};

#[derive(Serialize)]
pub(super) struct Output<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    images: Vec<File<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<OtherFile<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    texts: &'a [OutputText],
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct File<'a> {
    filename: &'a str,
    subfolder: &'a str,
    #[serde(rename = "type")]
    form: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
}

#[derive(Serialize)]
struct OtherFile<'a> {
    kind: FileKind,
    node_id: &'a str,
    #[serde(flatten)]
    file: File<'a>,
}

pub(super) fn output<'a>(outcome: &'a Outcome, places: &mut Places) -> Output<'a> {
    // worker-comfyui leaves previews out; where a graph has nothing else, they are its result.
    let kept = outcome.files.iter().any(|file| file.folder == OutputFolder::Output);
    let mut images = Vec::new();
    let mut files = Vec::new();
    let wanted: Vec<_> = outcome
        .files
        .iter()
        .filter(|file| !kept || file.folder == OutputFolder::Output)
        .collect();
    // Places are filled in the order of the body: images come before the other files.
    let (pictures, others): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|file| file.kind == FileKind::Image);
    let mut entry = |file: &'a OutputFile| File {
        filename: &file.filename,
        subfolder: &file.subfolder,
        form: if file.base64.is_some() {
            "base64"
        } else {
            file.folder.as_str()
        },
        data: file.base64.clone().map(|text| places.take(text)),
    };
    for file in pictures {
        images.push(entry(file));
    }
    for file in others {
        files.push(OtherFile {
            kind: file.kind,
            node_id: &file.node_id,
            file: entry(file),
        });
    }
    let nothing = images.is_empty() && files.is_empty() && outcome.texts.is_empty();
    Output {
        status: nothing.then_some("success_no_images"),
        images,
        files,
        texts: &outcome.texts,
        seed: outcome.seed,
        warnings: &outcome.warnings,
    }
}
