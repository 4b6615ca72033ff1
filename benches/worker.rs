//! The worker on RunPod's queue beside one made of RunPod's Python package: the same fake platform, the same stand-in for
//! ComfyUI, one run. Prints figures; the goals beside them are for a release build on two cores.
//!
//! The stand-in makes nothing, so all the time from the moment a job is handed out to the moment its result has arrived
//! is the worker's, but for what the stand-in takes to hand its pictures over. Platform and stand-in are in this process.

#![expect(clippy::print_stdout, reason = "figures are what it is for")]

#[path = "support/fake_comfyui.rs"]
#[expect(dead_code, reason = "it listens where it is told, and is started by nobody")]
mod fake_comfyui;
#[path = "../tests/it/support/platform/mod.rs"]
#[expect(dead_code, reason = "most of it is for the tests")]
mod platform;
#[path = "support/worker.rs"]
#[expect(dead_code, reason = "this one does not serve")]
mod process;
#[path = "../tests/it/support/wire.rs"]
#[expect(dead_code, reason = "other fakes speak by it too")]
mod wire;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::net::TcpListener;

use fake_comfyui::Plan;
use platform::{Platform, Route};
use process::{megabytes, milliseconds, processor_time, share};

/// The size of a picture, in bytes.
const PICTURE_BYTES: usize = 3_000_000;
/// Jobs before anything is measured.
const WARM_UP: usize = 5;
/// Jobs one after another, for the overhead.
const JOBS: usize = 60;
/// Jobs that are there from the beginning, for ComfyUI's idle time.
const QUEUED: usize = 20;
/// How long each of these runs, in milliseconds.
const RUNS_MS: u64 = 50;
/// Starts, for the time to the first question.
const STARTS: usize = 5;
/// How long the platform holds a question open: RunPod's client has to wait that long before it ends.
const HOLD: Duration = Duration::from_secs(10);
/// What the Python worker needs; installed once, beside the clients of the tests.
const PACKAGES: [&str; 2] = ["runpod==1.12.0", "websocket-client==1.9.0"];

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let python = python();
        let ours = measure(&|| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_qwen-image-worker"));
            command
                .env("DEMO_WEIGHTS", "false")
                .env("RESULT_MAX_BYTES", "1000000000");
            command
        })
        .await;
        let theirs = measure(&|| {
            let mut command = Command::new(&python);
            command
                .arg(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/benches/support/runpod_handler.py"
                ))
                // It would look for a GPU.
                .env("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true")
                .env("RUNPOD_SKIP_GPU_CHECK", "true");
            command
        })
        .await;
        println!("{:<46}{:>10}{:>10}   goal", "", "ours", "Python");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let (what, goal, digits) = (ours.what, ours.goal, ours.digits);
            println!(
                "{what:<46}{:>10.digits$}{:>10.digits$}   {goal}",
                ours.value, theirs.value
            );
        }
    });
}

struct Figure {
    what: &'static str,
    goal: &'static str,
    digits: usize,
    value: f64,
}

/// All figures of one worker.
async fn measure(command: &impl Fn() -> Command) -> Vec<Figure> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let comfyui = format!("http://{}", listener.local_addr().expect("an address"));
    let plan = Arc::new(Plan {
        content: vec![0x5a; PICTURE_BYTES].into(),
        ..Plan::default()
    });
    tokio::spawn(fake_comfyui::serve_on(listener, Vec::new(), Arc::clone(&plan)));
    let mut figures = Vec::new();
    let mut tell = |what, digits, value, goal| {
        figures.push(Figure {
            what,
            goal,
            digits,
            value,
        });
    };

    let mut starts = Vec::new();
    for _ in 1..STARTS {
        let bench = Bench::start(command(), &comfyui).await;
        starts.push(bench.first_take);
        // Not the end that is measured: it may take long.
        drop(bench);
    }
    let mut bench = Bench::start(command(), &comfyui).await;
    starts.push(bench.first_take);
    tell(
        "start to first job-take, ms",
        0,
        milliseconds(share(&mut starts, 50)),
        "at most 100",
    );
    let idle = megabytes(&bench.process, "VmRSS:");

    bench.run(WARM_UP).await;
    let before = processor_time(&bench.process);
    let mut one = bench.run(JOBS).await;
    let used = processor_time(&bench.process).saturating_sub(before);
    tell(
        "overhead, one picture of 3 MB, p50, ms",
        1,
        milliseconds(share(&mut one, 50)),
        "at most 15",
    );
    tell("the same, p95, ms", 1, milliseconds(share(&mut one, 95)), "");
    tell(
        "processor time a job, ms",
        1,
        milliseconds(used) / JOBS as f64,
        "at most 10",
    );

    plan.takes_ms.store(RUNS_MS, Ordering::Relaxed);
    bench.run_queued(QUEUED).await;
    plan.takes_ms.store(0, Ordering::Relaxed);
    let spans = std::mem::take(&mut *plan.spans.lock().expect("no panic"));
    let gaps = spans.windows(2).map(|pair| pair[1].0.duration_since(pair[0].1));
    let mut gaps: Vec<Duration> = gaps.collect();
    tell(
        "ComfyUI idle between two jobs, p50, ms",
        1,
        milliseconds(share(&mut gaps, 50)),
        "",
    );
    tell("the same, longest, ms", 1, milliseconds(share(&mut gaps, 100)), "");

    plan.more_pictures.store(3, Ordering::Relaxed);
    bench.run(WARM_UP).await;
    let mut four = bench.run(JOBS).await;
    tell(
        "overhead, four pictures of 3 MB, p50, ms",
        1,
        milliseconds(share(&mut four, 50)),
        "at most 45",
    );
    tell("the same, p95, ms", 1, milliseconds(share(&mut four, 95)), "");
    tell("idle memory (RSS), MB", 1, idle, "at most 25");
    tell(
        "peak memory, four pictures, MB",
        1,
        megabytes(&bench.process, "VmHWM:"),
        "at most 60",
    );
    tell(
        "SIGTERM to exit when idle, ms",
        0,
        milliseconds(bench.terminate().await),
        "below 500",
    );
    bench.platform.settled();
    figures
}

