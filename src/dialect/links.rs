//! Where the owner of a job finds its files.

use std::time::Duration;

use url::Url;

use crate::delivery::links::FileLinks;
use crate::job::{FileKind, JobView, Outcome, OutputFile};

/// Addresses of files, for one answer.
#[derive(Debug, Clone, Copy)]
pub struct Links<'a> {
    /// Makes links to this worker.
    pub files: &'a FileLinks,
    /// Where they begin.
    pub base: &'a Url,
    /// How long they work after the job's end.
    pub lifetime: Duration,
}

impl Links<'_> {
    /// The address of the file at `index` of those that the answer names: the bucket's, or ours.
    pub(super) fn of(&self, view: &JobView, index: usize, file: &OutputFile) -> String {
        if let Some(url) = &file.url {
            return url.clone();
        }
        let end = view.created + view.delay + view.execution;
        let (job, name) = (view.id.as_str(), &file.filename);
        self.files.url(self.base, job, index, name, end, self.lifetime).into()
    }
}

/// The pictures of an outcome, each with its place among the files that an answer names.
pub(super) fn pictures(outcome: &Outcome) -> impl Iterator<Item = (usize, &OutputFile)> {
    outcome
        .wanted()
        .enumerate()
        .filter(|(_, file)| file.kind == FileKind::Image)
}

/// Links with a key that is new each time, for tests.
#[cfg(test)]
pub(super) struct TestLinks {
    files: FileLinks,
    base: Url,
    lifetime: Duration,
}

#[cfg(test)]
impl TestLinks {
    pub(super) fn new(lifetime: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            files: FileLinks::open(folder.path(), lifetime).expect("a key"),
            base: "http://127.0.0.1:8188".parse().expect("an address"),
            lifetime,
        }
    }

    pub(super) fn links(&self) -> Links<'_> {
        Links {
            files: &self.files,
            base: &self.base,
            lifetime: self.lifetime,
        }
    }
}
