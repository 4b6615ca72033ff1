//! The job core by figures, with the real binary: how fast jobs are taken in and asked for, what thousands of them leave
//! in memory, and how long the GPU waits between two prompts. Prints figures; the goals beside them are for a release
//! build on two cores.
//!
//! The stand-in for ComfyUI is this program too. The last figure takes the real ComfyUI, installed as
//! `./start.sh` does: `cargo bench --bench jobs -- idle`.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "support/client.rs"]
#[expect(dead_code, reason = "it reads no streams")]
mod client;
#[path = "support/fake_comfyui.rs"]
mod fake_comfyui;
#[path = "support/worker.rs"]
#[expect(dead_code, reason = "others need more")]
mod worker;

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use client::Connection;
use worker::Worker;

/// Jobs that wait while others are taken in and asked for.
const WAITING: usize = 1_000;
/// Jobs that are taken in for the rate.
const TAKEN: usize = 20_000;
/// Questions for the latency.
const ASKED: usize = 5_000;
/// Connections at once.
const CONNECTIONS: usize = 8;
/// Jobs from start to end, for the memory; it is looked at ten times.
const RUN: usize = 10_000;
/// Prompts on the real ComfyUI.
const PROMPTS: usize = 20;
/// Room for all of them.
const QUEUE_LIMIT: (&str, &str) = ("QUEUE_LIMIT", "100000");

fn main() {
    if fake_comfyui::stood_in() {
        return;
    }
    if std::env::args().any(|argument| argument == "idle") {
        idle_time(1, "goal: at most 2");
        idle_time(0, "goal: at most 10");
        idle_time(16, "ComfyUI's own pace: its queue is never empty");
    } else {
        intake();
        memory();
    }
}

/// Jobs are taken in and asked for while none runs: their ComfyUI never answers.
fn intake() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let comfyui = format!("http://{}", silent.local_addr().expect("an address"));
    let data = tempfile::tempdir().expect("a folder");
    let worker = Worker::start(data.path(), &[("COMFYUI_URL", &comfyui), QUEUE_LIMIT]);
    let body = include_str!("../test_input.json");
    let ids = take_in(&worker, WAITING, body);
    let mut connection = Connection::to(&worker.address);
    let mut times: Vec<Duration> = (0..ASKED)
        .map(|index| {
            let begun = Instant::now();
            let answer = connection.send("GET", &format!("/status/{}", ids[index * 7919 % ids.len()]), "");
            let time = begun.elapsed();
            assert_eq!(answer["status"], "IN_QUEUE");
            time
        })
        .collect();
    times.sort_unstable();
    let milliseconds = |share: usize| times[ASKED * share / 100].as_secs_f64() * 1000.0;
    println!(
        "/status beside {WAITING} waiting jobs, p50  {:>8.3} ms",
        milliseconds(50)
    );
    println!(
        "/status beside {WAITING} waiting jobs, p99  {:>8.3} ms      (goal: under 5)",
        milliseconds(99)
    );
    let begun = Instant::now();
    let taken = take_in(&worker, TAKEN, body).len();
    println!(
        "/run, {CONNECTIONS} connections                  {:>8.0} jobs/s  (goal: at least 2000)",
        taken as f64 / begun.elapsed().as_secs_f64()
    );
}

/// What thousands of jobs leave behind.
fn memory() {
    let data = tempfile::tempdir().expect("a folder");
    let comfyui = fake_comfyui::install(data.path(), &[0x5a; 1000]);
    let worker = Worker::start(data.path(), &[("COMFYUI_DIR", &comfyui), QUEUE_LIMIT]);
    println!("memory (RSS) before any job           {:>8.1} MB", worker.megabytes());
    let body = include_str!("../test_input.json");
    let begun = Instant::now();
    for part in 1..=10 {
        thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                let mut connection = Connection::to(&worker.address);
                scope.spawn(move || {
                    for _ in 0..RUN / 10 / CONNECTIONS {
                        let answer = connection.send("POST", "/runsync", body);
                        assert_eq!(answer["status"], "COMPLETED", "{answer}");
                    }
                });
            }
        });
        println!(
            "memory after {:>5} jobs               {:>8.1} MB",
            RUN / 10 * part,
            worker.megabytes()
        );
    }
    println!(
        "whole jobs, {CONNECTIONS} connections            {:>8.0} jobs/s",
        RUN as f64 / begun.elapsed().as_secs_f64()
    );
}

