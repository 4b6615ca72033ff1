//! What a front adds to its engine: `POST /runsync` through the real binary with `ENGINES`, over a RunPod endpoint and an images
//! API on this machine that answer at once with a PNG of 3 MB, beside the same asked directly. Prints figures; the goals beside
//! them are for a release build on two cores.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "support/client.rs"]
#[expect(dead_code, reason = "it reads no streams")]
mod client;
#[path = "support/worker.rs"]
#[expect(dead_code, reason = "others need less")]
mod worker;

use std::future::ready;
use std::io::Cursor;
use std::thread;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;

use client::{Connection, request};
use worker::{Worker, milliseconds, share};

/// The side of the picture in pixels, which no compression makes smaller: 3 bytes each.
const SIDE: u32 = 1_000;
/// Requests before anything is measured.
const WARM_UP: usize = 10;
/// Requests one after another, each way in turn.
const ROUNDS: usize = 100;
/// Bytes that two of the engine's answers cannot have without the picture.
const LEAST: usize = 4_000_000;

fn main() {
    touch_memory();
    let picture = STANDARD.encode(noise());
    let address = serve(&picture);
    let runpod = format!("[[engine]]\nname = \"engine\"\nkind = \"runpod\"\nurl = \"http://{address}/v2/ep\"");
    let openai =
        format!("[[engine]]\nname = \"engine\"\nkind = \"openai\"\nurl = \"http://{address}/v1\"\nmodel = \"m\"");
    let run = request("POST", "/v2/ep/run", "application/json", b"{}");
    let status = request("GET", "/v2/ep/status/job", "application/json", b"");
    let generate = request("POST", "/v1/images/generations", "application/json", b"{}");
    for (kind, engines, directly) in [
        ("runpod", &runpod, &[run, status][..]),
        ("openai", &openai, &[generate]),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let front = Worker::start(folder.path(), &[("ENGINES", engines)]);
        println!(
            "{kind}: idle memory (RSS)       {:>8.1} MB     (goal: at most 25)",
            front.megabytes()
        );
        let input = json!({"input": {"prompt": "a red fox", "template": "qwen-image", "width": SIDE, "height": SIDE,
            "return_images_as": "base64"}});
        let through = [request(
            "POST",
            "/runsync",
            "application/json",
            input.to_string().as_bytes(),
        )];
        let (mut here, mut there) = (Connection::to(&front.address), Connection::to(&address));
        (here.keep, there.keep) = (0, 0);
        let (mut times, mut own) = (Vec::new(), Vec::new());
        for _ in 0..WARM_UP {
            time(&mut here, &through);
        }
        let before = front.processor_time();
        for _ in 0..ROUNDS {
            times.push(time(&mut here, &through));
            own.push(time(&mut there, directly));
        }
        let used = front.processor_time().saturating_sub(before);
        let (p50, direct) = (share(&mut times, 50), share(&mut own, 50));
        println!("{kind}: through the front, p50  {:>8.2} ms", milliseconds(p50));
        println!(
            "{kind}: the same, p99           {:>8.2} ms",
            milliseconds(share(&mut times, 99))
        );
        println!("{kind}: directly, p50           {:>8.2} ms", milliseconds(direct));
        println!(
            "{kind}: the front's share, p50  {:>8.2} ms     (goal: at most 5)",
            milliseconds(p50.saturating_sub(direct))
        );
        println!(
            "{kind}: our processor time      {:>8.2} ms a request",
            milliseconds(used) / ROUNDS as f64
        );
        println!(
            "{kind}: memory after {} jobs   {:>8.1} MB",
            WARM_UP + ROUNDS,
            front.megabytes()
        );
    }
}

/// The time until the last answer is read whole.
fn time(connection: &mut Connection, requests: &[Vec<u8>]) -> Duration {
    let begun = Instant::now();
    for request in requests {
        connection.ask(request);
    }
    let time = begun.elapsed();
    assert!(connection.length() > LEAST, "the picture is not in the answer");
    time
}

/// Has this machine touch the memory that the pictures' files will take: a virtual one gets it from its host when it is used for the first
/// time, which takes longer than writing a picture.
fn touch_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = vec![1; 100_000_000];
    for number in 0..10 {
        std::fs::write(folder.path().join(number.to_string()), &bytes).expect("a file");
    }
}

fn noise() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let noise = image::RgbImage::from_fn(SIDE, SIDE, |_, _| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let [red, green, blue, ..] = state.to_le_bytes();
        image::Rgb([red, green, blue])
    });
    let mut png = Cursor::new(Vec::new());
    noise.write_to(&mut png, image::ImageFormat::Png).expect("an encoder");
    png.into_inner()
}

/// Starts what stands in for both kinds of engines; gives host and port.
fn serve(picture: &str) -> String {
    let image = json!({"filename": "made_00001_.png", "type": "base64", "data": picture});
    let done = json!({"id": "job", "status": "COMPLETED", "executionTime": 1, "output": {"images": [image]}});
    let made = json!({"created": 1, "data": [{"b64_json": picture}]});
    let (done, made) = (Bytes::from(done.to_string()), Bytes::from(made.to_string()));
    let router = Router::new()
        .route(
            "/v2/ep/run",
            post(|_: Bytes| async { Json(json!({"id": "job", "status": "IN_QUEUE"})) }),
        )
        .route("/v2/ep/status/{job}", get(move || ready(answered(done.clone()))))
        .route(
            "/v1/images/generations",
            post(move |_: Bytes| ready(answered(made.clone()))),
        );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("an open socket");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("an open socket");
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("an open socket"));
            axum::serve(listener, router).await
        })
    });
    address
}

fn answered(body: Bytes) -> Response {
    ([(CONTENT_TYPE, "application/json")], Body::from(body)).into_response()
}
