//! The worker's own share of `POST /runsync`: the real binary over a ComfyUI that answers at once, with one picture of
//! 3 MB as base64 in each answer. Prints figures; the goals beside them are for a release build on two cores.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "support/client.rs"]
#[expect(dead_code, reason = "it reads no streams")]
mod client;
#[path = "support/fake_comfyui.rs"]
mod fake_comfyui;
#[path = "support/worker.rs"]
#[expect(dead_code, reason = "others need less")]
mod worker;

use std::thread;
use std::time::{Duration, Instant};

use client::{Connection, request};
use worker::{Worker, milliseconds, share};

/// The size of the picture, in bytes.
const PICTURE_BYTES: usize = 3_000_000;
/// Requests before anything is measured: connections are made, descriptions of classes are fetched.
const WARM_UP: usize = 20;
/// Requests one after another, for the latency.
const ALONE: usize = 200;
/// Connections at once, for the throughput.
const CONNECTIONS: usize = 4;
/// Requests on each of them.
const EACH: usize = 150;

fn main() {
    if fake_comfyui::stood_in() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let comfyui = fake_comfyui::install(folder.path(), &vec![0x5a; PICTURE_BYTES]);
    let worker = Worker::start_until_ready(&folder.path().join("data"), &[("COMFYUI_DIR", &comfyui)]);
    let spawned_after = worker.spawned_after.expect("it says when ComfyUI starts");
    println!(
        "start to ComfyUI spawned   {:>8.1} ms     (goal: at most 50)",
        milliseconds(spawned_after)
    );
    println!(
        "idle memory (RSS)          {:>8.1} MB     (goal: at most 25)",
        worker.megabytes()
    );

    let mut client = Client::of(&worker);
    let longest = (0..WARM_UP).map(|_| client.request()).max();
    println!(
        "longest while warming up   {:>8.1} ms",
        milliseconds(longest.unwrap_or_default())
    );
    let mut times: Vec<Duration> = (0..ALONE).map(|_| client.request()).collect();
    println!(
        "latency p50                {:>8.2} ms     (goal: at most 8)",
        milliseconds(share(&mut times, 50))
    );
    println!(
        "latency p99                {:>8.2} ms",
        milliseconds(share(&mut times, 99))
    );

    let before = worker.processor_time();
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            let mut client = Client::of(&worker);
            scope.spawn(move || (0..EACH).for_each(|_| _ = client.request()));
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let used = worker.processor_time().saturating_sub(before);
    let requests = CONNECTIONS * EACH;
    println!(
        "throughput                 {:>8.0} req/s  (goal: at least 150)",
        requests as f64 / seconds
    );
    println!(
        "our processor time         {:>8.2} ms a request",
        milliseconds(used) / requests as f64
    );
    println!(
        "memory after {:>4} jobs      {:>8.1} MB",
        WARM_UP + ALONE + requests,
        worker.megabytes()
    );
}

struct Client {
    connection: Connection,
    request: Vec<u8>,
}

impl Client {
    fn of(worker: &Worker) -> Self {
        let mut body: serde_json::Value = serde_json::from_str(include_str!("../test_input.json")).expect("JSON");
        body["input"]["return_images_as"] = "base64".into();
        let mut connection = Connection::to(&worker.address);
        connection.keep = 0;
        Self {
            connection,
            request: request("POST", "/runsync", "application/json", body.to_string().as_bytes()),
        }
    }

    /// Sends one request and reads the whole answer; gives the time that took.
    fn request(&mut self) -> Duration {
        let begun = Instant::now();
        self.connection.ask(&self.request);
        let time = begun.elapsed();
        let length = self.connection.length();
        assert!(length > PICTURE_BYTES / 3 * 4, "the picture is not in the answer");
        time
    }
}