/// The time from one prompt's end to the next one's begin, by ComfyUI's own clock.
fn idle_time(prefetch: usize, goal: &str) {
    let data = tempfile::tempdir().expect("a folder");
    let nodes = data.path().join("base/custom_nodes");
    std::fs::create_dir_all(&nodes).expect("a folder");
    let source = include_str!("../tests/it/support/worker_test_nodes.py");
    std::fs::write(nodes.join("worker_test_nodes.py"), source).expect("a file");
    let config = qwen_image_worker::config::Config::from_env().expect("a good environment");
    let install = config.paths.install_dir.display().to_string();
    let prefetch = prefetch.to_string();
    let home = std::env::var("HOME").unwrap_or_default();
    let vars = [
        ("HOME", home.as_str()),
        ("COMFYUI_INSTALL_DIR", install.as_str()),
        ("DEMO_WEIGHTS", "true"),
        ("COMFYUI_ARGS", "--disable-api-nodes"),
        ("PREFETCH_JOBS", &prefetch),
    ];
    let worker = Worker::start(data.path(), &vars);
    let mut connection = Connection::to(&worker.address);
    let pid = loop {
        match connection.send("GET", "/health", "")["comfyui"]["pid"].as_u64() {
            Some(pid) => break pid,
            None => thread::sleep(Duration::from_millis(100)),
        }
    };
    let mut last = String::new();
    for seed in 0..PROMPTS {
        let graph = json!({
            "1": {"class_type": "SlowProgress", "inputs": {"steps": 10, "ms_per_step": 20, "preview": false, "seed": seed}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "idle/picture"}},
        });
        let answer = connection.send("POST", "/run", &json!({"input": {"workflow": graph}}).to_string());
        answer["id"].as_str().expect("an id").clone_into(&mut last);
    }
    let end = connection.send("GET", &format!("/status-sync/{last}"), "");
    assert_eq!(end["status"], "COMPLETED", "{end}");

    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("ComfyUI runs");
    let port = command.split('\0').skip_while(|argument| *argument != "--port").nth(1);
    let history = Connection::to(&format!("127.0.0.1:{}", port.expect("a port"))).send("GET", "/history", "");
    let mut spans: Vec<(u64, u64)> = history
        .as_object()
        .expect("an object")
        .values()
        .map(|entry| {
            let at = |name: &str| {
                let messages = entry["status"]["messages"].as_array()?;
                let message = messages.iter().find(|message| message[0] == name)?;
                message[1]["timestamp"].as_u64()
            };
            at("execution_start").zip(at("execution_success")).expect("both times")
        })
        .collect();
    spans.sort_unstable();
    let mut gaps: Vec<u64> = spans
        .windows(2)
        .map(|pair| pair[1].0.saturating_sub(pair[0].1))
        .collect();
    // The first prompt may end before the second one comes.
    gaps.remove(0);
    println!("idle between prompts, PREFETCH_JOBS={prefetch}, in order: {gaps:?} ms");
    gaps.sort_unstable();
    println!(
        "idle between prompts, PREFETCH_JOBS={prefetch}  p50 {} ms, longest {} ms  ({goal})",
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1]
    );
}

/// Takes so many jobs in, over all connections; gives their ids.
fn take_in(worker: &Worker, jobs: usize, body: &str) -> Vec<String> {
    thread::scope(|scope| {
        let task = || {
            let mut connection = Connection::to(&worker.address);
            scope.spawn(move || {
                let take = |_| {
                    connection.send("POST", "/run", body)["id"]
                        .as_str()
                        .expect("an id")
                        .to_owned()
                };
                (0..jobs / CONNECTIONS).map(take).collect::<Vec<_>>()
            })
        };
        let tasks: Vec<_> = std::iter::repeat_with(task).take(CONNECTIONS).collect();
        tasks
            .into_iter()
            .flat_map(|task| task.join().expect("no panic"))
            .collect()
    })
}
