//! Uploads to moto, the S3 server that boto3's own users test with, read back with boto3 and by the addresses.

use std::fmt::Write as _;

use bytes::Bytes;
use qwen_image_worker::config::Config;
use qwen_image_worker::delivery::s3::{Bucket, BucketError, Content, Upload};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::process::Child;

use crate::support::clients::{python, python_server};

/// The server and the client, one installation.
const PACKAGES: &str = "moto[server]==5.2.5 boto3==1.44.5";

/// An S3 server with the bucket `results`.
struct Moto {
    endpoint: String,
    _server: Child,
}

impl Moto {
    async fn start() -> Self {
        let (server, said) = python_server(PACKAGES, include_str!("clients/moto_server.py")).await;
        Self {
            endpoint: format!("http://127.0.0.1:{}", said["port"]),
            _server: server,
        }
    }

    /// The bucket as an operator configures it.
    fn bucket(&self, more: &[(&str, &str)]) -> Bucket {
        let vars = [
            ("BUCKET_ENDPOINT_URL", self.endpoint.as_str()),
            ("BUCKET_ACCESS_KEY_ID", "AKIA4711"),
            ("BUCKET_SECRET_ACCESS_KEY", "secret-0815"),
        ];
        let vars = vars.iter().chain(more);
        let vars = vars.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::from_vars(vars).expect("a good configuration");
        Bucket::new(&config.delivery.bucket.expect("a bucket")).expect("a bucket")
    }

    /// What boto3 finds.
    async fn found(&self) -> Value {
        let plan = json!({"endpoint": self.endpoint});
        python(PACKAGES, include_str!("clients/boto3_read.py"), &plan).await
    }
}

fn upload(filename: &str, content: Content) -> Upload {
    Upload {
        subfolder: "sub".to_owned(),
        filename: filename.to_owned(),
        content,
    }
}

/// Bytes that differ from part to part.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index * 31 + index / 997).to_le_bytes()[0])
        .collect()
}

fn described(content: &[u8], content_type: &str) -> Value {
    let mut sha256 = String::new();
    for byte in Sha256::digest(content) {
        write!(sha256, "{byte:02x}").expect("a string takes all");
    }
    json!({"length": content.len(), "sha256": sha256, "type": content_type})
}

#[tokio::test]
async fn boto3_reads_what_was_uploaded() {
    let moto = Moto::start().await;
    let bucket = moto.bucket(&[("BUCKET_NAME", "results"), ("BUCKET_PREFIX", "x/{job_id}")]);
    let (small, large) = (pattern(3_000_000), pattern(70_000_000));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("film.mp4");
    std::fs::write(&path, &large).expect("a file");
    let uploads = vec![
        upload("ein Bild+ü.png", Content::Bytes(Bytes::from(small.clone()))),
        upload("film.mp4", Content::File(path)),
    ];
    let urls = bucket.upload("job-1", uploads).await.expect("an upload");
    let found = moto.found().await;
    let expected = json!({
        "objects": {
            "x/job-1/sub/ein Bild+ü.png": described(&small, "image/png"),
            "x/job-1/sub/film.mp4": described(&large, "video/mp4"),
        },
        "unfinished": 0,
    });
    assert_eq!(found, expected);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    for (url, content) in urls.iter().zip([small, large]) {
        let answer = client.get(url).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{url}");
        assert!(answer.bytes().await.expect("a body") == content, "{url}");
    }
}

#[tokio::test]
async fn the_bucket_may_be_in_the_path_and_must_exist() {
    let moto = Moto::start().await;
    let in_path = Moto {
        endpoint: format!("{}/results/", moto.endpoint),
        ..moto
    };
    let bucket = in_path.bucket(&[]);
    let urls = bucket
        .upload("job-1", vec![upload("a.txt", Content::Bytes("x".into()))])
        .await;
    assert!(urls.expect("an upload")[0].contains("/results/job-1/sub/a.txt?"));

    let nowhere = Moto {
        endpoint: in_path.endpoint.replace("results", "nowhere"),
        ..in_path
    };
    let bucket = nowhere.bucket(&[]);
    let failed = bucket
        .upload("job-1", vec![upload("a.txt", Content::Bytes("x".into()))])
        .await;
    let error = failed.expect_err("no such bucket");
    assert!(matches!(error, BucketError::NoBucket { .. }), "{error:?}");
}
