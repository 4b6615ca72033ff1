//! What goes into the store and what comes out.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use url::Url;

use crate::executor::LeftFile;
use crate::job::{JobId, JobState, Policy};

/// How a store is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// Bodies of more bytes than this lie in files of their own: rows stay small, and so does what a commit writes.
    pub inline_bytes: usize,
    /// How long the store waits for another program that has its database locked.
    pub patience: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            inline_bytes: 64 * 1024,
            patience: Duration::from_secs(5),
        }
    }
}

/// A job that was just taken in.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// When it came.
    pub created: SystemTime,
    /// What its request says about its handling.
    pub policy: Policy,
    /// The request, as the caller wrote it.
    pub payload: Bytes,
}

/// A job as the store knows it. Times are exact to the microsecond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredJob {
    /// Its id.
    pub id: JobId,
    /// Where it is in its life.
    pub state: JobState,
    /// When it came.
    pub created: SystemTime,
    /// From its coming to the begin of its execution, once it ended.
    pub delay: Option<Duration>,
    /// From the begin of its execution to its end, once it ended.
    pub execution: Option<Duration>,
    /// How often it was begun; a retry that its owner asks for counts from zero.
    pub attempts: u32,
    /// The prompt in ComfyUI that carries it.
    pub prompt_id: Option<String>,
    /// What its request says about its handling.
    pub policy: Policy,
    /// What came of it, as the caller wrote it. Only [`Store::get`](super::Store::get) loads it.
    pub result: Option<Bytes>,
}

/// A job's end.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended: a final state.
    pub state: JobState,
    /// When.
    pub at: SystemTime,
    /// From its coming to the begin of its execution.
    pub delay: Duration,
    /// From the begin of its execution to its end.
    pub execution: Duration,
    /// How often it was begun, as far as the caller knows: that may not have been stored.
    pub attempts: u32,
    /// What came of it, as the caller wrote it.
    pub result: Bytes,
    /// Whether its owner may want it to be run again: its payload stays then, and goes otherwise.
    pub keeps_payload: bool,
    /// The files that it left, removed together with the job.
    pub files: Vec<LeftFile>,
    /// Whom to tell.
    pub webhook: Option<WebhookRow>,
    /// Whether the platform is to be told too. Until [`Store::reported`](super::Store::reported) says that it was, the
    /// job is not removed.
    pub unreported: bool,
}

/// A webhook to send. It lives in the store until it is delivered or given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRow {
    /// The id of the message, by which the receiver knows a repetition: of its own for each end of each job.
    pub id: String,
    /// Where to.
    pub url: Url,
}

/// A job whose time in the store is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// Which job.
    pub id: JobId,
    /// Its files, without those that a job that stays has too: ComfyUI gives the same file to jobs that differ in
    /// nothing.
    pub files: Vec<LeftFile>,
    /// When it ended: what was written after that is not its own.
    pub ended: Option<SystemTime>,
    /// Whether the job itself stays: its end is still to be told to its webhook.
    pub stays: bool,
}
