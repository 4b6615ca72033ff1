//! What is passed on to ComfyUI: how, and what not. ComfyUI is one that only writes down what comes, so that nothing that it
//! would let through by itself goes unseen.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::support::upstream::{MARK, worker_on_it};
use super::support::{Worker, http, until};

/// Sends a request as it is written; gives the status and the rest of the answer.
async fn raw(worker: &Worker, method: &str, path: &str, headers: &str) -> (u16, String) {
    let address = worker.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\n{MARK}: 1\r\nconnection: close\r\ncontent-length: 0\r\n{headers}\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it takes the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{path}: {answer}")), answer)
}

#[tokio::test]
async fn what_is_ours_reaches_comfyui_by_no_spelling_of_its_path() {
    let (upstream, worker) = worker_on_it(&[]).await;
    let names = [
        "prompt",
        "queue",
        "history",
        "interrupt",
        "free",
        "jobs",
        "ws",
        "api/jobs/x/cancel",
    ];
    for name in names {
        let escaped: String = name
            .bytes()
            .map(|byte| {
                if byte == b'/' {
                    "/".to_owned()
                } else {
                    format!("%{byte:02x}")
                }
            })
            .collect();
        let (first, rest) = name.split_at(1);
        for path in [
            format!("/{name}"),
            format!("/{name}/"),
            format!("//{name}"),
            format!("/api/{name}"),
            format!("/api//{name}//"),
            format!("/api/api/{name}"),
            format!("/API/{name}"),
            format!("/{}", name.to_uppercase()),
            format!("/{}{rest}", first.to_uppercase()),
            format!("/{escaped}"),
            format!("/%61pi/{escaped}"),
            format!("/{}", escaped.replace('%', "%25")),
            format!("/{name};x"),
            format!("/{name};x=1/y"),
            format!("/;x/{name}"),
            format!("/api%2F{name}"),
            format!("/api%2f{name}"),
            format!("/%2F{name}"),
            format!("/./{name}"),
            format!("/x/../{name}"),
            format!("/x/%2e%2e/{name}"),
            format!("/x/.%2E/{name}"),
            format!("/userdata/..%2F{name}"),
            format!("/userdata/..%2f..%2fapi%2f{name}"),
            format!("/upload/..%2F{name}"),
            format!("/object_info/..%2f{name}"),
            format!("/x%5C..%5C{name}"),
            format!("/x\\..\\{name}"),
            format!("/{name}%00"),
            format!("/{name}%20"),
            format!("/%09{name}"),
            format!("/{name}%0d%0a"),
            format!("/%%37{rest}"),
            format!("/{name}?x=/../"),
            format!("http://elsewhere/{name}"),
            format!("/{name}#x"),
        ] {
            for method in ["GET", "POST", "HEAD", "DELETE", "PROPFIND"] {
                raw(&worker, method, &path, "").await;
            }
            raw(&worker, "GET", &path, "connection: upgrade\r\nupgrade: websocket\r\n").await;
        }
    }
    assert_eq!(upstream.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn a_path_goes_on_as_it_is_written_or_is_refused() {
    let (upstream, worker) = worker_on_it(&[]).await;
    for (path, goes_on_as) in [
        ("/known?a=%2F&b=c%20d", "/known?a=%2F&b=c%20d"),
        (
            "/api/userdata/workflows%2Fx.json?overwrite=true",
            "/api/userdata/workflows%2Fx.json?overwrite=true",
        ),
        (
            "/api/userdata/..%2F..%2Fetc%2Fpasswd",
            "/api/userdata/..%2F..%2Fetc%2Fpasswd",
        ),
        ("/object_info/Load%20Image", "/object_info/Load%20Image"),
        ("/%6Bnown", "/known"),
        ("//known", "/known"),
        ("/pack/", "/pack/"),
        ("/object_info/", "/object_info"),
        ("/v2/userdata?path=x", "/v2/userdata?path=x"),
        ("/docs/KSampler/en.md", "/docs/KSampler/en.md"),
        ("/", "/"),
    ] {
        raw(&worker, "GET", path, "").await;
        assert_eq!(
            upstream.lines().last().map(String::as_str),
            Some(format!("GET {goes_on_as}").as_str()),
            "{path}"
        );
    }
    let count = upstream.lines().len();
    for path in ["/a/../known", "/known%00", "/a%5Cb", "/%2e%2e/known", "/%zz"] {
        let (status, answer) = raw(&worker, "GET", path, "").await;
        assert_eq!(status, 400, "{path}");
        assert!(answer.contains("The path of the request has"), "{answer}");
    }
    assert_eq!(upstream.lines().len(), count);
}

#[tokio::test]
async fn headers_go_on_and_come_back_less_those_that_are_ours() {
    let (upstream, worker) = worker_on_it(&[("API_KEY", "k")]).await;
    let headers = "authorization: Bearer k\r\ncookie: a=1; qwen_image_worker_session=x\r\nrange: bytes=0-1\r\nsec-fetch-site: same-origin\r\naccept-encoding: gzip\r\n";
    let (status, answer) = raw(&worker, "GET", "/moved", headers).await;
    assert_eq!(status, 302);
    assert!(
        answer.contains("location: /elsewhere") && !answer.contains("access-control-allow-origin"),
        "{answer}"
    );
    let headers = upstream.came.lock().last().expect("it came").1.clone();
    for gone in ["authorization", "sec-fetch-site", "connection"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    assert_eq!(headers["cookie"], "a=1");
    assert_eq!(headers["range"], "bytes=0-1");
    assert_ne!(headers["host"], worker.url.trim_start_matches("http://"));
    // Where a key is asked for, no cache may give it to others.
    assert!(answer.contains("cache-control: private, max-age=60\r\n"), "{answer}");
    let (_, answer) = raw(&worker, "GET", "/packed", "authorization: Bearer k\r\n").await;
    assert!(
        answer.contains("content-encoding: gzip") && answer.contains("not unpacked"),
        "{answer}"
    );
    assert_eq!(raw(&worker, "GET", "/known", "").await.0, 401);
}

#[tokio::test]
async fn what_comfyui_does_not_have_is_answered_by_us() {
    let (_, worker) = worker_on_it(&[]).await;
    let (status, answer) = raw(&worker, "POST", "/generate", "").await;
    assert!(status == 404 && answer.contains("Did you mean"), "{answer}");
    let (status, answer) = raw(&worker, "GET", "/images/generations", "").await;
    assert!(status == 404 && answer.contains("Did you mean"), "{answer}");
    let (status, answer) = raw(&worker, "GET", "/nothing-like-it", "").await;
    assert!(
        status == 404 && answer.contains("There is no GET /nothing-like-it"),
        "{answer}"
    );
    // A method that a route of ours does not have.
    assert_eq!(raw(&worker, "GET", "/runsync/", "").await.0, 405);
}

#[tokio::test]
async fn without_the_page_only_the_api_is_passed_on_and_nothing_by_the_other_port() {
    let (upstream, worker) = worker_on_it(&[("COMFYUI_PAGE", "false")]).await;
    assert_eq!(raw(&worker, "GET", "/known", "").await.0, 404);
    let (status, answer) = raw(&worker, "GET", "/", "").await;
    assert!(status == 303 && answer.contains("location: play"), "{answer}");
    assert_eq!(upstream.lines(), Vec::<String>::new());
    raw(&worker, "GET", "/api/object_info", "").await;
    assert_eq!(upstream.lines(), ["GET /api/object_info"]);

    let (upstream, worker) = worker_on_it(&[]).await;
    for path in ["/known", "/object_info", "/api/object_info", "/view?filename=a"] {
        let answer = http()
            .get(format!("{}{path}", worker.edit_url))
            .header(MARK, "1")
            .send()
            .await;
        assert_eq!(answer.expect("an answer").status(), 404, "{path}");
    }
    assert_eq!(upstream.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn the_managers_routes_are_closed_until_they_are_opened() {
    let (upstream, worker) = worker_on_it(&[]).await;
    for path in ["/manager/reboot", "/api/customnode/getlist", "/v2/manager/queue/start"] {
        let (status, answer) = raw(&worker, "POST", path, "").await;
        assert!(status == 403 && answer.contains("COMFYUI_MANAGER"), "{answer}");
    }
    assert_eq!(upstream.lines(), Vec::<String>::new());
    let (upstream, worker) = worker_on_it(&[("COMFYUI_MANAGER", "true")]).await;
    raw(&worker, "POST", "/v2/manager/queue/start", "").await;
    assert_eq!(upstream.lines(), ["POST /v2/manager/queue/start"]);
}

#[tokio::test]
async fn assets_are_looked_at_and_not_changed() {
    let (upstream, worker) = worker_on_it(&[]).await;
    for (method, path) in [
        ("POST", "/api/assets"),
        ("DELETE", "/api/assets/x"),
        ("PUT", "/API/assets/x"),
        ("POST", "/api/userdata/..%2F..%2Fassets"),
        ("POST", "/upload/..%2Fassets"),
    ] {
        let (status, answer) = raw(&worker, method, path, "").await;
        assert!((400..500).contains(&status), "{path}: {answer}");
    }
    assert_eq!(upstream.lines(), Vec::<String>::new());
    raw(&worker, "GET", "/api/assets", "").await;
    assert_eq!(upstream.lines(), ["GET /api/assets"]);
}

#[tokio::test]
async fn bodies_go_on_piece_by_piece_and_a_client_that_leaves_ends_it() {
    let (upstream, worker) = worker_on_it(&[("MAX_BODY_MB", "1")]).await;
    let (tell, mut pieces) = mpsc::unbounded_channel();
    *upstream.pieces.lock() = Some(tell);
    let (send, body) = mpsc::unbounded_channel::<Bytes>();
    let body = stream::unfold(body, async |mut body| {
        Some((Ok::<_, Infallible>(body.recv().await?), body))
    });
    let request = http()
        .post(format!("{}/take", worker.url))
        .body(reqwest::Body::wrap_stream(body))
        .send();
    let request = tokio::spawn(request);
    for _ in 0..4 {
        // More in all than a body of ours may have.
        let mut left: usize = 1024 * 1024;
        send.send(vec![b'x'; left].into()).expect("it listens");
        while left > 0 {
            left -= pieces.recv().await.flatten().expect("a piece").len();
        }
    }
    drop(send);
    assert_eq!(pieces.recv().await, Some(None));
    assert_eq!(request.await.expect("a task").expect("an answer").status(), 200);

    let mut endless = http()
        .get(format!("{}/endless", worker.url))
        .send()
        .await
        .expect("an answer");
    assert!(endless.chunk().await.expect("a piece").is_some());
    drop(endless);
    until("the request to ComfyUI ends", async || {
        upstream.given_up.load(Ordering::SeqCst)
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_is_refused_never_comes_to_its_end() {
    let (upstream, worker) = worker_on_it(&[("MAX_BODY_MB", "1")]).await;
    let (tell, mut pieces) = mpsc::unbounded_channel();
    *upstream.pieces.lock() = Some(tell);
    let form = |fields: &[(&'static str, &'static str)]| {
        let file = reqwest::multipart::Part::bytes(vec![1; 3 * 1024 * 1024]).file_name("a.png");
        let form = reqwest::multipart::Form::new().part("image", file);
        fields.iter().fold(form, |form, (name, value)| form.text(*name, *value))
    };
    let url = format!("{}/api/upload/image", worker.url);
    let good = http()
        .post(&url)
        .multipart(form(&[("overwrite", "true"), ("type", "input")]))
        .send()
        .await;
    assert_eq!(good.expect("an answer").status(), 200);
    let mut came = Vec::new();
    while let Some(Some(piece)) = pieces.recv().await {
        came.extend_from_slice(&piece);
    }
    assert!(came.len() > 3 * 1024 * 1024 && came.ends_with(b"--\r\n"));
    for fields in [
        [("overwrite", "true"), ("type", "output")].as_slice(),
        &[("type", "temp"), ("overwrite", "1")],
        &[("subfolder", "x/../qwen-image-worker")],
        // What ComfyUI would read as the first.
        &[("/overwrite", "true"), ("\\type", "output")],
    ] {
        let answer = http()
            .post(&url)
            .multipart(form(fields))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 400, "{fields:?}");
        let body: serde_json::Value = answer.json().await.expect("JSON");
        assert!(body["error"]["message"].is_string(), "{body}");
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    while let Ok(piece) = pieces.try_recv() {
        assert!(piece.is_some_and(|piece| !piece.ends_with(b"--\r\n")));
    }
}

#[tokio::test]
async fn a_websocket_of_a_pack_is_joined_with_comfyuis() {
    let (_, worker) = worker_on_it(&[]).await;
    let address = worker.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!(
        "GET /socket HTTP/1.1\r\nhost: {address}\r\n{MARK}: 1\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it takes the request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text");
    assert!(
        head.starts_with("HTTP/1.1 101") && head.contains("sec-websocket-accept: yes"),
        "{head}"
    );
    stream.write_all(b"ping").await.expect("it takes bytes");
    let mut said = [0; 4];
    stream.read_exact(&mut said).await.expect("an echo");
    assert_eq!(&said, b"ping");
}

#[tokio::test]
async fn while_comfyui_is_away_programs_are_told_and_people_wait() {
    let worker = Worker::attached("http://127.0.0.1:1", &[]).await;
    let (status, answer) = raw(&worker, "GET", "/api/object_info", "").await;
    assert_eq!(status, 503);
    assert!(
        answer.contains("retry-after: 5") && answer.contains(r#"{"error":{"type":"comfy_unavailable""#),
        "{answer}"
    );
    let (status, answer) = raw(&worker, "GET", "/a/b", "accept: text/html,*/*\r\n").await;
    assert_eq!(status, 503);
    assert!(
        answer.contains(r#"src="../docs/waiting.js""#) && answer.contains("content-security-policy"),
        "{answer}"
    );
    let (_, answer) = raw(&worker, "GET", "/a/", "accept: text/html\r\n").await;
    assert!(answer.contains(r#"src="../docs/waiting.js""#), "{answer}");
    // What is no path of ComfyUI's either is told at once.
    let (status, answer) = raw(&worker, "POST", "/v2/x/runsnc", "").await;
    assert!(
        status == 404 && answer.contains("Did you mean POST /runsync"),
        "{answer}"
    );
    let (status, answer) = raw(&worker, "GET", "/nothing-like-it", "").await;
    assert!(status == 503, "{answer}");
    let script = worker.get("/docs/waiting.js").await;
    assert_eq!(
        (script.status().as_u16(), script.headers()["content-type"].to_str().ok()),
        (200, Some("text/javascript; charset=utf-8"))
    );
}
