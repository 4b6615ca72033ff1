//! Uploads of Comfy API v2 that come to no asset, and what is left of them: nothing.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::multipart::{Form, Part};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::assets::{Assets, NOWHERE, code, data, file, form, hash, on_disk};
use crate::support::binary::Served;
use crate::support::full_disk::Disk;
use crate::support::{Worker, fresh_data, text, until};

#[tokio::test]
async fn a_refused_upload_leaves_nothing_and_its_key_free() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    let client = Assets::of(&worker, None);
    let wrong = form("x", "a.png").text("expected_hash", hash(b"y"));
    assert_eq!(code(&client.upload_as(wrong, "k").await), (409, "hash_mismatch"));
    for path in ["../a.png", "/etc/passwd", "output/a.png", "a\u{1}.png", ""] {
        let form = Form::new().part("file", file("x", "a.png")).text("file_path", path);
        assert_eq!(
            code(&client.upload_as(form, "k").await),
            (400, "invalid_request"),
            "{path}"
        );
    }
    let model = || Form::new().text("file_path", "models/loras/a.safetensors");
    let refused = client.upload_as(model().part("file", file("x", "a")), "k").await;
    assert_eq!(code(&refused), (403, "forbidden"));
    let message = text(&refused.1["error"], "message");
    assert!(
        message.contains("ASSET_MODELS") && message.contains("API_KEY"),
        "{message}"
    );
    for form in [
        Form::new().text("file_path", "a.png"),
        form("x", "a.png").part("file", file("y", "b.png")),
        form("x", "a.png").part("picture", file("y", "b.png")),
        form("x", "a.png").text("expires_in", "7"),
        form("x", "a.png").text("expected_hash", "md5:1"),
    ] {
        assert_eq!(code(&client.upload_as(form, "k").await), (400, "invalid_request"));
    }
    let long = form("x", "a.png").text("note", "n".repeat(100_000));
    assert_eq!(code(&client.upload_as(long, "k").await), (413, "payload_too_large"));
    let no_form = client.request(Method::POST, "/assets").body("{}");
    assert_eq!(code(&client.answer(no_form).await), (400, "invalid_request"));
    for key in ["", &"k".repeat(10_240)] {
        assert_eq!(
            code(&client.upload_as(form("x", "a.png"), key).await),
            (400, "invalid_request")
        );
    }
    until("nothing is left", async || on_disk(data(&worker)) == (0, 0)).await;

    assert_eq!(client.upload_as(form("x", "a.png"), "k").await.0, 201);
    for content in ["x", "y"] {
        let again = client.upload_as(form(content, "a.png"), "k").await;
        assert_eq!(code(&again), (422, "idempotency_key_reuse"));
    }
    let at_once = (0..8).map(|n| client.upload_as(form(format!("file {n}"), "a.png"), "at once"));
    let done = futures_util::future::join_all(at_once).await;
    let statuses: Vec<u16> = done.iter().map(|done| done.0).collect();
    assert_eq!(
        statuses.iter().filter(|status| **status == 201).count(),
        1,
        "{statuses:?}"
    );
    assert!(
        statuses.iter().all(|status| [201, 422].contains(status)),
        "{statuses:?}"
    );
    until("the files of the others are gone", async || {
        on_disk(data(&worker)) == (2, 0)
    })
    .await;
}

#[tokio::test]
async fn what_breaks_off_leaves_nothing() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    let address = worker.url.trim_start_matches("http://");
    let begin = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    let request = format!(
        "POST /api/v2/assets HTTP/1.1\r\nhost: {address}\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: 9000000\r\n\r\n{begin}"
    );
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    connection.write_all(request.as_bytes()).await.expect("it is sent");
    connection.write_all(&vec![7; 3_000_000]).await.expect("it is sent");
    until("some of it is there", async || on_disk(data(&worker)) == (0, 1)).await;
    drop(connection);
    until("it is gone", async || on_disk(data(&worker)) == (0, 0)).await;
    // A form without an end, of a body that has one.
    let client = Assets::of(&worker, None);
    let cut = client.request(Method::POST, "/assets");
    let cut = cut.header("content-type", "multipart/form-data; boundary=b");
    let cut = client.answer(cut.body(format!("{begin}xyz"))).await;
    assert_eq!(code(&cut), (400, "invalid_request"));
    until("it is gone", async || on_disk(data(&worker)) == (0, 0)).await;
}

