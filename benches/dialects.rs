//! The dialects beside `/runsync`, their idle streams, and the previews that they pass on: the real binary over a ComfyUI
//! that makes nothing. Prints figures; the goals beside them are for a release build on two cores.
//!
//! The stand-in for ComfyUI is this program too.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "support/client.rs"]
mod client;
#[path = "support/fake_comfyui.rs"]
mod fake_comfyui;
#[path = "support/ways.rs"]
mod ways;
#[path = "support/worker.rs"]
#[expect(dead_code, reason = "others need more")]
mod worker;

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ExtendedColorType, ImageEncoder as _, codecs::png::PngEncoder};
use serde_json::json;

use client::{Connection, request};
use fake_comfyui::Plan;
use ways::{Picture, Way};
use worker::{Worker, milliseconds, share};

/// The side of the picture, in pixels: noise of that size has 3 MB.
const PICTURE_SIDE: u32 = 1000;
/// The side of the image that is sent, in pixels: 12 kB.
const IMAGE_SIDE: u32 = 64;
/// Rounds before anything is measured: connections are made, descriptions of classes are fetched.
const WARM_UP: usize = 20;
/// Rounds that are measured. Each goes every way once, so that what else the machine does meets all of them alike.
const ROUNDS: usize = 200;
/// Streams at once.
const STREAMS: usize = 1_000;
/// Files that must be open for that, in this process and in the worker.
const OPEN_FILES: usize = STREAMS + 100;
/// Previews that are measured in each kind of stream.
const PREVIEWS: u32 = 102;
/// The time between two previews, in milliseconds; those that come within 250 ms are passed over.
const PREVIEW_MS: u64 = 300;
/// The most previews that OpenAI's API sends of one picture.
const PARTIAL_IMAGES: u32 = 3;

fn main() {
    if fake_comfyui::stood_in() {
        return;
    }
    let wanted = ["requests", "streams", "previews"];
    let asked: Vec<String> = std::env::args()
        .filter(|part| wanted.contains(&part.as_str()))
        .collect();
    let is_wanted = |part: &str| asked.is_empty() || asked.iter().any(|one| one == part);
    if is_wanted("requests") {
        requests();
    }
    if is_wanted("streams") {
        streams();
    }
    if is_wanted("previews") {
        previews();
    }
}

