//! Uploads to a server on a real socket that checks signatures and refuses what not every S3 server takes.

use reqwest::StatusCode;

use super::testing::{BUCKET, Fault, Server};
use super::*;
use crate::config::Secret;
use crate::error::JobError;

/// The smallest parts that S3 takes.
const SIZES: Sizes = Sizes {
    whole: PART,
    part: PART,
};
const PART: u64 = 5 * 1024 * 1024;
/// A file of three parts.
const LARGE: usize = 11_000_000;

pub(super) fn in_memory(filename: &str, content: impl Into<Bytes>) -> Upload {
    Upload {
        subfolder: String::new(),
        filename: filename.to_owned(),
        content: Content::Bytes(content.into()),
    }
}

/// Bytes that differ from part to part.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index * 31 + index / 997).to_le_bytes()[0])
        .collect()
}

async fn get(url: &str) -> reqwest::Response {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(url).send().await.unwrap()
}

#[track_caller]
fn text(error: BucketError) -> String {
    JobError::from(error).full_text()
}

#[tokio::test]
async fn a_small_file_is_read_back_by_its_address() {
    let server = Server::start().await;
    let bucket = Bucket::new(&server.config()).unwrap();
    let content = pattern(5_000);
    let urls = bucket
        .upload("job-1", vec![in_memory("a b+ü.png", content.clone())])
        .await
        .unwrap();
    assert_eq!(server.came(), ["PUT x-id=PutObject"]);
    let answer = get(&urls[0]).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "image/png");
    assert_eq!(answer.bytes().await.unwrap(), content);
    assert!(urls[0].contains("/results/job-1/a%20b%2B%C3%BC.png?"), "{}", urls[0]);
    assert!(urls[0].contains("X-Amz-Expires=604800"), "{}", urls[0]);
    let unsigned = urls[0].split('?').next().unwrap();
    assert_eq!(get(unsigned).await.status(), StatusCode::FORBIDDEN);
    let changed = urls[0].replace("job-1", "job-2");
    assert_eq!(get(&changed).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_object_is_read_up_to_a_limit() {
    let server = Server::start().await;
    let bucket = Bucket::new(&server.config()).unwrap();
    let upload = in_memory("a b+ü.png", pattern(5_000));
    bucket.upload("job-1", vec![upload]).await.unwrap();
    let key = "job-1/a b+ü.png";
    assert_eq!(bucket.get(BUCKET, key, 5_000).await.unwrap().unwrap(), pattern(5_000));
    assert_eq!(bucket.get(BUCKET, key, 4_999).await.unwrap(), None);
    assert_eq!(
        text(bucket.get(BUCKET, "job-2/a.png", 5_000).await.unwrap_err()),
        format!(
            "the bucket `results` at 127.0.0.1:{} has no object `job-2/a.png`. See that the key is right; it is written as it is, without escapes.",
            server.port
        )
    );
    let missing = text(bucket.get("pictures", "a.png", 5_000).await.unwrap_err());
    assert!(
        missing.contains("the bucket `pictures`") && missing.contains("does not exist"),
        "{missing}"
    );
}

#[tokio::test]
async fn a_large_file_goes_in_parts_from_disk_and_from_memory() {
    let server = Server::start().await;
    let bucket = Bucket::build(server.config(), None, SIZES).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    let content = pattern(LARGE);
    std::fs::write(&path, &content).unwrap();
    let on_disk = Upload {
        subfolder: "films".to_owned(),
        filename: "film.mp4".to_owned(),
        content: Content::File(path),
    };
    let urls = bucket
        .upload("job-1", vec![on_disk, in_memory("b.webm", content.clone())])
        .await
        .unwrap();
    for (url, content_type) in urls.iter().zip(["video/mp4", "video/webm"]) {
        let answer = get(url).await;
        assert_eq!(answer.headers()["content-type"], content_type);
        assert!(answer.bytes().await.unwrap() == content, "{url}");
    }
    let came = server.came();
    let parts = came.iter().filter(|request| request.contains("x-id=UploadPart"));
    assert_eq!(parts.count(), 6, "{came:?}");
    assert_eq!(server.left_over(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_is_lent_is_removed() {
    let server = Server::start().await;
    let bucket = Bucket::new(&server.config()).unwrap();
    let upload = |name: &str| Upload {
        subfolder: "inputs".to_owned(),
        filename: name.to_owned(),
        content: Content::Bytes("content".into()),
    };
    let (lent, addresses) = bucket
        .lend("job", vec![upload("a.png"), upload("b c.png")])
        .await
        .unwrap();
    for address in &addresses {
        assert_eq!(get(address).await.status(), 200);
    }
    lent.remove().await;
    for address in &addresses {
        assert_eq!(get(address).await.status(), 404);
    }
}

#[tokio::test]
async fn many_files_keep_their_order_and_their_names() {
    let server = Server::start().await;
    let bucket = Bucket::new(&server.config()).unwrap();
    let uploads: Vec<_> = (0..20)
        .map(|index| in_memory("same.txt", format!("file {index}")))
        .collect();
    let urls = bucket.upload("job-1", uploads).await.unwrap();
    assert_eq!(urls.len(), 20);
    for (index, url) in urls.iter().enumerate() {
        assert_eq!(get(url).await.text().await.unwrap(), format!("file {index}"));
    }
    assert!(urls[1].contains("/job-1/same-2.txt?"), "{}", urls[1]);
    assert_eq!(bucket.upload("job-1", Vec::new()).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_public_bucket_has_plain_addresses() {
    let server = Server::start().await;
    let public_url = Some("https://cdn.example.com/x".parse().unwrap());
    let config = BucketConfig {
        public_url,
        ..server.config()
    };
    let urls = Bucket::new(&config)
        .unwrap()
        .upload("job-1", vec![in_memory("a b.png", "x")])
        .await
        .unwrap();
    assert_eq!(urls, ["https://cdn.example.com/x/job-1/a%20b.png"]);
}

#[tokio::test]
async fn the_month_names_a_bucket_that_nobody_named() {
    let server = Server::start().await;
    let mut config = server.config();
    config.access.name = None;
    let bucket = Bucket::new(&config).unwrap();
    let error = bucket.upload("job-1", vec![in_memory("a.png", "x")]).await.unwrap_err();
    assert!(
        matches!(&error, BucketError::NoBucket(place) if !place.named),
        "{error:?}"
    );
    assert!(text(error).contains("BUCKET_NAME"));
    server.create_bucket(&Day::of(SystemTime::now()).month_and_year());
    let urls = bucket.upload("job-1", vec![in_memory("a.png", "x")]).await.unwrap();
    assert_eq!(get(&urls[0]).await.text().await.unwrap(), "x");
}

#[tokio::test]
async fn wrong_keys_and_wrong_buckets_are_told_apart() {
    let server = Server::start().await;
    let mut wrong_secret = server.config();
    wrong_secret.access.secret_access_key = Secret::new("not-the-secret");
    let mut wrong_id = server.config();
    wrong_id.access.access_key_id = "AKIA0000".to_owned();
    let mut wrong_name = server.config();
    wrong_name.access.name = Some("nowhere".to_owned());
    for (config, expected) in [
        (wrong_secret, "refuses the keys (SignatureDoesNotMatch)"),
        (wrong_id, "refuses the keys ("),
        (wrong_name, "the bucket `nowhere`"),
    ] {
        let error = Bucket::new(&config)
            .unwrap()
            .upload("job-1", vec![in_memory("a.png", "x")])
            .await
            .unwrap_err();
        let message = text(error);
        assert!(message.contains(expected), "{message}");
        assert!(message.contains(&format!("127.0.0.1:{}", server.port)), "{message}");
        assert!(
            !message.contains("not-the-secret") && !message.contains("secret-0815"),
            "{message}"
        );
    }
    assert_eq!(server.came().len(), 3, "none of them is tried again");
}

#[tokio::test]
async fn a_server_that_stumbles_is_tried_again() {
    let server = Server::start().await;
    let bucket = Bucket::build(server.config(), None, SIZES).unwrap();
    server.fail("PutObject", [Fault::Status(500), Fault::Status(503), Fault::Reset]);
    server.fail("POST uploads", [Fault::Status(503)]);
    server.fail("partNumber=2&", [Fault::Reset]);
    server.fail("partNumber=3&", [Fault::Status(500), Fault::Status(503)]);
    server.fail("POST uploadId", [Fault::Status(500)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.bin");
    let content = pattern(LARGE);
    std::fs::write(&path, &content).unwrap();
    let large = Upload {
        content: Content::File(path),
        ..in_memory("large.bin", "")
    };
    let urls = bucket
        .upload("job-1", vec![in_memory("a.png", "x"), large])
        .await
        .unwrap();
    assert_eq!(get(&urls[0]).await.text().await.unwrap(), "x");
    assert!(get(&urls[1]).await.bytes().await.unwrap() == content);
    assert!(server.has_failed());
}

#[tokio::test]
async fn a_dead_endpoint_is_said_to_be_dead() {
    let mut config = Server::start().await.config();
    // Nobody listens there any more.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    config.access.endpoint = format!("http://{free}").parse().unwrap();
    let error = Bucket::new(&config)
        .unwrap()
        .upload("job-1", vec![in_memory("a.png", "x")])
        .await
        .unwrap_err();
    assert!(matches!(error, BucketError::Unreachable { .. }), "{error:?}");
    let message = text(error);
    assert!(
        message.contains(&free.to_string()) && message.contains("BUCKET_ENDPOINT_URL"),
        "{message}"
    );
}

#[tokio::test]
async fn a_large_file_that_fails_is_taken_back() {
    let server = Server::start().await;
    let bucket = Bucket::build(server.config(), None, SIZES).unwrap();
    server.fail("partNumber=3&", [Fault::Status(403)]);
    let error = bucket
        .upload("job-1", vec![in_memory("a.bin", pattern(LARGE))])
        .await
        .unwrap_err();
    assert!(matches!(error, BucketError::Keys { .. }), "{error:?}");
    assert!(server.came().contains(&"aborted".to_owned()), "{:?}", server.came());
}

#[tokio::test]
async fn a_large_file_that_is_dropped_is_taken_back() {
    let server = Server::start().await;
    let bucket = Bucket::build(server.config(), None, SIZES).unwrap();
    server.fail("partNumber=3&", [Fault::Hang]);
    let upload = tokio::spawn({
        let bucket = bucket.clone();
        async move { bucket.upload("job-1", vec![in_memory("a.bin", pattern(LARGE))]).await }
    });
    server.wait_for("partNumber=3&").await;
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    server.wait_for("aborted").await;
}

#[tokio::test]
async fn a_file_that_is_gone_is_named() {
    let server = Server::start().await;
    let gone = Upload {
        content: Content::File("/nonexistent/a.png".into()),
        ..in_memory("a.png", "")
    };
    let error = Bucket::new(&server.config())
        .unwrap()
        .upload("job-1", vec![gone])
        .await
        .unwrap_err();
    assert!(
        matches!(&error, BucketError::File(filename, _) if filename == "a.png"),
        "{error:?}"
    );
    assert_eq!(server.came(), Vec::<String>::new());
}

#[tokio::test]
async fn the_layer_before_the_server_refuses_checksums() {
    let server = Server::start().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://127.0.0.1:{}/results/a", server.port);
    let answer = client
        .put(url)
        .header("x-amz-checksum-crc32", "AAAAAA==")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}
