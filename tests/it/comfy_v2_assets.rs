//! Assets of Comfy API v2 on the wire. ComfyUI is not needed for that: it may start meanwhile, or never.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::binary::Served;
use crate::support::full_disk::Disk;
use crate::support::{Worker, fresh_data, http, text, until};

/// Where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";
const KEYS: (&str, &str) = ("API_KEY", "first-key,second-key");

/// A client with a key, or with none.
struct Client {
    url: String,
    key: Option<&'static str>,
}

fn of(worker: &Worker, key: impl Into<Option<&'static str>>) -> Client {
    Client {
        url: worker.url.clone(),
        key: key.into(),
    }
}

impl Client {
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = http().request(method, format!("{}/api/v2{path}", self.url));
        match self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn send(&self, method: Method, path: &str) -> Response {
        self.request(method, path).send().await.expect("an answer")
    }

    async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path).await
    }

    async fn status(&self, method: Method, path: &str) -> u16 {
        self.send(method, path).await.status().as_u16()
    }

    async fn upload(&self, form: Form) -> (u16, Value) {
        answer(self.request(Method::POST, "/assets").multipart(form)).await
    }

    async fn upload_as(&self, form: Form, key: &str) -> (u16, Value) {
        let request = self.request(Method::POST, "/assets").header("idempotency-key", key);
        answer(request.multipart(form)).await
    }

    async fn minted(&self, body: Value) -> (u16, Value) {
        let request = self.request(Method::POST, "/assets/from-hash");
        let request = request.header("content-type", "application/json");
        answer(request.body(body.to_string())).await
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    let body = answer.text().await.expect("a body");
    (
        status,
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")),
    )
}

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, text(&answer.1["error"], "code"))
}

fn file(content: impl Into<Bytes>, name: &str) -> Part {
    let content: Bytes = content.into();
    let length = content.len() as u64;
    Part::stream_with_length(content, length).file_name(name.to_owned())
}

fn form(content: impl Into<Bytes>, name: &str) -> Form {
    let form = Form::new()
        .text("content_type", "image/png")
        .text("file_path", name.to_owned());
    form.part("file", file(content, name))
}

fn hash(content: &[u8]) -> String {
    format!("blake3:{}", blake3::hash(content).to_hex())
}

/// The files that are kept, and those that come.
fn on_disk(data: &Path) -> (usize, usize) {
    let count = |path: &Path| std::fs::read_dir(path).map_or(0, Iterator::count);
    let kept = std::fs::read_dir(data.join("assets/blobs")).expect("a folder");
    let kept = kept.map(|part| count(&part.expect("a folder").path()));
    (kept.sum(), count(&data.join("assets/incoming")))
}

fn data(worker: &Worker) -> &Path {
    worker.data.as_ref().expect("a folder").path()
}

