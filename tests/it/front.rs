//! What a request is judged by before a route sees it: its host, its path, its key. ComfyUI is not needed for that.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::support::binary::{binary, said_after};
use crate::support::{Worker, http};

/// Where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";
const KEY: &str = "0123456789-in-an-address";

/// Sends a request by hand; gives the status and the body.
async fn raw(url: &str, head: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(url.trim_start_matches("http://"))
        .await
        .expect("a connection");
    let request = format!("{head}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.unwrap_or_default(), body.to_owned())
}

async fn get(url: String) -> (u16, String) {
    let answer = http().get(url).send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a text"))
}

#[tokio::test]
async fn a_request_names_one_host() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    for url in [&worker.url, &worker.edit_url] {
        for (hosts, words) in [
            ("host: 127.0.0.1\r\nhost: 127.0.0.1", "more than one Host header"),
            ("host: localhost\r\nHost: evil.example", "more than one Host header"),
            ("host: evil.example@127.0.0.1", "names no host"),
        ] {
            let (status, said) = raw(url, &format!("GET /jobs HTTP/1.1\r\n{hosts}")).await;
            assert!(status == 400 && said.contains(words), "{hosts:?}: {status} {said}");
        }
    }
    assert_eq!(raw(&worker.url, "GET /health HTTP/1.1\r\nhost: localhost").await.0, 200);
}

#[tokio::test]
async fn slashes_too_many_lead_to_the_same_route() {
    let worker = Worker::attached(NOWHERE, &[("HEALTH_CHECK_PATH", "/alive/")]).await;
    for path in [
        "/v1//models",
        "/v1/models/",
        "//health",
        "/v2/any//health/",
        "/edit/",
        "/edit//jobs/",
        "/gradio_api//info",
        "/config/?a=//",
        "/v1//models/Qwen/Qwen-Image/",
    ] {
        let (status, said) = get(format!("{}{path}", worker.url)).await;
        assert_eq!(status, 200, "{path}: {said}");
    }
    for path in ["//", "//jobs/", "/debug//files"] {
        let (status, said) = get(format!("{}{path}", worker.edit_url)).await;
        assert_eq!(status, 200, "{path}: {said}");
    }
    // As it is configured.
    assert_ne!(get(format!("{}/alive/", worker.url)).await.0, 404);
    // In the words of the API that was asked.
    for (path, words) in [
        ("/v1//images/generations/", "\"type\""),
        ("/api/v1/qwen//generate", "\"code\""),
    ] {
        let answer = http().post(format!("{}{path}", worker.url)).body("{}").send().await;
        let answer = answer.expect("an answer");
        assert!(answer.status().is_client_error() && answer.status() != 404, "{path}");
        let said = answer.text().await.expect("a text");
        assert!(said.contains(words), "{path}: {said}");
    }
}

#[tokio::test]
async fn an_unknown_path_is_answered_shortly() {
    let worker = Worker::attached(NOWHERE, &[]).await;
    let (status, said) = get(format!("{}/v1/image/generations", worker.url)).await;
    assert_eq!(status, 404);
    assert!(
        said.contains("Did you mean POST /v1/images/generations") && said.contains("GET /docs"),
        "{said}"
    );
    assert!(said.len() < 400, "{said}");
    let long = "x".repeat(50_000);
    for path in [
        format!("/{long}"),
        format!("/v1/{long}"),
        format!("/view?filename={long}"),
        format!("/view?filename=a&type={long}"),
        format!("/view?filename=a&filename={long}"),
        format!("/requests?status={long}"),
        format!("/api/v1/qwen/record-info?taskId={long}"),
        format!("/status/{long}"),
        format!("/v1/models/{long}"),
        format!("/edit/status/{long}"),
    ] {
        let (status, said) = get(format!("{}{path}", worker.url)).await;
        // Without a ComfyUI no file can be looked for.
        assert!((400..=503).contains(&status), "{}: {status}", &path[..20]);
        assert!(said.len() < 1_000, "{}: {} bytes", &path[..20], said.len());
    }
    let method = format!("{}\u{20}/run HTTP/1.1\r\nhost: a", "M".repeat(5_000));
    let (status, said) = raw(&worker.url, &method).await;
    assert!((400..500).contains(&status) && said.len() < 1_000, "{status} {said}");
}

#[tokio::test]
async fn an_event_stream_takes_a_key_in_its_address_and_nothing_else_does_nor_does_the_log() {
    let data = tempfile::tempdir().expect("a folder");
    let vars = [
        ("DATA_DIR", data.path().display().to_string()),
        ("COMFYUI_URL", NOWHERE.to_owned()),
        ("PORT", "0".to_owned()),
        ("EDIT_PORT", "none".to_owned()),
        ("API_KEY", KEY.to_owned()),
        ("LOG_LEVEL", "trace".to_owned()),
    ];
    let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut worker = binary(&vars).arg("serve").spawn().expect("the binary runs");
    let mut lines = BufReader::new(worker.stderr.take().expect("piped")).lines();
    let mut log = String::new();
    let url = said_after("listening on ", &mut lines, &mut log).await;
    let rest = tokio::spawn(async move {
        let mut log = String::new();
        while let Ok(Some(line)) = lines.next_line().await {
            log.push_str(&line);
            log.push('\n');
        }
        log
    });
    for path in [
        "/events/4711",
        "/gradio_api/call/infer/4711",
        "/gradio_api/queue/data",
        "/events//4711/",
    ] {
        for (query, refused) in [
            ("", true),
            ("?token=wrong", true),
            (&*format!("?a=b&token={KEY}"), false),
        ] {
            let (status, said) = get(format!("{url}{path}{query}")).await;
            assert_eq!(status == 401, refused, "{path}{query}: {status} {said}");
            assert!(!said.contains(KEY), "{said}");
        }
    }
    for path in ["/health", "/status/4711", "/v1/models", "/no-such-route"] {
        assert_eq!(get(format!("{url}{path}?token={KEY}")).await.0, 401, "{path}");
    }
    let posted = http()
        .post(format!("{url}/gradio_api/queue/join?token={KEY}"))
        .body("{}")
        .send()
        .await;
    assert_eq!(posted.expect("an answer").status(), 401);
    let answer = http()
        .get(format!("{url}/health"))
        .header("X-HF-Authorization", format!("Bearer {KEY}"));
    assert_eq!(answer.send().await.expect("an answer").status(), 200);
    worker.kill().await.expect("it runs");
    let log = rest.await.expect("no panic");
    assert!(log.contains("/events/{id}") && !log.contains(KEY), "{log}");
}
