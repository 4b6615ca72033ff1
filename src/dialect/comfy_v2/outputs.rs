//! Outputs of jobs, which are assets too.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use utoipa::ToSchema;

use super::time::time;
use crate::dialect::schema::Schema;
use crate::job::{Committed, FileKind, JobView, Source, shown_as};

/// The media type of texts.
const TEXT: &str = "text/plain; charset=utf-8";

/// Where a client finds the content of an asset, and until when.
pub type ContentLink = Arc<dyn Fn(&str) -> (String, SystemTime) + Send + Sync>;

/// Where an answer's links lead.
#[derive(Clone)]
pub struct Places {
    /// What stands before the paths of this API where clients see it: nothing, or the folder of `PUBLIC_URL`.
    pub prefix: String,
    /// Where contents are.
    pub content: ContentLink,
    /// How long jobs are kept.
    pub kept: Duration,
}

impl Places {
    /// Until when a job is there at least.
    pub(super) fn expires(&self, view: &JobView) -> SystemTime {
        view.created + self.kept
    }
}

/// An output of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Output)]
pub(super) struct Output<'a> {
    /// The output node's id.
    node_id: &'a str,
    name: &'a str,
    #[serde(rename = "type")]
    #[schema(schema_with = kinds)]
    kind: &'static str,
    content_type: &'static str,
    size_bytes: u64,
    /// By which it can be asked for as an asset, and named in the graphs of other jobs.
    id: &'a str,
    /// `blake3:` and 64 hexadecimal digits.
    #[schema(required)]
    hash: Option<String>,
    /// Where its content is, for whoever has this address.
    url: String,
    url_expires_at: String,
    job_id: &'a str,
}

fn kinds() -> Schema {
    Schema::one_of(["image", "video", "audio", "text", "file", "latent"])
}

impl<'a> Output<'a> {
    pub(super) fn of(view: &'a JobView, output: &'a Committed, places: &Places) -> Self {
        let (url, expires) = (places.content)(&output.id);
        Self {
            node_id: &output.node_id,
            name: &output.name,
            kind: kind(output),
            content_type: content_type(output),
            size_bytes: output.bytes,
            id: &output.id,
            hash: output.hash.map(|hash| hash.to_string()),
            url,
            url_expires_at: time(expires),
            job_id: view.id.as_str(),
        }
    }
}

/// The media type of an output.
pub fn content_type(output: &Committed) -> &'static str {
    match output.source {
        Source::File { .. } => shown_as(&output.name),
        Source::Text(_) => TEXT,
    }
}

/// When an output was there.
pub fn created(output: &Committed) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(output.at)
}

fn kind(output: &Committed) -> &'static str {
    match output.kind() {
        FileKind::Image => "image",
        FileKind::Video => "video",
        FileKind::Audio => "audio",
        FileKind::Text => "text",
        FileKind::Model3d | FileKind::Other if output.name.ends_with(".latent") => "latent",
        FileKind::Model3d | FileKind::Other => "file",
    }
}