#[tokio::test]
async fn what_is_uploaded_is_kept_once_and_told_as_the_sdks_want_it() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    let client = of(&worker, None);
    let health = client.get("/health").await.json::<Value>().await.expect("JSON");
    assert_eq!(health, json!({"status": "healthy"}));
    let by_hash = format!("/assets/by-hash/{}", hash(b"picture"));
    assert_eq!(client.status(Method::HEAD, &by_hash).await, 404);
    let (status, asset) = client.upload(form("picture", "Bär.png").text("tags", "input")).await;
    assert_eq!((status, &asset["created_new"]), (201, &json!(true)), "{asset:#}");
    let id = text(&asset, "id");
    assert_eq!(
        (text(&asset, "hash"), &asset["size_bytes"]),
        (hash(b"picture").as_str(), &json!(7))
    );
    assert_eq!(
        (text(&asset, "content_type"), text(&asset, "file_path"), &asset["tags"]),
        ("image/png", "Bär.png", &json!(["input"]))
    );
    for key in ["created_at", "url_expires_at", "expires_at"] {
        assert!(text(&asset, key).ends_with('Z'), "{asset:#}");
    }
    let by_hash_of_npm = by_hash.replace(':', "%3A");
    for path in [by_hash.as_str(), &by_hash_of_npm] {
        assert_eq!(client.status(Method::HEAD, path).await, 200, "{path}");
    }
    assert_eq!(client.status(Method::HEAD, "/assets/by-hash/rubbish").await, 404);

    // The same bytes under another name, in another order, by a client that says less.
    let less = Form::new()
        .part(
            "file",
            file("picture", "other.png").mime_str("image/x-other").expect("a type"),
        )
        .text("expires_in", "90");
    let (status, second) = client.upload(less).await;
    assert_eq!((status, &second["created_new"]), (200, &json!(false)), "{second:#}");
    assert_eq!(
        (text(&second, "content_type"), text(&second, "file_path")),
        ("image/x-other", "other.png")
    );
    assert!(text(&second, "expires_at") < text(&asset, "expires_at"), "{second:#}");
    let (status, third) = client
        .minted(json!({"hash": hash(b"picture"), "file_path": "input/third.png"}))
        .await;
    assert_eq!((status, &third["created_new"]), (201, &json!(false)), "{third:#}");
    assert_eq!(on_disk(data(&worker)), (1, 0));

    let told = client
        .get(&format!("/assets/{id}"))
        .await
        .json::<Value>()
        .await
        .expect("JSON");
    assert_eq!(told["created_at"], asset["created_at"]);
    assert!(told.get("created_new").is_none(), "{told:#}");
    for asset in [&asset, &second, &third] {
        let path = format!("/assets/{}", text(asset, "id"));
        let content = client.get(&format!("{path}/content")).await;
        assert_eq!(content.bytes().await.expect("bytes"), "picture");
        assert_eq!(client.status(Method::DELETE, &path).await, 204);
        assert_eq!(client.status(Method::DELETE, &path).await, 404);
        assert_eq!(client.status(Method::GET, &path).await, 404);
        assert_eq!(client.status(Method::GET, &format!("{path}/content")).await, 404);
    }
    assert_eq!(on_disk(data(&worker)), (0, 0));
    let gone = client.minted(json!({"hash": hash(b"picture")})).await;
    assert_eq!(code(&gone), (404, "blob_not_found"));
    assert_eq!(
        code(&client.minted(json!({"hash": "blake3:1"})).await),
        (400, "invalid_request")
    );
}

#[tokio::test]
async fn a_content_comes_in_parts_and_never_as_a_page() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    let client = of(&worker, None);
    let (_, asset) = client.upload(form("0123456789", "a.png")).await;
    let path = format!("/assets/{}/content", text(&asset, "id"));
    let whole = client.get(&path).await;
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    assert_eq!(whole.headers()["content-type"], "image/png");
    assert_eq!(whole.headers()["x-content-type-options"], "nosniff");
    let etag = whole.headers()["etag"].clone();
    for (range, status, content_range, content) in [
        ("bytes=2-4", 206, "bytes 2-4/10", "234"),
        ("bytes=-3", 206, "bytes 7-9/10", "789"),
        ("bytes=8-", 206, "bytes 8-9/10", "89"),
        ("bytes=10-", 416, "bytes */10", ""),
    ] {
        let part = client.request(Method::GET, &path).header("range", range).send().await;
        let part = part.expect("an answer");
        assert_eq!(part.status(), status, "{range}");
        assert_eq!(part.headers()["content-range"], content_range);
        assert_eq!(part.text().await.expect("a text"), content);
    }
    let known = client.request(Method::GET, &path).header("if-none-match", etag);
    assert_eq!(known.send().await.expect("an answer").status(), 304);
    let head = client.send(Method::HEAD, &path).await;
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-length"]),
        (200, &"10".parse().expect("a value"))
    );
    for (media_type, name) in [
        ("text/html", "a.png"),
        ("image/svg+xml", "a.svg"),
        ("text/html", "a.html"),
    ] {
        let form = Form::new()
            .text("content_type", media_type)
            .part("file", file("<script>", name));
        let (_, asset) = client.upload(form).await;
        assert_eq!(text(&asset, "content_type"), media_type);
        let path = format!("/assets/{}/content", text(&asset, "id"));
        let sent = client
            .request(Method::GET, &path)
            .header("sec-fetch-dest", "image")
            .send()
            .await;
        let sent = sent.expect("an answer");
        assert_eq!(
            sent.headers()["content-type"],
            "application/octet-stream",
            "{media_type} {name}"
        );
        assert_eq!(sent.headers()["x-content-type-options"], "nosniff");
    }
}

