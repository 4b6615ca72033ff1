//! What a process took.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// What one process took, from its start to its end.
pub(crate) struct Run {
    pub(crate) seconds: f64,
    pub(crate) processor_seconds: f64,
    pub(crate) peak_bytes: u64,
    pub(crate) succeeded: bool,
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Run {
    let begun = Instant::now();
    let mut child = command.spawn().expect("it runs");
    let process = format!("/proc/{}", child.id());
    let mut peak_bytes = 0;
    // Until nobody has waited for it, its processor time can be read after its end.
    let (seconds, ticks) = loop {
        let stat = std::fs::read_to_string(format!("{process}/stat")).expect("Linux");
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        if after_name.starts_with('Z') {
            let fields = after_name.split(' ').skip(11).take(2);
            break (
                begun.elapsed().as_secs_f64(),
                fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>(),
            );
        }
        let status = std::fs::read_to_string(format!("{process}/status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = peak.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak_bytes = peak_bytes.max(kibibytes.unwrap_or_default() * 1024);
        thread::sleep(Duration::from_millis(5));
    };
    Run {
        succeeded: child.wait().expect("it ends").success(),
        seconds,
        // In hundredths of a second on every Linux that matters.
        processor_seconds: ticks as f64 / 100.0,
        peak_bytes,
    }
}
