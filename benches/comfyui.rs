//! ComfyUI's own API through the worker, beside the stand-in for ComfyUI itself: what passing on costs, how soon an event is
//! with its client, what open websockets weigh, and the page for people. Prints figures; the goals beside them are for a
//! release build on two cores. `-- passed`, `events`, `idle` or `play` alone.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "support/client.rs"]
#[expect(dead_code, reason = "most of it is for streams")]
mod client;
#[path = "support/fake_comfyui.rs"]
#[expect(dead_code, reason = "it listens where it is told, and is started by nobody")]
mod fake_comfyui;
#[path = "support/worker.rs"]
#[expect(dead_code, reason = "this one starts no ComfyUI")]
mod process;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use client::{Connection, request};
use fake_comfyui::{PICTURE, Plan};
use process::{Worker, milliseconds, share};

/// Small requests each way, one after another.
const SMALL: usize = 2_000;
/// The size of a large file, in bytes.
const LARGE_BYTES: usize = 100_000_000;
/// How often it is fetched each way.
const LARGE: usize = 7;
/// Events with a preview each, and the time between two.
const EVENTS: u32 = 200;
const EVERY_MS: u64 = 20;
/// Websockets that hear nothing.
const IDLE: usize = 500;
/// When they are looked at.
const SETTLED: Duration = Duration::from_secs(3);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// One part of what is measured.
type Part = fn(&Runtime);

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");

    let parts: [(&str, Part); 4] = [("passed", passed), ("events", events), ("idle", idle), ("play", play)];
    for (name, measure) in parts {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            measure(&runtime);
        }
    }
}

/// A worker beside a stand-in for ComfyUI.
struct Bench {
    worker: Worker,
    plan: Arc<Plan>,
    /// The stand-in's host and port.
    comfyui: String,
    _data: tempfile::TempDir,
}

impl Bench {
    fn start(runtime: &Runtime, content: Vec<u8>) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let comfyui = listener.local_addr().expect("an address").to_string();
        let plan = Arc::new(Plan {
            content: content.into(),
            ..Plan::default()
        });
        runtime.spawn(fake_comfyui::serve_on(listener, Vec::new(), Arc::clone(&plan)));
        let data = tempfile::tempdir().expect("a folder");
        let address = format!("http://{comfyui}");
        let worker = Worker::start(data.path(), &[("COMFYUI_URL", &address)]);
        let deadline = Instant::now() + Duration::from_mins(1);
        let is_ready = || {
            let health = Connection::to(&worker.address).send("GET", "/health", "");
            health["comfyui"]["state"] == "ready"
        };
        while !is_ready() {
            assert!(Instant::now() < deadline, "the stand-in is not found");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            worker,
            plan,
            comfyui,
            _data: data,
        }
    }
}

/// What passing on adds to small and large answers.
fn passed(runtime: &Runtime) {
    let bench = Bench::start(runtime, vec![0x5a; LARGE_BYTES]);
    let mut direct = Connection::to(&bench.comfyui);
    let mut through = Connection::to(&bench.worker.address);
    let ask = |connection: &mut Connection, path: &str| {
        let request = request("GET", path, "application/json", b"");
        let begun = Instant::now();
        connection.ask(&request);
        begun.elapsed()
    };
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..SMALL {
        for (connection, times) in [&mut direct, &mut through].into_iter().zip(&mut times) {
            let time = ask(connection, "/system_stats");
            // The first ones warm up.
            if round >= SMALL / 10 {
                times.push(time);
            }
        }
    }
    let [alone, passed] = times.each_mut().map(|times| milliseconds(share(times, 50)));
    println!(
        "small GET, p50               {alone:>8.2} ms direct, {passed:.2} ms passed on: +{:.2} (goal: at most +1)",
        passed - alone
    );

    let path = format!("/view?filename={PICTURE}&subfolder=&type=output");
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..LARGE {
        for (connection, times) in [&mut direct, &mut through].into_iter().zip(&mut times) {
            connection.keep = 0;
            times.push(ask(connection, &path));
            assert_eq!(connection.length(), LARGE_BYTES);
        }
    }
    let [alone, passed] = times
        .each_mut()
        .map(|times| LARGE_BYTES as f64 / 1e6 / share(times, 50).as_secs_f64());
    println!(
        "/view of 100 MB              {alone:>8.0} MB/s direct, {passed:.0} MB/s passed on: {:.0} % (goal: at least 90)",
        passed / alone * 100.0
    );
}

