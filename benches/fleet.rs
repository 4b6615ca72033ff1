//! A fleet by figures, with a real NATS server and the real binary: how fast one front puts jobs into the broker, how busy it
//! keeps fifty workers, and what it holds in memory while it does nothing. Prints figures; the goals beside them are for a release
//! build. Fifty workers share the machine with all else here: with fewer than eight cores those cores are what is measured.
//!
//! Takes `nats-server`, on `PATH` or as the tests have unpacked it. `-- puts`, `busy` or `idle` alone; `-- busy 10 500` has ten
//! workers run jobs of 500 ms.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "support/client.rs"]
#[expect(dead_code, reason = "it reads no streams")]
mod client;
#[path = "support/fake_comfyui.rs"]
#[expect(dead_code, reason = "it listens where it is told, and is started by nobody")]
mod fake_comfyui;
#[path = "support/worker.rs"]
#[expect(dead_code, reason = "others need more")]
mod worker;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use qwen_image_worker::fleet::STREAM;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

use client::Connection;
use fake_comfyui::Plan;
use worker::Worker;

/// Jobs that a front is given at once: as many as it may have in a broker.
const PUT: usize = 1_000;
/// Rounds of that, of which the middle one counts.
const ROUNDS: usize = 3;
/// Connections to the front.
const CONNECTIONS: usize = 8;
/// Workers, unless told otherwise.
const WORKERS: usize = 50;
/// How long each of their jobs runs, in milliseconds, unless told otherwise.
const RUNS_MS: u64 = 1_000;
/// Jobs of each worker.
const JOBS_EACH: usize = 8;
/// The sides of a picture, in pixels; it has 120 kB.
const SIDE: u32 = 200;
/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_mins(2);

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let wanted = arguments.next();
    let is_wanted = |name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    if is_wanted("puts") {
        puts();
    }
    if is_wanted("busy") {
        let number = |text: String| text.parse().expect("a number");
        let workers = arguments.next().map_or(WORKERS, number);
        let number = |text: String| text.parse().expect("milliseconds");
        busy(workers, arguments.next().map_or(RUNS_MS, number));
    }
    if is_wanted("idle") {
        idle();
    }
}

/// A NATS server with its files in a folder of its own. It is killed when this is dropped.
struct Nats {
    process: Child,
    url: String,
    monitoring: String,
    _folder: TempDir,
}

impl Nats {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (port, monitoring) = (free_port(), free_port());
        let process = Command::new(program())
            .args(["-a", "127.0.0.1", "-js"])
            .args(["-p", &port.to_string(), "-m", &monitoring.to_string()])
            .arg("-sd")
            .arg(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        let monitoring = format!("127.0.0.1:{monitoring}");
        until("the broker answers", || {
            std::net::TcpStream::connect(&monitoring).is_ok()
        });
        Self {
            process,
            url: format!("nats://127.0.0.1:{port}"),
            monitoring,
            _folder: folder,
        }
    }

    /// A front before it.
    fn front(&self, data: &TempDir) -> Worker {
        let list = format!(
            "[[engine]]\nname = \"fleet\"\nkind = \"fleet\"\nurl = \"{}\"\ncapacity = 1000\n",
            self.url
        );
        let vars = [("ENGINES", list.as_str()), ("QUEUE_LIMIT", "100000"), ("HOME", "/")];
        let front = Worker::start(data.path(), &vars);
        let mut connection = Connection::to(&front.address);
        until("the front is connected", || {
            connection.send("GET", "/health", "")["engines"][0]["state"] == "ready"
        });
        front
    }

