//! Assets of Comfy API v2: what is kept, how it is told, and to whom. ComfyUI is not needed for that.

use reqwest::Method;
use reqwest::multipart::Form;
use serde_json::{Value, json};

use crate::support::assets::{Assets, NOWHERE, code, data, file, form, hash, on_disk};
use crate::support::{Worker, http, text, until};

const KEYS: (&str, &str) = ("API_KEY", "first-key,second-key");

#[tokio::test]
async fn what_is_uploaded_is_kept_once_and_told_as_the_sdks_want_it() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    let client = Assets::of(&worker, None);
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
    let client = Assets::of(&worker, None);
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
    let (client, other, nobody) = (
        Assets::of(&worker, Some("first-key")),
        Assets::of(&worker, Some("second-key")),
        Assets::of(&worker, None),
    );
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
async fn a_model_is_taken_from_who_may_where_it_is_one() {
    let worker = Worker::attached(NOWHERE, &[KEYS, ("ASSET_MODELS", "true")]).await;
    let client = Assets::of(&worker, Some("first-key"));
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
        code(&Assets::of(&open, None).upload(model(whole, "a.safetensors")).await),
        (403, "forbidden")
    );
}

#[tokio::test]
async fn an_asset_goes_when_its_time_is_over() {
    let worker = Worker::attached(NOWHERE, &[("RESULT_TTL", "2")]).await;
    let client = Assets::of(&worker, None);
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
    let client = Assets::at(&worker.edit_url, None);
    assert_eq!(client.status(Method::GET, "/health").await, 200);
    let (status, asset) = client.upload(form("x", "a.png")).await;
    assert_eq!(status, 201, "{asset:#}");
    let link = text(&asset, "url");
    assert!(link.starts_with(&worker.edit_url), "{link}");
    assert_eq!(http().get(link).send().await.expect("an answer").status(), 200);
    let missing = client.answer(client.request(Method::GET, "/assets/none")).await;
    assert_eq!(code(&missing), (404, "not_found"));
    let path = format!("/assets/{}", text(&asset, "id"));
    assert_eq!(Assets::of(&worker, None).status(Method::DELETE, &path).await, 204);
}
