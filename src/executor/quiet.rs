//! How long nothing is heard of a prompt, and whether anything is computed meanwhile.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::comfy::Connection;
use crate::comfy::process::{read_stat, stat_fields};

/// A time without a word of the prompt, and what ComfyUI's processes have computed since its begin.
pub(super) struct Quiet {
    since: Instant,
    pid: Option<u32>,
    ticks: Option<u64>,
}

impl Quiet {
    pub(super) fn since_now(pid: Option<u32>) -> Self {
        Self {
            since: Instant::now(),
            pid,
            ticks: pid.and_then(cpu_ticks),
        }
    }

    /// Whether it is silent for longer than `limit`, and the processes have slept all the while: less than one percent
    /// of one core. One that we cannot look at counts as busy.
    pub(super) fn for_longer_than(&self, limit: Duration) -> bool {
        let elapsed = self.since.elapsed();
        if elapsed < limit {
            return false;
        }
        match (self.ticks, self.pid.and_then(cpu_ticks)) {
            // The kernel counts 100 ticks a second (proc(5), USER_HZ).
            (Some(before), Some(now)) => now.saturating_sub(before) < elapsed.as_secs(),
            _ => false,
        }
    }
}

/// A start of ComfyUI that answers nothing, and since when.
#[derive(Default)]
pub(super) struct Unanswered(Option<(u64, Quiet)>);

impl Unanswered {
    /// It did not answer once more. Says whether it has not for longer than `limit`, with its processes asleep.
    pub(super) fn for_longer_than(&mut self, limit: Duration, connection: &Connection) -> bool {
        let generation = connection.generation();
        if self.0.as_ref().is_none_or(|(of, _)| *of != generation) {
            self.0 = Some((generation, Quiet::since_now(connection.pid())));
        }
        self.0.as_ref().is_some_and(|(_, quiet)| quiet.for_longer_than(limit))
    }
}

/// What `/proc/PID/stat` says of one process (proc(5)).
struct Stat {
    parent: u32,
    group: u32,
    /// Its own processor time so far, and that of its children that have ended, in ticks.
    ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&read_stat(pid).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat_fields(stat).collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(number(4)?).ok()?,
            group: u32::try_from(number(5)?).ok()?,
            ticks: (14..=17).map(number).sum::<Option<u64>>()?,
        })
    }
}

/// The processor time so far of a process, of those in its group, and of all that they started: a node's work may be
/// in a child, such as ffmpeg.
fn cpu_ticks(pid: u32) -> Option<u64> {
    let own = Stat::of(pid)?;
    let pids = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others: HashMap<u32, Stat> = pids
        .filter(|other| *other != pid)
        .filter_map(|other| Some((other, Stat::of(other)?)))
        .collect();
    let belongs = |stat: &Stat| {
        let mut stat = Some(stat);
        // As deep as no tree of processes is; what was read at different moments may have a circle.
        for _ in 0..64 {
            match stat {
                Some(found) if found.group == pid || found.parent == pid => return true,
                Some(found) => stat = others.get(&found.parent),
                None => return false,
            }
        }
        false
    };
    let ticks = others.values().filter(|stat| belongs(stat)).map(|stat| stat.ticks);
    Some(own.ticks + ticks.sum::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_is_read() {
        assert!(cpu_ticks(std::process::id()).is_some());
        assert_eq!(cpu_ticks(u32::MAX), None);
        let stat = Stat::parse("7 (a) b (c)) S 1 5 5 0 -1 4194560 1 2 3 4 10 20 300 4000 20 0 1").unwrap();
        assert_eq!((stat.parent, stat.group, stat.ticks), (1, 5, 4330));
    }

    #[test]
    fn only_a_process_that_sleeps_is_quiet() {
        let unknown = Quiet::since_now(None);
        assert!(!unknown.for_longer_than(Duration::ZERO), "nothing is known of it");
        let long_ago = Instant::now().checked_sub(Duration::from_hours(10)).unwrap();
        let now = cpu_ticks(std::process::id());
        let asleep = Quiet {
            since: long_ago,
            pid: Some(std::process::id()),
            ticks: now,
        };
        assert!(asleep.for_longer_than(Duration::from_secs(30)));
        assert!(!asleep.for_longer_than(Duration::from_hours(20)));
    }

    #[test]
    fn the_work_of_children_counts() {
        // A shell that only waits, and its child, which computes.
        let script = "sh -c 'while :; do :; done' & wait";
        let mut shell = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
        let begun = Instant::now();
        let before = cpu_ticks(shell.id()).unwrap();
        let mut seen = before;
        while seen < before + 10 && begun.elapsed() < Duration::from_mins(2) {
            std::thread::sleep(Duration::from_millis(20));
            seen = cpu_ticks(shell.id()).unwrap();
        }
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.id())).unwrap_or_default();
        for child in children.split_whitespace() {
            let child = nix::unistd::Pid::from_raw(child.parse().unwrap());
            nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
        assert!(seen >= before + 10, "{before} {seen}");
    }
}
