//! The words that labels may have.

/// What a job is doing, as far as time is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits until its engine begins with it.
    Queue,
    /// Images or models come.
    Download,
    /// Its graph runs.
    Run,
    /// Its results are made ready.
    Deliver,
}

/// Why ComfyUI was started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// It ended by itself.
    Crashed,
    /// The kernel killed it for want of memory.
    OutOfMemory,
    /// It did not get ready.
    NoAnswer,
    /// It did nothing any more.
    Stalled,
    /// Its GPU refuses everything.
    GpuFailed,
    /// A node ignored an interrupt.
    InterruptIgnored,
    /// It had been given up, and a job came.
    Revived,
}

/// Where the bytes of models come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelSource {
    /// The Hugging Face Hub.
    Hub,
    /// Another server.
    Url,
}

/// Where the bytes of input images come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSource {
    /// A web server.
    Web,
    /// A bucket.
    Bucket,
}

/// What came of an attempt to deliver a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookResult {
    /// The receiver has it.
    Delivered,
    /// It is tried again.
    Failed,
    /// It is not.
    GivenUp,
}

// The words of each, in the order of its variants.
pub(super) const PHASES: [&str; 4] = ["queue", "download", "run", "deliver"];
pub(super) const RESTARTS: [&str; 7] = [
    "crashed",
    "out_of_memory",
    "no_answer",
    "stalled",
    "gpu_failed",
    "interrupt_ignored",
    "revived",
];
pub(super) const MODEL_SOURCES: [&str; 2] = ["hub", "url"];
pub(super) const IMAGE_SOURCES: [&str; 2] = ["web", "bucket"];
pub(super) const WEBHOOK_RESULTS: [&str; 3] = ["delivered", "failed", "given_up"];
pub(super) const JOB_STATES: [&str; 2] = ["waiting", "running"];
