//! How jobs are run and kept.

use std::time::Duration;

use super::engines::{FALLBACK, Fallback};
use super::retired::{CANCEL_GRACE_S, PREFETCH_JOBS, QUEUE_TTL_S, STALL_TIMEOUT_S};
use super::variable::{Reader, Variable, parsed, seconds, whole};

/// Limits of the job core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobsConfig {
    /// Jobs at once, waiting ones included.
    pub queue_limit: usize,
    /// Prompts that wait in ComfyUI behind the one that runs.
    pub prefetch: usize,
    /// How often a job is run again when ComfyUI, or the worker, died under it.
    pub retries: u32,
    /// How long a node may ignore an interrupt before ComfyUI is started again.
    pub cancel_grace: Duration,
    /// The longest execution of a job, unless its request says otherwise.
    pub timeout: Duration,
    /// The same, where somebody chose it.
    pub chosen_timeout: Option<Duration>,
    /// The longest time from a job's coming to its end, unless its request says otherwise.
    pub queue_ttl: Duration,
    /// The silence of a running prompt, with ComfyUI's process asleep, that counts as a stall.
    pub stall_timeout: Duration,
    /// How long a finished job and its files are kept.
    pub result_ttl: Duration,
    /// The most bytes of finished jobs' files; the oldest go first. 0: no limit.
    pub output_max_bytes: u64,
    /// What becomes of jobs that an engine elsewhere does not run, unless their request says otherwise.
    pub fallback: Fallback,
}

const QUEUE_LIMIT: Variable<usize> = whole("QUEUE_LIMIT", "number", 1..=100_000)
    .default_and_example("100", "20")
    .meaning("Jobs that wait or run at once; one more is answered 429 with `Retry-After`.");
const JOB_RETRIES: Variable<u32> = whole("JOB_RETRIES", "number", 0..=10)
    .default_and_example("1", "0")
    .meaning("How often a job is run again when ComfyUI, or the worker, died under it. A graph that fails is never run again.");
const JOB_TIMEOUT_S: Variable<Duration> = seconds("JOB_TIMEOUT_S", 5..=604_800)
    .default_and_example("600", "1800")
    .meaning("Longest execution of a job. A request's `policy.executionTimeout` overrides it. Not set, jobs of RunPod's queue have the endpoint's own limit.");
const RESULT_TTL: Variable<Duration> = parsed("RESULT_TTL", "seconds, or a number with `m`, `h` or `d`", span)
    .default_and_example("14d", "36h")
    .meaning("How long a finished job and its files are kept, and a file that was uploaded by Comfy API v2, unless its request says otherwise.");
const OUTPUT_MAX_BYTES: Variable<u64> = whole("OUTPUT_MAX_BYTES", "bytes", 0..=u64::MAX)
    .default_and_example("50000000000", "5000000000")
    .meaning("Most bytes of what finished jobs keep on the disk: their files, and requests and results of more than 64 KiB. The oldest jobs go first. `0`: no limit.");

/// Reads `90`, `15m`, `36h` or `14d`.
fn span(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match seconds {
        Some(seconds @ 1..=3_155_760_000) => Ok(Duration::from_secs(seconds)),
        _ => Err("is no span of time, such as 90, 15m, 36h or 14d".to_owned()),
    }
}

pub(super) fn read(reader: &mut Reader) -> JobsConfig {
    JobsConfig {
        queue_limit: reader.value(&QUEUE_LIMIT),
        prefetch: reader.value(&PREFETCH_JOBS),
        retries: reader.value(&JOB_RETRIES),
        cancel_grace: reader.value(&CANCEL_GRACE_S),
        timeout: reader.value(&JOB_TIMEOUT_S),
        chosen_timeout: reader.chosen(&JOB_TIMEOUT_S),
        queue_ttl: reader.value(&QUEUE_TTL_S),
        stall_timeout: reader.value(&STALL_TIMEOUT_S),
        result_ttl: reader.value(&RESULT_TTL),
        output_max_bytes: reader.value(&OUTPUT_MAX_BYTES),
        fallback: reader.value(&FALLBACK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        assert_eq!(span("90"), Ok(Duration::from_secs(90)));
        assert_eq!(span("14d"), Ok(Duration::from_hours(14 * 24)));
        for wrong in ["", "d", "0", "-1h", "1w", "99999999999999999999", "ü"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
