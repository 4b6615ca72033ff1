//! How jobs are run and kept.

use std::time::Duration;

use serde::Deserialize;

use super::variable::{Reader, Variable, integer};

/// Limits of the job core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobsConfig {
    /// Jobs in hand at once, waiting ones included.
    pub queue_limit: usize,
    /// Prompts that wait in ComfyUI behind the one that runs.
    pub prefetch: usize,
    /// How often a job is run again when ComfyUI, or the worker, died under it.
    pub retries: u32,
    /// How long a node may ignore an interrupt before ComfyUI is started anew.
    pub cancel_grace: Duration,
    /// The longest execution of a job, unless its request says otherwise.
    pub timeout: Duration,
    /// The longest time from a job's coming to its end, unless its request says otherwise.
    pub queue_ttl: Duration,
    /// The silence of a running prompt, with ComfyUI's process asleep, that counts as a stall.
    pub stall_timeout: Duration,
    /// How long a finished job and its files are kept.
    pub result_ttl: Duration,
    /// The most bytes of finished jobs' files; the oldest go first. 0: no limit.
    pub output_max_bytes: u64,
}

const QUEUE_LIMIT: Variable = Variable {
    name: "QUEUE_LIMIT",
    kind: "number, 1 to 100000",
    default: Some("100"),
    example: "20",
    meaning: "Jobs in hand at once, waiting ones included; one more is answered 429 with `Retry-After`.",
    secret: false,
};
const PREFETCH_JOBS: Variable = Variable {
    name: "PREFETCH_JOBS",
    kind: "number, 0 to 16",
    default: Some("1"),
    example: "0",
    meaning: "Prompts that wait in ComfyUI behind the one that runs, so that the GPU never waits for us.",
    secret: false,
};
const JOB_RETRIES: Variable = Variable {
    name: "JOB_RETRIES",
    kind: "number, 0 to 10",
    default: Some("1"),
    example: "0",
    meaning: "How often a job is run again when ComfyUI, or the worker, died under it. A graph that fails is never run again.",
    secret: false,
};
const CANCEL_GRACE_S: Variable = Variable {
    name: "CANCEL_GRACE_S",
    kind: "seconds, 1 to 3600",
    default: Some("30"),
    example: "10",
    meaning: "How long a node may ignore the interrupt of a job that was cancelled or timed out before ComfyUI is started anew.",
    secret: false,
};
const JOB_TIMEOUT_S: Variable = Variable {
    name: "JOB_TIMEOUT_S",
    kind: "seconds, 5 to 604800",
    default: Some("600"),
    example: "1800",
    meaning: "Longest execution of a job. A request's `policy.executionTimeout` overrides it. Not set, jobs of RunPod's queue have the endpoint's own limit.",
    secret: false,
};
const QUEUE_TTL_S: Variable = Variable {
    name: "QUEUE_TTL_S",
    kind: "seconds, 10 to 604800",
    default: Some("86400"),
    example: "3600",
    meaning: "Longest time from a job's coming to its end. A request's `policy.ttl` overrides it.",
    secret: false,
};
const STALL_TIMEOUT_S: Variable = Variable {
    name: "STALL_TIMEOUT_S",
    kind: "seconds, 10 to 86400",
    default: Some("120"),
    example: "300",
    meaning: "Silence of ComfyUI, with its processes asleep all the while, after which it is started anew and the job is run again. A running prompt that is silent while ComfyUI answers, as one that waits for an API, has five times as long; its job then fails and is not run again by itself.",
    secret: false,
};
const RESULT_TTL: Variable = Variable {
    name: "RESULT_TTL",
    kind: "seconds, or a number with `m`, `h` or `d`",
    default: Some("14d"),
    example: "36h",
    meaning: "How long a finished job and its files are kept.",
    secret: false,
};
const OUTPUT_MAX_BYTES: Variable = Variable {
    name: "OUTPUT_MAX_BYTES",
    kind: "bytes",
    default: Some("50000000000"),
    example: "5000000000",
    meaning: "Most bytes of what finished jobs keep on the disk: their files, and requests and results of more than 64 KiB. The oldest jobs go first. `0`: no limit.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[
    &QUEUE_LIMIT,
    &PREFETCH_JOBS,
    &JOB_RETRIES,
    &CANCEL_GRACE_S,
    &JOB_TIMEOUT_S,
    &QUEUE_TTL_S,
    &STALL_TIMEOUT_S,
    &RESULT_TTL,
    &OUTPUT_MAX_BYTES,
];

#[derive(Deserialize, Default)]
struct Raw {
    queue_limit: Option<String>,
    prefetch_jobs: Option<String>,
    job_retries: Option<String>,
    cancel_grace_s: Option<String>,
    job_timeout_s: Option<String>,
    queue_ttl_s: Option<String>,
    stall_timeout_s: Option<String>,
    result_ttl: Option<String>,
    output_max_bytes: Option<String>,
}

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

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<JobsConfig> {
    let raw: Raw = reader.raw(vars);
    let queue_limit = reader.value(&QUEUE_LIMIT, raw.queue_limit, integer(1..=100_000_usize));
    let prefetch = reader.value(&PREFETCH_JOBS, raw.prefetch_jobs, integer(0..=16_usize));
    let retries = reader.value(&JOB_RETRIES, raw.job_retries, integer(0..=10_u32));
    let cancel_grace = reader.value(&CANCEL_GRACE_S, raw.cancel_grace_s, integer(1..=3600_u64));
    let timeout = reader.value(&JOB_TIMEOUT_S, raw.job_timeout_s, integer(5..=604_800_u64));
    let queue_ttl = reader.value(&QUEUE_TTL_S, raw.queue_ttl_s, integer(10..=604_800_u64));
    let stall_timeout = reader.value(&STALL_TIMEOUT_S, raw.stall_timeout_s, integer(10..=86_400_u64));
    let result_ttl = reader.value(&RESULT_TTL, raw.result_ttl, span);
    let output_max_bytes = reader.value(&OUTPUT_MAX_BYTES, raw.output_max_bytes, integer(0..=u64::MAX));
    Some(JobsConfig {
        queue_limit: queue_limit?,
        prefetch: prefetch?,
        retries: retries?,
        cancel_grace: Duration::from_secs(cancel_grace?),
        timeout: Duration::from_secs(timeout?),
        queue_ttl: Duration::from_secs(queue_ttl?),
        stall_timeout: Duration::from_secs(stall_timeout?),
        result_ttl: result_ttl?,
        output_max_bytes: output_max_bytes?,
    })
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
