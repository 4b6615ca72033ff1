//! Who runs jobs: one ComfyUI, or several, or workers elsewhere. An engine runs a job and knows nothing of the queue; the
//! [`Pool`] knows which of them are free, and what each has in its memory, and the queue gives them their jobs.

mod groups;
mod local;
mod pool;
pub mod remote;
mod signature;

use std::fmt;

use futures_util::future::BoxFuture;

use crate::error::JobError;
use crate::executor::JobControl;
use crate::executor::elsewhere::Failed;
use crate::job::{JobId, JobRequest, Outcome};

pub use groups::Tries;
pub use pool::{LOOKS, Member, Passed, Pool, Seat, Turn, Waiting};
pub use signature::Signature;

/// Where an engine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Jobs run there.
    Ready,
    /// It is being started, or started again after it ended.
    Starting,
    /// Jobs wait for it until somebody helps, or it comes back by itself.
    Away,
}

/// Runs jobs.
pub trait Engine: fmt::Debug + Send + Sync {
    /// What it is called in logs, in `/health` and in results.
    fn name(&self) -> &str;

    /// The jobs that it takes at the same time, those that it only prepares among them. At least 1.
    fn places(&self) -> usize;

    /// Where it stands, as far as is known without asking.
    fn standing(&self) -> Standing;

    /// Resolves when it stands otherwise. May resolve without need.
    fn until_not(&self, standing: Standing) -> BoxFuture<'_, ()>;

    /// Resolves when it is away, with the reason.
    fn until_away(&self) -> BoxFuture<'_, JobError>;

    /// A job waits for it, and it is away: it is looked for, or started once more. Resolves when it is back.
    fn called(&self) -> BoxFuture<'_, ()>;

    /// Whether it goes on with a job when the worker ends, so that the next run of the worker finds it there.
    fn keeps_jobs(&self) -> bool;

    /// Ends prompts that a previous run of the worker submitted here for jobs which are over.
    fn cancel_earlier<'a>(&'a self, prompt_ids: &'a [String]) -> BoxFuture<'a, ()>;

    /// Runs a job to its end. When it is cancelled by its owner, the engine is free again when this resolves. Fails with
    /// [`ComfyUnavailable`](crate::error::ErrorKind::ComfyUnavailable) when it is away for longer than the owner's patience.
    fn run<'a>(
        &'a self,
        id: &'a JobId,
        request: JobRequest,
        owner: &'a JobControl,
    ) -> BoxFuture<'a, Result<Outcome, Failed>>;

    /// What it is where it is elsewhere: then a job is never given to another while it may have it, which may charge for it.
    fn elsewhere(&self) -> Option<&remote::Remote> {
        None
    }
}
