//! The worker's binary as a process of its own, looked at from outside.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A worker that serves. It is killed when this is dropped.
pub(crate) struct Worker {
    pub(crate) process: Child,
    /// Where it listens: host and port.
    pub(crate) address: String,
    /// From its start to the start of its ComfyUI, where it starts one and was waited for.
    pub(crate) spawned_after: Option<Duration>,
}

impl Worker {
    /// Starts the binary on a free port, with these variables and `PATH` alone, and waits until it listens.
    pub(crate) fn start(data: &Path, vars: &[(&str, &str)]) -> Self {
        Self::start_until("listening on http://", data, vars)
    }

    /// The same, until its own ComfyUI is ready.
    pub(crate) fn start_until_ready(data: &Path, vars: &[(&str, &str)]) -> Self {
        Self::start_until("ComfyUI is ready", data, vars)
    }

    fn start_until(end: &str, data: &Path, vars: &[(&str, &str)]) -> Self {
        let begun = Instant::now();
        let mut process = Command::new(env!("CARGO_BIN_EXE_qwen-image-worker"))
            .arg("serve")
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("DATA_DIR", data)
            .env("DEMO_WEIGHTS", "false")
            .env("PORT", "0")
            .env("EDIT_PORT", "none")
            .envs(vars.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut log = BufReader::new(process.stderr.take().expect("piped")).lines();
        let (mut address, mut spawned_after) = (None, None);
        loop {
            let line = log.next().expect("it goes on").expect("UTF-8");
            if let Some((_, rest)) = line.split_once("listening on http://") {
                address = rest.split(';').next().map(str::to_owned);
            }
            if line.contains("ComfyUI is starting") {
                spawned_after.get_or_insert(begun.elapsed());
            }
            if line.contains(end) {
                break;
            }
        }
        // Read on, or the pipe fills up.
        thread::spawn(move || log.for_each(drop));
        Self {
            process,
            address: address.expect("it says where it listens"),
            spawned_after,
        }
    }

    /// The memory that the process holds.
    pub(crate) fn megabytes(&self) -> f64 {
        megabytes(&self.process, "VmRSS:")
    }

    /// The processor time that the process has used.
    pub(crate) fn processor_time(&self) -> Duration {
        processor_time(&self.process)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It is gone already where one of these fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A figure of a process's memory, by its name in `/proc/PID/status`.
pub(crate) fn megabytes(process: &Child, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kibibytes.expect("the process lives") * 1024.0 / 1e6
}

/// The processor time that a process has used.
pub(crate) fn processor_time(process: &Child) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("Linux");
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    // In hundredths of a second on every Linux that matters.
    Duration::from_millis(fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
}

/// A time in milliseconds.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The time that so many in a hundred do not exceed.
pub(crate) fn share(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}
