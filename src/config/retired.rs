//! Variables that go with the next release. Until then each is read as ever, and a warning says what to do instead; what
//! follows it is fixed then, or gone.

use std::time::Duration;

use super::variable::{Variable, listed, milliseconds, number, parsed, seconds, text, whole};

pub(super) const PREFETCH_JOBS: Variable<usize> = whole("PREFETCH_JOBS", "number", 0..=16)
    .default_and_example("1", "0")
    .retired("one prompt waits in ComfyUI behind the one that runs then; take it out");
pub(super) const CANCEL_GRACE_S: Variable<Duration> = seconds("CANCEL_GRACE_S", 1..=3600)
    .default_and_example("30", "10")
    .retired("30 seconds are fixed then; take it out");
pub(super) const STALL_TIMEOUT_S: Variable<Duration> = seconds("STALL_TIMEOUT_S", 10..=86_400)
    .default_and_example("120", "300")
    .retired("120 seconds are fixed then; take it out");
pub(super) const QUEUE_TTL_S: Variable<Duration> = seconds("QUEUE_TTL_S", 10..=604_800)
    .default_and_example("86400", "3600")
    .retired("a day is fixed then, unless a request's `policy.ttl` says otherwise; take it out");
pub(super) const WEBHOOK_ATTEMPTS: Variable<u32> = whole("WEBHOOK_ATTEMPTS", "number", 1..=100)
    .default_and_example("12", "5")
    .retired("12 attempts are fixed then; take it out");
pub(super) const WEBHOOK_RETRY_DELAY_S: Variable<Duration> = seconds("WEBHOOK_RETRY_DELAY_S", 1..=21_600)
    .default_and_example("15", "60")
    .retired("15 seconds are fixed then; take it out");
pub(super) const WEBHOOK_TIMEOUT_S: Variable<Duration> = seconds("WEBHOOK_TIMEOUT_S", 1..=600)
    .default_and_example("30", "10")
    .retired("30 seconds are fixed then; take it out");
pub(super) const IMAGE_MAX_BYTES: Variable<usize> = whole("IMAGE_MAX_BYTES", "bytes", 1000..=1_000_000_000)
    .default_and_example("32000000", "10000000")
    .retired("32000000 bytes are fixed then; take it out");
pub(super) const IMAGE_TIMEOUT_S: Variable<Duration> = seconds("IMAGE_TIMEOUT_S", 1..=600)
    .default_and_example("60", "20")
    .retired("60 seconds are fixed then; take it out");
pub(super) const IMAGE_BUCKETS: Variable<Vec<String>> = parsed("IMAGE_BUCKETS", "names, comma-separated", |text| {
    Ok(listed(text).map(str::to_owned).collect())
})
.example("uploads,library")
.retired("`s3://` names the bucket for results alone then; send presigned https addresses, and take it out");
pub(super) const SAFETY_CHECK_MODEL: Variable<String> = text("SAFETY_CHECK_MODEL", "name")
    .default_and_example("omni-moderation-latest", "omni-moderation-latest")
    .retired("omni-moderation-latest is asked for then; take it out");
pub(super) const EDIT_TEMPLATE: Variable<String> = text("EDIT_TEMPLATE", "name of a template")
    .default_and_example("qwen-image-edit-2511", "qwen-image-edit-2509")
    .retired("it is qwen-image-edit-2511 then, unless a request's `model` says otherwise; take it out");
pub(super) const PROGRESS_INTERVAL_MS: Variable<Duration> = milliseconds("PROGRESS_INTERVAL_MS", 0..=600_000)
    .default_and_example("1000", "5000")
    .retired("a second is fixed then; take it out");
pub(super) const MIN_GPU_MEMORY_GB: Variable<f64> = number("MIN_GPU_MEMORY_GB", "GB", 0.0..=10_000.0)
    .default_and_example("8", "24")
    .retired("8 GB are fixed then; choose the endpoint's GPUs instead, and take it out");
