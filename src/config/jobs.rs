//! How jobs are run.

use serde::Deserialize;

use super::variable::{Reader, Variable, integer};

/// Limits of the job core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobsConfig {
    /// Jobs in hand at once, waiting ones included.
    pub queue_limit: usize,
    /// How often a job is run again when ComfyUI died under it.
    pub retries: u32,
}

const QUEUE_LIMIT: Variable = Variable {
    name: "QUEUE_LIMIT",
    kind: "number, 1 to 100000",
    default: Some("100"),
    example: "20",
    meaning: "Jobs in hand at once, waiting ones included; one more is answered 429 with `Retry-After`.",
    secret: false,
};
const JOB_RETRIES: Variable = Variable {
    name: "JOB_RETRIES",
    kind: "number, 0 to 10",
    default: Some("1"),
    example: "0",
    meaning: "How often a job is run again when ComfyUI died under it. A graph that fails is never run again.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[&QUEUE_LIMIT, &JOB_RETRIES];

#[derive(Deserialize, Default)]
struct Raw {
    queue_limit: Option<String>,
    job_retries: Option<String>,
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<JobsConfig> {
    let raw: Raw = reader.raw(vars);
    let queue_limit = reader.value(&QUEUE_LIMIT, raw.queue_limit, integer(1..=100_000_usize));
    let retries = reader.value(&JOB_RETRIES, raw.job_retries, integer(0..=10_u32));
    Some(JobsConfig {
        queue_limit: queue_limit?,
        retries: retries?,
    })
}
