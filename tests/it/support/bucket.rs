//! An S3 server for results.

use std::path::Path;

use axum::Router;
use axum::error_handling::HandleError;
use axum::http::StatusCode;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const KEY_ID: &str = "AKIA4711";
pub(crate) const SECRET: &str = "secret-0815";
const BUCKET: &str = "results";

/// A server with one bucket, which checks signatures and keeps objects until it is dropped.
pub(crate) struct BucketServer {
    pub(crate) endpoint: String,
    folder: TempDir,
}

impl BucketServer {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a folder");
        let mut service = S3ServiceBuilder::new(FileSystem::new(folder.path()).expect("a folder"));
        service.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let failed = |error| async move { (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}")) };
        let router = Router::new().fallback_service(HandleError::new(service.build(), failed));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { endpoint, folder }
    }

    /// The variables of a worker that has this bucket.
    pub(crate) fn vars<'a>(endpoint: &'a str, secret: &'a str) -> Vec<(&'static str, &'a str)> {
        vec![
            ("BUCKET_ENDPOINT_URL", endpoint),
            ("BUCKET_ACCESS_KEY_ID", KEY_ID),
            ("BUCKET_SECRET_ACCESS_KEY", secret),
            ("BUCKET_NAME", BUCKET),
        ]
    }

    /// The bucket as a request brings it.
    pub(crate) fn config(&self) -> Value {
        json!({"endpointUrl": self.endpoint, "accessId": KEY_ID, "accessSecret": SECRET, "bucketName": BUCKET})
    }

    /// Puts an object into a bucket, which is made if it is not there.
    pub(crate) fn put(&self, bucket: &str, key: &str, content: &[u8]) {
        let path = self.folder.path().join(bucket).join(key);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }

    /// How many objects it has.
    pub(crate) fn objects(&self) -> usize {
        fn files(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).expect("a folder");
            let paths = entries.map(|entry| entry.expect("an entry").path());
            paths.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
        }
        files(&self.folder.path().join(BUCKET))
    }
}
