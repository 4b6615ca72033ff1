//! An S3 server on a real socket: s3s checks the signatures, s3s-fs keeps the objects, and a layer before them refuses
//! what only Amazon's own server takes, fails when it is told to, and remembers what came.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::error_handling::HandleError;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use s3s::auth::SimpleAuth;
use s3s::host::SingleDomain;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::config::{BucketAccess, BucketConfig, Secret};

pub(super) const KEY_ID: &str = "AKIA4711";
pub(super) const SECRET: &str = "secret-0815";
pub(super) const BUCKET: &str = "results";

/// What the server does with one request instead of serving it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Answers this status without reading the body.
    Status(u16),
    /// Closes the connection.
    Reset,
    /// Never answers.
    Hang,
}

/// A server that keeps its objects until it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) port: u16,
    folder: TempDir,
    state: Arc<Layer>,
}

#[derive(Debug)]
struct Layer {
    /// Faults for the requests whose method and query have this in them; each once.
    faults: Mutex<VecDeque<(&'static str, Fault)>>,
    /// Method and query of each request; `aborted` after an upload was.
    came: watch::Sender<Vec<String>>,
    /// Where buckets are folders.
    folder: PathBuf,
}

impl Server {
    /// A server with the bucket [`BUCKET`] in it.
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        service.set_host(SingleDomain::new(&format!("storage.example.com:{port}")).unwrap());
        let failed = |error| async move { (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}")) };
        let state = Arc::new(Layer {
            faults: Mutex::default(),
            came: watch::Sender::default(),
            folder: folder.path().to_owned(),
        });
        let router = Router::new()
            .fallback_service(HandleError::new(service.build(), failed))
            .layer(from_fn_with_state(Arc::clone(&state), before));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, folder, state }
    }

    pub(super) fn create_bucket(&self, name: &str) {
        std::fs::create_dir(self.folder.path().join(name)).unwrap();
    }

    /// Lets the next requests fail whose method and query have this in them (`PutObject`, `partNumber=2&`).
    pub(super) fn fail(&self, which: &'static str, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().map(|fault| (which, fault));
        self.state.faults.lock().unwrap().extend(faults);
    }

    /// Whether every fault has come to pass.
    pub(super) fn has_failed(&self) -> bool {
        self.state.faults.lock().unwrap().is_empty()
    }

    /// Method and query of each request so far.
    pub(super) fn came(&self) -> Vec<String> {
        self.state.came.borrow().clone()
    }

    /// Waits for a request whose method and query have this in them.
    pub(super) async fn wait_for(&self, part: &str) {
        let mut came = self.state.came.subscribe();
        let found = came.wait_for(|came| came.iter().any(|request| request.contains(part)));
        found.await.unwrap();
    }

    /// The names of what lies in the server's folder itself: parts of unfinished uploads.
    pub(super) fn left_over(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let is_part = |path: &PathBuf| path.to_string_lossy().contains("upload_id");
        files.filter(is_part).collect()
    }

    pub(super) fn config(&self) -> BucketConfig {
        BucketConfig {
            access: BucketAccess {
                endpoint: format!("http://127.0.0.1:{}", self.port).parse().unwrap(),
                access_key_id: KEY_ID.to_owned(),
                secret_access_key: Secret::new(SECRET),
                name: Some(BUCKET.to_owned()),
                region: None,
            },
            prefix: BucketConfig::DEFAULT_PREFIX.to_owned(),
            url_expiry: BucketConfig::DEFAULT_EXPIRY,
            public_url: None,
        }
    }
}

async fn before(State(layer): State<Arc<Layer>>, request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method(), request.uri().query().unwrap_or_default());
    layer.came.send_modify(|came| came.push(what.clone()));
    if let Some(extra) = extra(request.headers()) {
        return (StatusCode::BAD_REQUEST, format!("not implemented: {extra}")).into_response();
    }
    let fault = {
        let mut faults = layer.faults.lock().unwrap();
        let at = faults.iter().position(|(which, _)| what.contains(which));
        at.and_then(|at| faults.remove(at))
    };
    // s3s-fs would make the bucket.
    let bucket = request.uri().path().split('/').nth(1).unwrap_or_default();
    let by_path = request.headers()["host"].to_str().unwrap().starts_with("127.");
    if by_path && !layer.folder.join(bucket).is_dir() {
        let body = "<Error><Code>NoSuchBucket</Code><Message>no such bucket</Message></Error>";
        return (StatusCode::NOT_FOUND, body).into_response();
    }
    match fault {
        None => {
            let answer = next.run(request).await;
            if what.contains("AbortMultipartUpload") && answer.status().is_success() {
                layer.came.send_modify(|came| came.push("aborted".to_owned()));
            }
            answer
        }
        Some((_, Fault::Status(status))) => StatusCode::from_u16(status).unwrap().into_response(),
        // The connection's task ends, and with it the connection; nothing is printed.
        Some((_, Fault::Reset)) => std::panic::resume_unwind(Box::new(())),
        Some((_, Fault::Hang)) => std::future::pending().await,
    }
}

/// What only newer servers of Amazon's understand.
fn extra(headers: &HeaderMap) -> Option<String> {
    let found = headers.iter().find(|(name, value)| {
        let (name, value) = (name.as_str(), value.to_str().unwrap_or_default());
        name.starts_with("x-amz-checksum-")
            || name.starts_with("x-amz-sdk-checksum-")
            || name == "x-amz-trailer"
            || (name == "content-encoding" && value.contains("aws-chunked"))
            || (name == "x-amz-content-sha256" && value.starts_with("STREAMING-"))
    });
    found.map(|(name, value)| format!("{name}: {value:?}"))
}
