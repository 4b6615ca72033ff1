//! The job core by figures, with the real binary: how fast jobs are taken in and asked for, what thousands of them leave
//! in memory, and how long the GPU waits between two prompts. Prints figures; the goals beside them are for a release
//! build on two cores.
//!
//! The stand-in for ComfyUI is this program too, as in `runsync`. The last figure takes the real ComfyUI, installed as
//! `./start.sh` does: `cargo bench --bench jobs -- idle`.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "support/fake_comfyui.rs"]
mod fake_comfyui;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Names the mode in which this program stands in for ComfyUI.
const FAKE: &str = "--fake-comfyui";
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

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == FAKE) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .expect("a runtime")
            .block_on(fake_comfyui::serve(arguments[1..].to_vec()));
    } else if arguments.iter().any(|argument| argument == "idle") {
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
    let worker = Worker::start(data.path(), &[("COMFYUI_URL", &comfyui)]);
    let body = include_str!("../test_input.json");
    let ids = worker.take_in(WAITING, body);
    let mut connection = worker.connect();
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
    let taken = worker.take_in(TAKEN, body).len();
    println!(
        "/run, {CONNECTIONS} connections                  {:>8.0} jobs/s  (goal: at least 2000)",
        taken as f64 / begun.elapsed().as_secs_f64()
    );
}

/// What thousands of jobs leave behind.
fn memory() {
    let data = tempfile::tempdir().expect("a folder");
    let comfyui = data.path().join("comfyui");
    std::fs::create_dir_all(comfyui.join("output")).expect("a folder");
    std::fs::write(comfyui.join("output").join(fake_comfyui::PICTURE), [0x5a; 1000]).expect("a file");
    let this = std::env::current_exe().expect("its own path");
    let this = this.display();
    let main = format!("import os, sys\nos.execv('{this}', ['{this}', '{FAKE}', *sys.argv[1:]])\n");
    std::fs::write(comfyui.join("main.py"), main).expect("a file");
    let comfyui = comfyui.display().to_string();
    let worker = Worker::start(data.path(), &[("COMFYUI_DIR", &comfyui), ("DEMO_WEIGHTS", "false")]);
    println!("memory (RSS) before any job           {:>8.1} MB", worker.megabytes());
    let body = include_str!("../test_input.json");
    let begun = Instant::now();
    for part in 1..=10 {
        thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                let mut connection = worker.connect();
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
    let vars = [
        ("COMFYUI_INSTALL_DIR", install.as_str()),
        ("DEMO_WEIGHTS", "true"),
        ("COMFYUI_ARGS", "--disable-api-nodes"),
        ("PREFETCH_JOBS", &prefetch),
    ];
    let worker = Worker::start(data.path(), &vars);
    let mut connection = worker.connect();
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

struct Worker {
    process: Child,
    address: String,
}

impl Worker {
    /// Starts the binary and waits until it listens.
    fn start(folder: &Path, vars: &[(&str, &str)]) -> Self {
        let kept = ["PATH", "HOME"].map(|name| (name, std::env::var_os(name)));
        let mut process = Command::new(env!("CARGO_BIN_EXE_qwen-image-worker"))
            .arg("serve")
            .env_clear()
            .envs(kept.into_iter().filter_map(|(name, value)| Some((name, value?))))
            .env("DATA_DIR", folder)
            .env("QUEUE_LIMIT", "100000")
            .env("LOG_LEVEL", "info")
            .env("PORT", "0")
            .envs(vars.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut log = BufReader::new(process.stderr.take().expect("piped")).lines();
        let address = loop {
            let line = log.next().expect("it listens").expect("UTF-8");
            if let Some((_, rest)) = line.split_once("listening on http://") {
                break rest.split(';').next().unwrap_or_default().to_owned();
            }
        };
        // Read on, or the pipe fills up.
        thread::spawn(move || log.for_each(drop));
        Self { process, address }
    }

    fn connect(&self) -> Connection {
        Connection::to(&self.address)
    }

    /// Takes so many jobs in, over all connections; gives their ids.
    fn take_in(&self, jobs: usize, body: &str) -> Vec<String> {
        thread::scope(|scope| {
            let task = || {
                let mut connection = self.connect();
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

    /// The memory that the process holds.
    fn megabytes(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        kibibytes.expect("the process lives") * 1024.0 / 1e6
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It is gone already where one of these fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A client as cheap as can be.
struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn to(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).expect("an open socket");
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Sends one request and reads the answer.
    fn send(&mut self, method: &str, path: &str, body: &str) -> Value {
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n{body}");
        let stream = self.stream.get_mut();
        stream.write_all(request.as_bytes()).expect("it takes the request");
        let mut length = 0;
        let mut line = String::new();
        loop {
            line.clear();
            assert!(
                self.stream.read_line(&mut line).expect("an answer") > 0,
                "the connection was closed"
            );
            if line == "\r\n" {
                break;
            }
            if let Some((_, value)) = line.to_ascii_lowercase().split_once("content-length: ") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("the rest of the answer");
        serde_json::from_slice(&body).expect("JSON")
    }
}
