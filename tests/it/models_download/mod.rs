//! The download of models, from a Hub on a real socket that does wrong what it is told: the right bytes or a clear error
//! in every case, and never anything else at a file's final name.

mod faults;
mod hashes;
mod resolve;
mod resume;
mod servers;
mod transfer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use qwen_image_worker::config::{Origin, Secret};
use qwen_image_worker::models::download::{Downloader, FetchError, Fetched, Progress, Settings, Source, Wanted};
use qwen_image_worker::net::retry::RetryPolicy;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::support::PATIENCE;
use crate::support::model_hub::{Content, ModelHub, STRANGER, TOKEN};

/// The repository that most tests use.
const REPO: &str = "Comfy-Org/Qwen-Image_ComfyUI";
/// The smallest range that is worth a connection, in bytes.
const RANGE: u64 = 64 * 1024;

/// Settings with short waits and small ranges.
fn settings(hub: &ModelHub) -> Settings {
    Settings {
        endpoint: hub.url.clone(),
        token: None,
        parallel: true,
        connections: 8,
        stall: Duration::from_millis(300),
        retry: RetryPolicy {
            initial: Duration::from_millis(10),
            factor: 2.0,
            longest: Duration::from_millis(50),
            jitter: 0.0,
            attempts: Some(5),
        },
        smallest_range: RANGE,
        guard: None,
    }
}

/// The same for tests that count each request and byte, where a machine that stands still for a moment is no stall.
fn patient(hub: &ModelHub) -> Settings {
    Settings {
        stall: Duration::from_secs(10),
        ..settings(hub)
    }
}

/// The same with a token for the Hub.
fn with_token(hub: &ModelHub, token: &str) -> Settings {
    Settings {
        token: Some(Secret::new(token)),
        ..settings(hub)
    }
}

/// A folder of models.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("models").join(name)
    }

    /// A file of [`REPO`]'s main branch, under its own name.
    fn hub(&self, name: &str) -> Wanted {
        self.hub_file(REPO, "main", name)
    }

    fn hub_file(&self, repo: &str, revision: &str, name: &str) -> Wanted {
        hub_file(&self.path(name), repo, revision, name)
    }

    /// A file of another server.
    fn url(&self, url: &Url, name: &str, token: Option<&str>) -> Wanted {
        Wanted {
            source: Source {
                origin: Origin::Url(url.clone()),
                token: token.map(Secret::new),
            },
            target: self.path(name),
            size: None,
            sha256: None,
        }
    }

    /// Every file there is, by its path, locks apart: they hold nothing.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        collect(self.folder.path(), &self.path(""), &mut files);
        files.sort();
        files
    }

    /// A file is there as it should be, and beside these nothing is.
    #[track_caller]
    fn holds(&self, files: &[(&str, &Content)]) {
        let mut names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        assert_eq!(self.files(), names);
        for (name, content) in files {
            assert_eq!(content.differs(&self.path(name)), None);
        }
    }

    /// Nothing has this name.
    #[track_caller]
    fn lacks(&self, name: &str) {
        assert!(!self.path(name).exists(), "{:?}", self.files());
    }
}

fn collect(folder: &Path, root: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, root, files);
        } else if path.extension().is_none_or(|kind| kind != "lock") {
            let name = path.strip_prefix(root).unwrap_or(&path);
            files.push(name.display().to_string());
        }
    }
}

fn hub_file(target: &Path, repo: &str, revision: &str, path: &str) -> Wanted {
    Wanted {
        source: Source {
            origin: Origin::Hub {
                repo: repo.to_owned(),
                revision: revision.to_owned(),
                path: path.to_owned(),
            },
            token: None,
        },
        target: target.to_owned(),
        size: None,
        sha256: None,
    }
}

/// Fetches files; panics when that has no end.
async fn fetch(settings: Settings, wanted: Vec<Wanted>) -> Vec<Result<Fetched, FetchError>> {
    fetch_until(settings, wanted, |_| {}, CancellationToken::new()).await
}

/// The same for one file.
async fn fetch_one(settings: Settings, wanted: Wanted) -> Result<Fetched, FetchError> {
    fetch(settings, vec![wanted]).await.remove(0)
}

/// The same, with an eye on it.
async fn fetch_until(
    settings: Settings,
    wanted: Vec<Wanted>,
    progress: impl Fn(Progress<'_>) + Send + Sync,
    stop: CancellationToken,
) -> Vec<Result<Fetched, FetchError>> {
    let downloader = Downloader::new(settings).expect("a client");
    let expected = wanted.clone();
    let results = tokio::time::timeout(PATIENCE, downloader.fetch(wanted, &progress, stop)).await;
    let (wanted, results): (Vec<_>, Vec<_>) = results.expect("it comes to an end").into_iter().unzip();
    assert_eq!(wanted, expected);
    results
}

/// A file and what it holds, on the Hub's main branch.
fn on_hub(hub: &ModelHub, name: &str, size: u64) -> Content {
    let content = Content::named(name, size + 7, size);
    hub.push(REPO, "main", [(name, &content)]);
    content
}

/// What a user is told of an error; it has nothing that is secret.
#[track_caller]
fn told(hub: &ModelHub, result: Result<Fetched, FetchError>) -> String {
    let error = result.expect_err("an error");
    let text = error.to_job_error("THE MODEL").full_text();
    says(&text, &["Failed to load model: THE MODEL: "]);
    let debug = format!("{error:?}");
    for secret in hub
        .signatures()
        .iter()
        .map(String::as_str)
        .chain([TOKEN, STRANGER, "hf_"])
    {
        assert!(!text.contains(secret), "{text}");
        assert!(!debug.contains(secret), "{debug}");
    }
    text
}

/// A text has each of these parts.
#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}