/// A platform, and the worker that asks it for jobs. The worker is killed when this is dropped.
struct Bench {
    platform: Platform,
    process: Child,
    _data: tempfile::TempDir,
    /// From the start of the process to its first question.
    first_take: Duration,
    /// Jobs so far.
    jobs: usize,
    input: Value,
}

impl Bench {
    /// Starts a worker and waits until it asks for a job.
    async fn start(mut command: Command, comfyui: &str) -> Self {
        let platform = Platform::start().await;
        platform.forget_results();
        platform.hold(HOLD);
        let data = tempfile::tempdir().expect("a folder");
        let kept = ["PATH", "HOME"].map(|name| (name, std::env::var_os(name)));
        command
            .envs(platform.vars())
            .env("DATA_DIR", data.path())
            .env("COMFYUI_URL", comfyui)
            .envs(kept.into_iter().filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let begun = Instant::now();
        let process = command.spawn().expect("it runs");
        platform.is_asked_for_jobs().await;
        let first_take = platform.calls(Route::Take)[0].at.duration_since(begun);
        let request: Value = serde_json::from_str(include_str!("../test_input.json")).expect("JSON");
        Self {
            platform,
            process,
            _data: data,
            first_take,
            jobs: 0,
            input: request["input"].clone(),
        }
    }

    fn queue(&mut self) -> String {
        self.jobs += 1;
        let id = format!("job-{}", self.jobs);
        self.platform.queue(&id, &self.input);
        id
    }

    /// Runs jobs one after another; gives the time from each one's handing out to its result's arrival.
    async fn run(&mut self, jobs: usize) -> Vec<Duration> {
        let mut times = Vec::with_capacity(jobs);
        for _ in 0..jobs {
            self.platform.is_asked_for_jobs().await;
            let id = self.queue();
            self.platform.result(&id).await;
            let finals = self.platform.finals(&id);
            assert!(finals[0].length > PICTURE_BYTES, "{finals:#?}");
            let handed_out = self.platform.handed_out(&id).await;
            times.push(finals[0].at.duration_since(handed_out));
        }
        times
    }

    /// Runs jobs that are all there from the beginning.
    async fn run_queued(&mut self, jobs: usize) {
        let ids: Vec<String> = std::iter::repeat_with(|| self.queue()).take(jobs).collect();
        for id in ids {
            self.platform.result(&id).await;
        }
    }

    /// Ends the worker while it waits for a job; gives the time that takes.
    async fn terminate(&mut self) -> Duration {
        self.platform.is_asked_for_jobs().await;
        let begun = Instant::now();
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM).expect("it runs");
        while self.process.try_wait().expect("a child of ours").is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        begun.elapsed()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // It is gone already where one of these fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The interpreter of the Python worker's environment, which is made where it is missing.
fn python() -> PathBuf {
    let config = qwen_image_worker::config::Config::from_env().expect("a good environment");
    let folder = config
        .paths
        .install_dir
        .join("../test-clients")
        .join(PACKAGES.join("+"));
    let stamp = folder.join("installed");
    if !stamp.exists() {
        std::fs::create_dir_all(&folder).expect("a folder");
        must(Command::new("python3").args(["-m", "venv"]).arg(&folder));
        must(
            Command::new(folder.join("bin/pip"))
                .args(["install", "--quiet"])
                .args(PACKAGES),
        );
        std::fs::write(&stamp, "").expect("a file");
    }
    folder.join("bin/python")
}

fn must(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?} failed");
}