    /// The messages in the stream of jobs.
    fn messages(&self) -> u64 {
        let told = Connection::to(&self.monitoring).send("GET", "/jsz?streams=true", "");
        let streams = told["account_details"][0]["stream_detail"].as_array().cloned();
        let stream = streams.into_iter().flatten().find(|stream| stream["name"] == STREAM);
        stream
            .and_then(|stream| stream["state"]["messages"].as_u64())
            .unwrap_or_default()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // It is gone already where one of these fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::home_dir().unwrap_or_default();
    let unpacked = home.join(".local/share/qwen-image-worker/test-clients/nats-server/usr/sbin");
    let mut folders = std::env::split_paths(&path).chain([unpacked]);
    let found = folders.find_map(|folder| Some(folder.join("nats-server")).filter(|file| file.is_file()));
    found.expect("nats-server is needed: sudo apt-get install -y nats-server")
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Sends so many jobs over all connections; gives the last one's id.
fn send(front: &Worker, jobs: usize) -> String {
    let body = include_str!("../test_input.json");
    thread::scope(|scope| {
        let task = |number: usize| {
            let share = jobs / CONNECTIONS + usize::from(number < jobs % CONNECTIONS);
            scope.spawn(move || {
                let mut connection = Connection::to(&front.address);
                let ids = (0..share).map(|_| connection.send("POST", "/run", body)["id"].clone());
                ids.last()
            })
        };
        let tasks: Vec<_> = (0..CONNECTIONS).map(task).collect();
        let ids = tasks.into_iter().filter_map(|task| task.join().expect("no panic"));
        ids.last().as_ref().and_then(Value::as_str).expect("an id").to_owned()
    })
}

/// The whole way from `/run`: a job is stored at the front, its entry is made, and its message is acknowledged.
fn puts() {
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let (nats, data) = (Nats::start(), tempfile::tempdir().expect("a folder"));
        let front = nats.front(&data);
        let begun = Instant::now();
        send(&front, PUT);
        let taken = begun.elapsed();
        until("all are in the broker", || nats.messages() == PUT as u64);
        rates.push((begun.elapsed(), taken));
    }
    rates.sort_unstable();
    let (put, taken) = rates[ROUNDS / 2];
    let rate = |time: Duration| PUT as f64 / time.as_secs_f64();
    println!("/run until all are taken in           {:>8.0} jobs/s", rate(taken));
    println!(
        "/run until all are in the broker      {:>8.0} jobs/s  (goal: at least 2000)",
        rate(put)
    );
}

/// A picture that no compression makes small: a front looks at what it gets.
fn picture() -> Vec<u8> {
    let mut state = 1_u32;
    let noise = image::RgbImage::from_fn(SIDE, SIDE, |_, _| {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        image::Rgb([next(), next(), next()])
    });
    let mut file = std::io::Cursor::new(Vec::new());
    noise.write_to(&mut file, image::ImageFormat::Png).expect("a picture");
    file.into_inner()
}

/// Workers that run jobs of one length, as the stand-ins for their ComfyUIs saw it.
fn busy(workers: usize, runs_ms: u64) {
    let (nats, data) = (Nats::start(), tempfile::tempdir().expect("a folder"));
    let front = nats.front(&data);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let picture = picture();
    let folders: Vec<_> = (0..workers).map(|_| tempfile::tempdir().expect("a folder")).collect();
    let fleet: Vec<_> = folders
        .iter()
        .map(|folder| {
            let plan = Arc::new(Plan {
                content: picture.clone().into(),
                ..Plan::default()
            });
            plan.takes_ms.store(runs_ms, Ordering::Relaxed);
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
            let comfyui = format!("http://{}", listener.local_addr().expect("an address"));
            runtime.spawn(fake_comfyui::serve_on(listener, Vec::new(), Arc::clone(&plan)));
            let vars = [
                ("COMFYUI_URL", comfyui.as_str()),
                ("FLEET_URL", nats.url.as_str()),
                ("WARM_UP", "false"),
            ];
            (Worker::start(folder.path(), &vars), plan)
        })
        .collect();
    for (worker, _) in &fleet {
        let mut connection = Connection::to(&worker.address);
        until("the worker takes jobs", || {
            connection.send("GET", "/health", "")["fleet"]["state"] == "connected"
        });
    }
    let jobs = workers * JOBS_EACH;
    send(&front, jobs);
    let mut connection = Connection::to(&front.address);
    until("all are done", || {
        let counts = connection.send("GET", "/health", "")["jobs"].take();
        assert_eq!(counts["failed"], 0, "no job fails");
        counts["completed"] == jobs
    });
    let mut spans = Vec::new();
    let mut first = Vec::new();
    for (_, plan) in &fleet {
        let of_one = plan.spans.lock().expect("no panic").clone();
        first.extend(of_one.first().map(|(begun, _)| *begun));
        spans.extend(of_one);
    }
    // While there are jobs for all: from the moment at which each has had one, to the last one's begin.
    let from = first.into_iter().max().expect("jobs");
    let to = spans.iter().map(|(begun, _)| *begun).max().expect("jobs");
    let within = |(begun, ended): &(Instant, Instant)| ended.min(&to).saturating_duration_since(*begun.max(&from));
    let at_work: Duration = spans.iter().map(within).sum();
    let share = at_work.as_secs_f64() / ((to - from).as_secs_f64() * workers as f64);
    println!(
        "{workers} workers, jobs of {runs_ms} ms, at work   {:>8.1} %       (goal: at least 95)",
        share * 100.0
    );
    println!(
        "processor time of the front for a job {:>8.1} ms",
        front.processor_time().as_secs_f64() * 1000.0 / jobs as f64
    );
    println!("memory (RSS) of the front after them  {:>8.1} MB", front.megabytes());
}

/// A front that is connected, and has nothing to do.
fn idle() {
    let (nats, data) = (Nats::start(), tempfile::tempdir().expect("a folder"));
    let front = nats.front(&data);
    thread::sleep(Duration::from_secs(2));
    println!(
        "idle memory (RSS) of a front          {:>8.1} MB      (goal: at most 25)",
        front.megabytes()
    );
}