/// Each dialect's request beside `/runsync`'s.
fn requests() {
    let picture = noise(PICTURE_SIDE);
    let folder = tempfile::tempdir().expect("a folder");
    let comfyui = fake_comfyui::install(folder.path(), &picture);
    let worker = Worker::start_until_ready(&folder.path().join("data"), &[("COMFYUI_DIR", &comfyui)]);
    let picture = Picture::new(picture);
    let mut ways = ways::ways(&worker.address, &noise(IMAGE_SIDE));
    let mut times = vec![Vec::with_capacity(ROUNDS); ways.len()];
    for _ in 0..WARM_UP {
        for way in &mut ways {
            way.check(&picture);
        }
    }
    for _ in 0..ROUNDS {
        for (way, times) in ways.iter_mut().zip(&mut times) {
            let begun = Instant::now();
            way.go();
            times.push(begun.elapsed());
            assert!(
                way.is_complete(&picture),
                "{}: the picture is not in the answer",
                way.name
            );
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| milliseconds(share(times, 50))).collect();
    println!("a picture of 3 MB, p50 of {ROUNDS}              beside /runsync");
    for (way, median) in ways.iter().zip(&medians) {
        let Way { name, edits, .. } = way;
        let base = ways.iter().zip(&medians).find(|(base, _)| base.edits == *edits);
        let difference = median - base.map_or(f64::NAN, |(_, base)| *base);
        if name.starts_with("/runsync") {
            println!("{name:<36}{median:>8.2} ms");
        } else {
            println!("{name:<36}{median:>8.2} ms {difference:>+8.2} ms   (goal: at most +3)");
        }
    }
}

/// What streams cost that have nothing to tell. No job runs: their ComfyUI never answers.
fn streams() {
    let limit = most_open_files();
    assert!(
        limit >= OPEN_FILES,
        "{STREAMS} streams take {OPEN_FILES} open files, and {limit} are allowed: raise that with `ulimit -n`"
    );
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let comfyui = format!("http://{}", silent.local_addr().expect("an address"));
    let data = tempfile::tempdir().expect("a folder");
    let start = |name: &str| {
        let vars = [("COMFYUI_URL", comfyui.as_str()), ("QUEUE_LIMIT", "100000")];
        Worker::start(&data.path().join(name), &vars)
    };

    let worker = start("events");
    let body = json!({"input": {"prompt": "a red fox in the snow"}}).to_string();
    let job = Connection::to(&worker.address).send("POST", "/run", &body);
    let path = format!("/events/{}", job["id"].as_str().expect("an id"));
    idle(&worker, "/events of a job that waits", |_| path.clone());

    let worker = start("heartbeat");
    idle(&worker, "Gradio's heartbeat", |index| {
        format!("/gradio_api/heartbeat/session{index}")
    });

    let worker = start("data");
    let mut connection = Connection::to(&worker.address);
    for index in 0..=STREAMS {
        connection.ask(&ways::join(&format!("session{index}")));
    }
    idle(&worker, "Gradio's queue/data of a job that waits", |index| {
        format!("/gradio_api/queue/data?session_hash=session{index}")
    });
}

/// Opens streams and waits until each has told what it tells at once, and has kept itself open once.
fn idle(worker: &Worker, name: &str, path: impl Fn(usize) -> String) {
    let open = |index| {
        let mut connection = Connection::small(&worker.address);
        connection.stream(&request("GET", &path(index), "application/json", b""));
        assert!(connection.next_chunk().is_some(), "the stream ended");
        connection
    };
    // The first one is not counted: what all of them share is made for it.
    let first = open(STREAMS);
    let before = worker.megabytes();
    let mut streams: Vec<Connection> = (0..STREAMS).map(open).collect();
    let opened = worker.megabytes();
    for stream in &mut streams {
        stream.until(|chunk| {
            let keeps_open: [&[u8]; 3] = [b":", b"data: ALIVE", b"data: {\"msg\":\"heartbeat\""];
            keeps_open.iter().any(|start| chunk.starts_with(start))
        });
    }
    let after = worker.megabytes();
    println!(
        "{STREAMS} idle streams, {name}: {:>6.1} MB as they begin, {:>6.1} MB after 15 s  (goal: under 50), of {after:.1} MB in all",
        opened - before,
        after - before
    );
    drop((first, streams));
}

/// How long a preview takes from ComfyUI to the client.
fn previews() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .expect("a port");
    let comfyui = format!("http://{}", listener.local_addr().expect("an address"));
    let plan = Arc::new(Plan {
        content: noise(IMAGE_SIDE).into(),
        ..Plan::default()
    });
    plan.preview_ms.store(PREVIEW_MS, Ordering::Relaxed);
    runtime.spawn(fake_comfyui::serve_on(listener, Vec::new(), Arc::clone(&plan)));
    let data = tempfile::tempdir().expect("a folder");
    let worker = Worker::start(data.path(), &[("COMFYUI_URL", &comfyui)]);
    let mut connection = Connection::to(&worker.address);
    let input = json!({"input": {"prompt": "a red fox in the snow"}}).to_string();
    // Warms up.
    connection.send("POST", "/runsync", &input);

    plan.previews.store(PREVIEWS, Ordering::Relaxed);
    let job = connection.send("POST", "/run", &input);
    let path = format!("/events/{}", job["id"].as_str().expect("an id"));
    let events = request("GET", &path, "application/json", b"");
    tell("/events", &plan, &arrivals(&mut connection, &events, "\"image\":\""));

    plan.previews.store(PARTIAL_IMAGES, Ordering::Relaxed);
    let body = json!({"prompt": "a red fox in the snow", "stream": true, "partial_images": PARTIAL_IMAGES});
    let generate = request(
        "POST",
        "/v1/images/generations",
        "application/json",
        body.to_string().as_bytes(),
    );
    let mut all = HashMap::new();
    for _ in 0..PREVIEWS / PARTIAL_IMAGES {
        all.extend(arrivals(&mut connection, &generate, "\"b64_json\":\""));
    }
    tell("OpenAI, partial_images", &plan, &all);
}

/// When each preview of a stream had arrived whole, by its number; `before` stands before its base64.
fn arrivals(connection: &mut Connection, request: &[u8], before: &str) -> HashMap<u32, Instant> {
    connection.stream(request);
    let mut arrivals = HashMap::new();
    while let Some(chunk) = connection.next_chunk() {
        let now = Instant::now();
        let text = std::str::from_utf8(chunk).expect("UTF-8");
        let is_preview = text.starts_with("event: preview") || text.contains("partial_image_index");
        if !is_preview {
            continue;
        }
        let (_, base64) = text.split_once(before).expect("a picture");
        let number = STANDARD.decode(&base64[..8]).expect("base64");
        let number = std::str::from_utf8(&number).expect("digits").parse().expect("a number");
        arrivals.insert(number, now);
    }
    arrivals
}

fn tell(name: &str, plan: &Plan, arrivals: &HashMap<u32, Instant>) {
    let shown = plan.shown.lock().unwrap_or_else(PoisonError::into_inner);
    let times = arrivals.iter().map(|(number, at)| at.duration_since(shown[number]));
    let mut times: Vec<Duration> = times.collect();
    assert!(!times.is_empty(), "{name}: no preview came");
    println!(
        "preview to the client, {name:<24} p50 {:>6.2} ms, p99 {:>6.2} ms  (goal: at most 20), {} of {PREVIEWS} shown",
        milliseconds(share(&mut times, 50)),
        milliseconds(share(&mut times, 99)),
        times.len()
    );
}

/// A PNG of noise.
fn noise(side: u32) -> Vec<u8> {
    let mut pixels = vec![0; (side * side * 3) as usize];
    getrandom::fill(&mut pixels).expect("random numbers");
    let mut png = Vec::new();
    let encoder = PngEncoder::new(&mut png);
    let written = encoder.write_image(&pixels, side, side, ExtendedColorType::Rgb8);
    written.expect("it is written to memory");
    png
}

/// The open files that this process may have, and those that it starts.
fn most_open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    // `unlimited` is no number.
    soft.unwrap_or(usize::MAX)
}