#[tokio::test]
async fn all_files_together_have_a_limit() {
    let worker = Worker::attached(NOWHERE, &[("ASSETS_MAX_BYTES", "3000000")]).await;
    let client = Assets::of(&worker, None);
    let content = |byte: u8| vec![byte; 1_000_000];
    let mut ids = Vec::new();
    for byte in 0..4 {
        let (status, asset) = client.upload(form(content(byte), "a.png")).await;
        assert_eq!(status, 201, "{asset:#}");
        ids.push(text(&asset, "id").to_owned());
    }
    let mut statuses = Vec::new();
    for id in &ids {
        statuses.push(client.status(Method::GET, &format!("/assets/{id}")).await);
    }
    assert_eq!(statuses, [404, 200, 200, 200], "the oldest went");
    // Its length says that it never fits; and one that says no length.
    let large = client.upload_as(form(vec![0; 40_000_000], "a.png"), "k").await;
    assert_eq!(code(&large), (413, "payload_too_large"));
    let message = text(&large.1["error"], "message");
    assert!(
        message.contains("3000000 bytes") && message.contains("ASSETS_MAX_BYTES"),
        "{message}"
    );
    let pieces = futures_util::stream::iter((0..5).map(move |n| Ok::<_, std::io::Error>(Bytes::from(content(n)))));
    let unknown = Part::stream(reqwest::Body::wrap_stream(pieces)).file_name("a.png");
    let large = client.upload_as(Form::new().part("file", unknown), "k").await;
    assert_eq!(code(&large), (413, "payload_too_large"));
    assert_eq!(client.upload_as(form("small", "a.png"), "k").await.0, 201);
}

#[tokio::test]
async fn a_full_disk_is_told_and_assets_outlive_the_process() {
    let (disk, (folder, mut vars)) = (Disk::new(), fresh_data());
    vars.insert("COMFYUI_URL".to_owned(), NOWHERE.to_owned());
    vars.extend(disk.vars());
    let served = Served::start(&vars).await;
    let client = Assets::at(&served.url, None);
    let (_, asset) = client.upload(form("x", "a.png")).await;
    disk.fill();
    let refused = client.upload_as(form(vec![1; 3_000_000], "a.png"), "k").await;
    assert_eq!(code(&refused), (507, "storage_full"));
    assert_eq!(
        code(&client.upload_as(form("y", "a.png"), "k").await),
        (507, "storage_full")
    );
    disk.empty();
    until("there is room", async || {
        client.upload_as(form("y", "a.png"), "k").await.0 == 201
    })
    .await;
    assert_eq!(on_disk(folder.path()), (2, 0));
    drop(served);
    std::fs::write(folder.path().join("assets/incoming/half"), "half").expect("a file");
    let again = tokio::time::timeout(Duration::from_mins(1), Served::start(&vars)).await;
    let again = again.expect("a worker");
    let client = Assets::at(&again.url, None);
    let path = format!("/assets/{}/content", text(&asset, "id"));
    assert_eq!(client.get(&path).await.text().await.expect("a text"), "x");
    assert_eq!(on_disk(folder.path()), (2, 0));
    assert_eq!(
        code(&client.upload_as(form("z", "a.png"), "k").await),
        (422, "idempotency_key_reuse")
    );
}

/// A connection that sends more than it is to: the answer is read all the same.
#[tokio::test]
async fn who_sends_too_much_reads_why() {
    let worker = Worker::attached(NOWHERE, &[("ASSETS_MAX_BYTES", "1000")]).await;
    let address = worker.url.trim_start_matches("http://").to_owned();
    let mut connection = TcpStream::connect(&address).await.expect("a connection");
    let length: usize = 30_000_000;
    let head = format!(
        "POST /api/v2/assets HTTP/1.1\r\nhost: {address}\r\ncontent-type: multipart/form-data; boundary=b\r\ncontent-length: {length}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.expect("it is sent");
    connection
        .write_all(&vec![b'x'; length])
        .await
        .expect("all of it is taken");
    let mut said = vec![0; 4096];
    let read = connection.read(&mut said).await.expect("an answer");
    let said = String::from_utf8_lossy(&said[..read]);
    assert!(said.starts_with("HTTP/1.1 413 "), "{said}");
}