/// How long a preview takes from ComfyUI's frame to the client's websocket.
fn events(runtime: &Runtime) {
    let bench = Bench::start(runtime, b"a picture".to_vec());
    bench.plan.previews.store(EVENTS, Ordering::Relaxed);
    bench.plan.preview_ms.store(EVERY_MS, Ordering::Relaxed);
    let template: Value = serde_json::from_str(include_str!("../test_input.json")).expect("JSON");
    let arrivals = runtime.block_on(async {
        let mut socket = listen(&bench.worker, "bench").await;
        let flags = json!({"type": "feature_flags", "data": {"supports_preview_metadata": true}});
        socket.send(Message::text(flags.to_string())).await.expect("it listens");
        let prompt = json!({"prompt": template["input"]["workflow"], "client_id": "bench"}).to_string();
        let address = bench.worker.address.clone();
        let sent = tokio::task::spawn_blocking(move || Connection::to(&address).send("POST", "/prompt", &prompt));
        let mut arrivals = HashMap::new();
        loop {
            let message = socket.next().await.expect("it goes on").expect("a frame");
            let now = Instant::now();
            match message {
                Message::Binary(frame) => arrivals.extend(number(&frame).map(|number| (number, now))),
                Message::Text(text) if is_end(&text) => break,
                _ => {}
            }
        }
        sent.await.expect("an answer");
        arrivals
    });
    let shown = bench.plan.shown.lock().expect("no panic");
    let mut times: Vec<Duration> = arrivals
        .iter()
        .filter_map(|(number, at)| Some(at.duration_since(*shown.get(number)?)))
        .collect();
    assert_eq!(times.len(), EVENTS as usize, "a preview is missing");
    println!(
        "preview of 40 kB to /ws      {:>8.2} ms p50, {:.2} ms p99 (goal: at most 2)",
        milliseconds(share(&mut times, 50)),
        milliseconds(share(&mut times, 99))
    );
}

/// Whether this text ends a prompt.
fn is_end(text: &str) -> bool {
    let message: Value = serde_json::from_str(text).expect("JSON");
    message["type"] == "executing" && message["data"]["node"].is_null()
}

/// The number of a preview, which stands before its picture.
fn number(frame: &[u8]) -> Option<u32> {
    let word = |at: usize| Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
    let metadata = match word(0)? {
        4 => word(4)? as usize,
        _ => 0,
    };
    std::str::from_utf8(frame.get(8 + metadata..14 + metadata)?)
        .ok()?
        .parse()
        .ok()
}

async fn listen(worker: &Worker, client: &str) -> Socket {
    let address = format!("ws://{}/ws?clientId={client}", worker.address);
    connect_async(address).await.expect("a websocket").0
}

/// What open websockets weigh that hear nothing but the first words.
fn idle(runtime: &Runtime) {
    let bench = Bench::start(runtime, Vec::new());
    let before = bench.worker.megabytes();
    let sockets: Vec<Socket> = runtime.block_on(async {
        let mut sockets = Vec::with_capacity(IDLE);
        for number in 0..IDLE {
            let mut socket = listen(&bench.worker, &format!("idle-{number}")).await;
            socket.next().await.expect("a greeting").expect("a frame");
            sockets.push(socket);
        }
        tokio::time::sleep(SETTLED).await;
        sockets
    });
    let more = bench.worker.megabytes() - before;
    println!(
        "{} idle websockets          {more:>8.1} MB (goal: under 50)",
        sockets.len()
    );
}

/// What the page for people weighs, with all its parts, as browsers take them.
fn play(runtime: &Runtime) {
    let bench = Bench::start(runtime, Vec::new());
    let mut connection = Connection::to(&bench.worker.address);
    let mut weight = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nAccept-Encoding: gzip\r\n\r\n");
        connection.ask(request.as_bytes());
        connection.length()
    };
    let mut all = weight("/play");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/play");
    for file in std::fs::read_dir(folder).expect("a folder") {
        let name = file.expect("a file").file_name();
        let name = name.to_str().expect("a text");
        let ending = name.rsplit('.').next().unwrap_or_default();
        if ["js", "css"].contains(&ending) {
            all += weight(&format!("/play/{name}"));
        }
    }
    println!(
        "/play with its parts         {:>8.1} kB (goal: under 150)",
        all as f64 / 1e3
    );
}