#[tokio::test]
async fn what_is_of_another_key_does_not_exist_but_for_who_has_the_link() {
    let worker = Worker::attached(NOWHERE, &[KEYS]).await;
    let (client, other, nobody) = (of(&worker, "first-key"), of(&worker, "second-key"), of(&worker, None));
    assert_eq!(nobody.status(Method::GET, "/health").await, 200);
    let (_, asset) = client.upload(form("mine", "a.png")).await;
    let path = format!("/assets/{}", text(&asset, "id"));
    let content = format!("{path}/content");
    let by_hash = format!("/assets/by-hash/{}", hash(b"mine"));
    for (method, path) in [
        (Method::GET, &path),
        (Method::GET, &content),
        (Method::HEAD, &by_hash),
        (Method::DELETE, &path),
    ] {
        assert_eq!(other.status(method.clone(), path).await, 404, "{method} {path}");
        assert_eq!(nobody.status(method, path).await, 401);
    }
    assert_eq!(
        code(&other.minted(json!({"hash": hash(b"mine")})).await),
        (404, "blob_not_found")
    );
    let (status, theirs) = other.upload(form("mine", "a.png")).await;
    assert_eq!((status, &theirs["created_new"]), (201, &json!(true)));
    assert_eq!(on_disk(data(&worker)), (1, 0));
    assert_eq!(code(&nobody.upload(form("x", "a.png")).await), (401, "unauthorized"));

    let link = text(&asset, "url");
    assert!(link.starts_with(&format!("{}/api/v2{content}?", worker.url)), "{link}");
    for method in [Method::GET, Method::HEAD] {
        let answer = http().request(method, link).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    let changed = [
        link.replace("expires=", "expires=1"),
        link.replace("signature=", "signature=0"),
        link.replace("/content", ""),
        link.replace(text(&asset, "id"), text(&theirs, "id")),
    ];
    for changed in changed {
        assert_eq!(
            http().get(&changed).send().await.expect("an answer").status(),
            401,
            "{changed}"
        );
    }
    let delete = http().delete(link.replace("/content", "")).send().await;
    assert_eq!(delete.expect("an answer").status(), 401);
    // Whoever has the key needs no link that works.
    let old = http()
        .get(link.replace("expires=", "expires=1"))
        .bearer_auth("first-key");
    assert_eq!(old.send().await.expect("an answer").status(), 200);
    assert_eq!(client.status(Method::DELETE, &path).await, 204);
    assert_eq!(http().get(link).send().await.expect("an answer").status(), 404);
}

#[tokio::test]
async fn a_refused_upload_leaves_nothing_and_its_key_free() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    let client = of(&worker, None);
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
    assert_eq!(code(&answer(no_form).await), (400, "invalid_request"));
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
async fn a_model_is_taken_from_who_may_where_it_is_one() {
    let worker = Worker::attached(NOWHERE, &[KEYS, ("ASSET_MODELS", "true")]).await;
    let client = of(&worker, "first-key");
    let model = |content: &'static [u8], name: &str| {
        let path = format!("models/loras/{name}");
        Form::new().text("file_path", path).part("file", file(content, name))
    };
    let whole = b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}";
    let (status, asset) = client.upload(model(whole, "a.safetensors")).await;
    assert_eq!((status, text(&asset, "file_path")), (201, "models/loras/a.safetensors"));
    assert_eq!(client.upload(model(b"GGUF\x03\0\0\0", "a.gguf")).await.0, 201);
    for (content, name) in [
        (&b"\x80\x02}q\0."[..], "a.safetensors"),
        (whole, "a.gguf"),
        (whole, "a.ckpt"),
        (b"", "a.gguf"),
    ] {
        assert_eq!(
            code(&client.upload(model(content, name)).await),
            (400, "invalid_request"),
            "{name}"
        );
    }
    // Nor by way of bytes that are no model.
    assert_eq!(client.upload(form("text", "a.txt")).await.0, 201);
    let body = json!({"hash": hash(b"text"), "file_path": "models/loras/a.safetensors"});
    assert_eq!(code(&client.minted(body).await), (400, "invalid_request"));
    // Without a key anybody could.
    let open = Worker::attached(NOWHERE, &[("ASSET_MODELS", "true")]).await;
    assert_eq!(
        code(&of(&open, None).upload(model(whole, "a.safetensors")).await),
        (403, "forbidden")
    );
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
    let cut = of(&worker, None).request(Method::POST, "/assets");
    let cut = cut.header("content-type", "multipart/form-data; boundary=b");
    let cut = answer(cut.body(format!("{begin}xyz"))).await;
    assert_eq!(code(&cut), (400, "invalid_request"));
    until("it is gone", async || on_disk(data(&worker)) == (0, 0)).await;
}

