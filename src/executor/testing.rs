//! An executor on a ComfyUI that never starts, and a ComfyUI that is none, for tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Executor, Fetcher, JobControl, Settings};
use crate::blobs::Blobs;
use crate::comfy::{Boot, Comfy, Folders};
use crate::config::{ComfyConfig, Config, ImagesConfig, JobsConfig, PrivateUrls, ReturnImagesAs};
use crate::delivery::{DeliverySettings, Results};
use crate::models::Models;
use crate::net::guard::AddressGuard;
use crate::telemetry::report::SilentReporter;
use crate::workflow::{ModelCatalog, Templates};

/// An executor with ComfyUI's folders under `data`, and what says how far the start of ComfyUI is.
pub(crate) fn executor(data: &Path) -> (Arc<Executor>, watch::Sender<Boot>) {
    let (boot, started) = watch::channel(Boot::Preparing);
    let folders = Folders {
        output: data.join("output"),
        input: data.join("input"),
        temp: data.join("temp"),
        are_ours: true,
        ..Folders::default()
    };
    (executor_on(Comfy::supervised(started, folders), data), boot)
}

/// An executor on this ComfyUI, which keeps what it keeps under `data`.
pub(crate) fn executor_on(comfy: Comfy, data: &Path) -> Arc<Executor> {
    let templates = Templates::load(&BTreeMap::new()).unwrap();
    let config = Config::from_vars([("HOME".to_owned(), data.display().to_string())]).unwrap();
    let catalog = ModelCatalog::builtin().unwrap();
    let models = Models::new(catalog, None, &config.models, Arc::new(SilentReporter)).unwrap();
    let results = Results::new(comfy.clone(), delivery(), None);
    let settings = Settings {
        blobs: Blobs::new(data),
        ..settings()
    };
    Executor::new(comfy, templates, models, results, settings)
}

fn delivery() -> DeliverySettings {
    DeliverySettings {
        form: ReturnImagesAs::Metadata,
        output_format: None,
        quality: 90,
        max_bytes: None,
        bucket: None,
        guard: AddressGuard::new(PrivateUrls::All),
    }
}

/// Settings without any patience.
pub(super) fn settings() -> Settings {
    let images = ImagesConfig {
        max_bytes: 1_000_000,
        timeout: Duration::from_mins(1),
        buckets: Vec::new(),
    };
    let config = Config::from_vars([("HOME".to_owned(), "/".to_owned())]).unwrap();
    Settings {
        demo: None,
        // Nobody is there.
        registry: "http://127.0.0.1:1".parse().unwrap(),
        jobs: JobsConfig {
            prefetch: 1,
            retries: 1,
            cancel_grace: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(10),
            ..config.jobs
        },
        comfy: ComfyConfig {
            reconnect_attempts: 0,
            reconnect_delay: Duration::ZERO,
            ..config.comfy
        },
        fetcher: Fetcher::new(&images, &delivery()).unwrap(),
        blobs: Blobs::new(Path::new("/")),
        warnings: Vec::new(),
    }
}

/// An owner whom nobody hears.
pub(super) fn owner() -> JobControl {
    JobControl {
        name: "job".to_owned(),
        events: mpsc::unbounded_channel().0,
        stop: CancellationToken::new(),
        turn: CancellationToken::new(),
        resume: None,
        patience: None,
        has_others: false,
        timeout: Duration::from_mins(10),
        told: None,
        commits: false,
        watch: crate::job::JobWatch::default(),
    }
}

/// Answers as ComfyUI does, as far as it is told how; it runs nothing.
pub(crate) struct FakeComfy {
    pub(crate) url: String,
    /// The prompts that were submitted.
    pub(crate) submitted: Arc<Mutex<Vec<String>>>,
    /// The statuses with which the next prompts are not taken, the last one first.
    pub(super) refuses: Arc<Mutex<Vec<u16>>>,
    /// Whether it gives prompts ids of its own, as a very old ComfyUI does.
    pub(super) own_ids: Arc<AtomicBool>,
    server: tokio::task::JoinHandle<()>,
}

impl FakeComfy {
    /// `answer` gives status and body for a path, but for `/system_stats` and `/prompt`, and is told what was submitted.
    pub(crate) async fn start(answer: impl Fn(&str, &[String]) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1:0", answer).await
    }

    /// The same at an address.
    pub(super) async fn at(
        address: &str,
        answer: impl Fn(&str, &[String]) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let submitted: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answer, kept) = (Arc::new(answer), Arc::clone(&submitted));
        let refuses: Arc<Mutex<Vec<u16>>> = Arc::default();
        let refusals = Arc::clone(&refuses);
        let own_ids: Arc<AtomicBool> = Arc::default();
        let numbers = Arc::clone(&own_ids);
        let router = axum::Router::new().fallback(async move |uri: axum::http::Uri, body: axum::body::Bytes| {
            let (status, body) = match uri.path() {
                "/system_stats" => (200, r#"{"system": {}}"#.to_owned()),
                "/prompt" => {
                    let refusal = refusals.lock().unwrap().pop();
                    if let Some(status) = refusal {
                        let close = [(axum::http::header::CONNECTION, "close")];
                        return (axum::http::StatusCode::from_u16(status).unwrap(), close, String::new());
                    }
                    let prompt: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    let id = prompt["prompt_id"].as_str().unwrap().to_owned();
                    kept.lock().unwrap().push(id);
                    if numbers.load(Ordering::Relaxed) {
                        (200, r#"{"prompt_id": "its-own", "node_errors": {}}"#.to_owned())
                    } else {
                        (200, r#"{"node_errors": {}}"#.to_owned())
                    }
                }
                path => answer(path, &kept.lock().unwrap()),
            };
            // What is open outlives the listener.
            let close = [(axum::http::header::CONNECTION, "close")];
            (axum::http::StatusCode::from_u16(status).unwrap(), close, body)
        });
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            submitted,
            refuses,
            own_ids,
            server,
        }
    }

    /// Nothing listens there any more. Gives its address.
    pub(super) async fn end(self) -> String {
        self.server.abort();
        let _ = self.server.await;
        self.url.trim_start_matches("http://").to_owned()
    }
}
