//! The worker's own share of `POST /runsync`: the real binary over a ComfyUI that answers at once, with one picture of
//! 3 MB as base64 in each answer. Prints figures; the goals beside them are for a release build on two cores.
//!
//! The stand-in for ComfyUI is this program too: the `main.py` that the worker is given becomes it by `exec`.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "support/fake_comfyui.rs"]
mod fake_comfyui;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Names the mode in which this program stands in for ComfyUI.
const FAKE: &str = "--fake-comfyui";
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
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(FAKE) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .expect("a runtime")
            .block_on(fake_comfyui::serve(arguments.collect()));
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut worker = Worker::start(folder.path());
    println!(
        "start to ComfyUI spawned   {:>8.1} ms     (goal: at most 50)",
        milliseconds(worker.spawned_after)
    );
    println!(
        "idle memory (RSS)          {:>8.1} MB     (goal: at most 25)",
        worker.megabytes()
    );

    let mut connection = worker.connect();
    let longest = (0..WARM_UP).map(|_| connection.request()).max();
    println!(
        "longest while warming up   {:>8.1} ms",
        milliseconds(longest.unwrap_or_default())
    );
    let mut times: Vec<Duration> = (0..ALONE).map(|_| connection.request()).collect();
    times.sort_unstable();
    println!(
        "latency p50                {:>8.2} ms     (goal: at most 8)",
        milliseconds(times[ALONE / 2])
    );
    println!(
        "latency p99                {:>8.2} ms",
        milliseconds(times[ALONE * 99 / 100])
    );

    let before = worker.processor_time();
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            let mut connection = worker.connect();
            scope.spawn(move || (0..EACH).for_each(|_| _ = connection.request()));
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
    worker.process.kill().expect("it runs");
    worker.process.wait().expect("it ends");
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

struct Worker {
    process: Child,
    address: String,
    /// From its start to the start of its ComfyUI.
    spawned_after: Duration,
}

impl Worker {
    /// Starts the binary over the stand-in and waits until jobs can run.
    fn start(folder: &Path) -> Self {
        let comfyui = folder.join("comfyui");
        std::fs::create_dir_all(comfyui.join("output")).expect("a folder");
        let picture = comfyui.join("output").join(fake_comfyui::PICTURE);
        std::fs::write(picture, vec![0x5a; PICTURE_BYTES]).expect("a file");
        let this = std::env::current_exe().expect("its own path");
        let this = this.display();
        let main = format!("import os, sys\nos.execv('{this}', ['{this}', '{FAKE}', *sys.argv[1:]])\n");
        std::fs::write(comfyui.join("main.py"), main).expect("a file");

        let begun = Instant::now();
        let mut process = Command::new(env!("CARGO_BIN_EXE_qwen-image-worker"))
            .arg("serve")
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("COMFYUI_DIR", &comfyui)
            .env("DATA_DIR", folder.join("data"))
            .env("DEMO_WEIGHTS", "false")
            .env("PORT", "0")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut log = BufReader::new(process.stderr.take().expect("piped")).lines();
        let (mut address, mut spawned_after) = (None, None);
        loop {
            let line = log.next().expect("it becomes ready").expect("UTF-8");
            if let Some((_, rest)) = line.split_once("listening on http://") {
                address = rest.split(';').next().map(str::to_owned);
            }
            if line.contains("ComfyUI is starting") {
                spawned_after.get_or_insert(begun.elapsed());
            }
            if line.contains("ComfyUI is ready") {
                break;
            }
        }
        // Read on, or the pipe fills up.
        thread::spawn(move || log.for_each(drop));
        Self {
            process,
            address: address.expect("it says where it listens"),
            spawned_after: spawned_after.expect("it says when ComfyUI starts"),
        }
    }

    fn connect(&self) -> Connection {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_nodelay(true).expect("an open socket");
        let mut body: serde_json::Value = serde_json::from_str(include_str!("../test_input.json")).expect("JSON");
        body["input"]["return_images_as"] = "base64".into();
        let body = body.to_string();
        let head = format!(
            "POST /runsync HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        Connection {
            stream,
            request: (head + &body).into_bytes(),
            buffer: vec![0; 256 * 1024],
        }
    }

    /// The memory that the process holds.
    fn megabytes(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        kibibytes.expect("the process lives") * 1024.0 / 1e6
    }

    /// The processor time that the process has used.
    fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).expect("Linux");
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
        // In hundredths of a second on every Linux that matters.
        Duration::from_millis(fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
    }
}

/// A client as cheap as can be: it reads each answer whole and looks at its status and length.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Sends one request and reads the whole answer; gives the time that took.
    fn request(&mut self) -> Duration {
        let begun = Instant::now();
        self.stream.write_all(&self.request).expect("it takes the request");
        let mut filled = 0;
        let end_of_head = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).expect("an answer");
            assert!(read > 0, "the connection was closed");
            filled += read;
            let end = self.buffer[..filled].windows(4).position(|bytes| bytes == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end_of_head]).to_ascii_lowercase();
        assert!(
            head.starts_with("http/1.1 200"),
            "{}",
            String::from_utf8_lossy(&self.buffer[..filled])
        );
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
        assert!(length > PICTURE_BYTES / 3 * 4, "the picture is not in the answer");
        let mut left = length - (filled - end_of_head);
        while left > 0 {
            let read = self.stream.read(&mut self.buffer).expect("the rest of the answer");
            assert!(read > 0, "the connection was closed");
            left -= read;
        }
        begun.elapsed()
    }
}