#[tokio::test]
async fn all_files_together_have_a_limit() {
    let worker = Worker::attached(NOWHERE, &[("ASSETS_MAX_BYTES", "3000000")]).await;
    let client = of(&worker, None);
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
async fn an_asset_goes_when_its_time_is_over() {
    let worker = Worker::attached(NOWHERE, &[("RESULT_TTL", "2")]).await;
    let client = of(&worker, None);
    let (_, asset) = client.upload(form("x", "a.png")).await;
    assert_eq!(text(&asset, "expires_at")[..19], text(&asset, "url_expires_at")[..19]);
    let path = format!("/assets/{}", text(&asset, "id"));
    assert_eq!(client.status(Method::GET, &path).await, 200);
    until("its time is over", async || {
        client.status(Method::GET, &path).await == 404
    })
    .await;
    assert_eq!(client.status(Method::GET, &format!("{path}/content")).await, 404);
    until("its file is gone", async || on_disk(data(&worker)) == (0, 0)).await;
}

#[tokio::test]
async fn the_same_is_served_on_the_port_where_clients_look_first() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    let client = Client {
        url: worker.edit_url.clone(),
        key: None,
    };
    assert_eq!(client.status(Method::GET, "/health").await, 200);
    let (status, asset) = client.upload(form("x", "a.png")).await;
    assert_eq!(status, 201, "{asset:#}");
    let link = text(&asset, "url");
    assert!(link.starts_with(&worker.edit_url), "{link}");
    assert_eq!(http().get(link).send().await.expect("an answer").status(), 200);
    let missing = answer(client.request(Method::GET, "/assets/none")).await;
    assert_eq!(code(&missing), (404, "not_found"));
    let path = format!("/assets/{}", text(&asset, "id"));
    assert_eq!(of(&worker, None).status(Method::DELETE, &path).await, 204);
}

#[tokio::test]
async fn a_full_disk_is_told_and_assets_outlive_the_process() {
    let (disk, (folder, mut vars)) = (Disk::new(), fresh_data());
    vars.insert("COMFYUI_URL".to_owned(), NOWHERE.to_owned());
    vars.extend(disk.vars());
    let served = Served::start(&vars).await;
    let client = Client {
        url: served.url.clone(),
        key: None,
    };
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
    let client = Client {
        url: again.url.clone(),
        key: None,
    };
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
