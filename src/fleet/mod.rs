//! A fleet: workers of one's own that take their jobs from a broker, and the fronts that put them there. The broker is NATS with
//! `JetStream` (docs.nats.io).
//!
//! ```text
//!  front ──1 create(queued)──────────► ┌ key-value bucket: one entry a job ┐ ◄─4 taken, running, done── worker
//!        ──2 publish, Msg-Id = job───► │ work-queue stream, one consumer   │ ──3 pull, one at a time──►
//!        ◄─5 get, once a second─────── │ object store: what is large       │ ◄─4 files of the result──
//!                                      └ core subjects: progress, cancel   ┘
//! ```
//!
//! The entry is the truth, and the message only says that somebody should look at it: a broker that is killed hands messages out
//! again that were acknowledged, and a worker that was frozen acknowledges what another has by then. So whoever changes an
//! entry names the revision that it has seen, and of two only one is let through ([`entry`]).
//!
//! What both sides know is here. The front's side is an engine (`engine::remote`), the worker's is `member`.

mod broker;
mod described;
mod entry;
mod message;
mod set_up;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use broker::{Bound, Broker, Trouble};
pub use described::{Classes, DESCRIBED};
pub use entry::{Entry, Look, State, now_ms};
pub use message::{Made, MadeObject, Message, News, Parcel, Unreadable};
pub use set_up::Wanted;

/// The version of all that is written here. Fronts and workers of another one do not understand each other.
pub const VERSION: u32 = 1;
/// The stream of jobs. Deployments name it: KEDA counts what waits in it.
pub const STREAM: &str = "QWEN_IMAGE_JOBS";
/// The consumer that all workers share. Deployments name it too.
pub const CONSUMER: &str = "workers";
/// The subject of jobs.
pub const SUBJECT: &str = "qwen-image.jobs";
/// The bucket of entries.
pub const JOBS: &str = "qwen-image-jobs";
/// The object store.
pub const FILES: &str = "qwen-image-files";
/// The key of the [`Numbers`], which is no job's id.
const NUMBERS: &str = "numbers";
/// Bytes of a request, or of a result, that travel as they are; what is larger goes into the object store. A message has at most
/// 1 MiB, where the broker is not told otherwise.
const MOST_INLINE: usize = 400_000;

/// The subject on which a worker tells how far a job is.
pub fn progress_of(job: &str) -> String {
    format!("qwen-image.progress.{job}")
}

/// The subject on which the worker that has a job hears that it should look at its entry.
pub fn look_at(job: &str) -> String {
    format!("qwen-image.look.{job}")
}

/// The subject on which a worker says whether it has a job.
pub fn ask_worker(worker: &str) -> String {
    format!("qwen-image.worker.{worker}")
}

/// What fronts and workers agree on: the front writes it, the workers read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// [`VERSION`] of who wrote it.
    pub version: u32,
    /// How long a worker may be silent before another gets its job.
    pub ack_wait_ms: u64,
    /// How many workers may be lost under a job before it fails.
    pub retries: u32,
    /// How long what is in the broker is kept.
    pub kept_s: u64,
}

impl Numbers {
    /// How long a worker may be silent before another gets its job.
    pub fn ack_wait(&self) -> Duration {
        Duration::from_millis(self.ack_wait_ms)
    }

    /// How often a worker says that it is at its job: often enough that two may be lost.
    pub fn heartbeat(&self) -> Duration {
        self.ack_wait() / 4
    }

    /// How long what is in the broker is kept.
    pub fn kept(&self) -> Duration {
        Duration::from_secs(self.kept_s)
    }

    /// Why they are not for us, if so.
    pub fn refused(&self) -> Option<String> {
        (self.version != VERSION).then(|| {
            format!(
                "the fleet speaks version {} of its messages, and this worker version {VERSION}; run the same release on fronts and workers",
                self.version
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_refused_with_both() {
        let numbers = Numbers {
            version: VERSION + 1,
            ack_wait_ms: 30_000,
            retries: 1,
            kept_s: 60,
        };
        let why = numbers.refused().unwrap();
        assert!(why.contains("version 2") && why.contains("version 1"), "{why}");
        assert_eq!(
            Numbers {
                version: VERSION,
                ..numbers
            }
            .refused(),
            None
        );
        assert_eq!(numbers.heartbeat().as_millis(), 7500);
    }
}
