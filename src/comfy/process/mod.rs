//! The supervisor of the ComfyUI process.
//!
//! # How it works
//!
//! One task owns the process. [`ComfyProcess`] is a handle to that task: its methods queue a control and wait until it
//! was carried out; what the task is doing at the moment is in a [`State`] that anybody may watch.
//!
//! The task leads one process after the other through its life. Each is a *generation*, counted from 1.
//!
//! 1. It takes a free port of 127.0.0.1 and spawns ComfyUI on it, as leader of a new process group, in
//!    [`State::Starting`]. Two readers turn what ComfyUI writes into events of our log (target `comfyui`) and into the
//!    ring of last lines.
//! 2. It waits for the first of three things: `/system_stats` answers, asked every
//!    [`poll_interval`](ProcessOptions::poll_interval) as long as the process lives; the process ends; a control comes.
//! 3. Once it answers: [`State::Ready`], with an [`Connection`]. Now it waits for the end of the process or for a control.
//! 4. When the process has ended, whatever is left of its group is killed, the readers come to the end of the output,
//!    and [`Connection::exited`] of this generation resolves with the [`Exit`]: status and last lines.
//! 5. If nobody asked for that end, [`State::BackingOff`]: a wait that grows with each end in a row
//!    ([`backoff`](ProcessOptions::backoff)), then the next generation. A control cuts the wait short. Another program on
//!    our port costs no wait, only another port.
//! 6. After [`crash_limit`](ProcessOptions::crash_limit) ends in a row, none of them
//!    [`stable_after`](ProcessOptions::stable_after) the process had become ready, or after one whose cause no further
//!    try can mend (a missing Python package, no NVIDIA driver, a wrong argument), [`State::Failed`]: the task waits for
//!    a control, and where the cause may pass by itself (a full disk, a busy GPU) for no longer than
//!    [`revival`](ProcessOptions::revival) says. [`ComfyProcess::restart`] tries again at once, with a clean slate.
//!
//! To stop a process, the group gets SIGINT (on which ComfyUI stops its server at once, also in the middle of a prompt;
//! on SIGTERM it would die without cleaning up). When it has said so, or after
//! [`stop_grace`](ProcessOptions::stop_grace), SIGKILL spares us the seconds that Python needs to end.
//! [`ComfyProcess::stop`], or the end of the last handle, stops the process and then the task.
//!
//! # What goes in with it
//!
//! A start hook of ours runs in the process before `main.py` does (`hook/`). It has ComfyUI see the container's memory limit,
//! and records the imports of custom nodes ([`imports()`]). A pack whose import ended the process is named in the [`Exit`] and
//! left out of the next starts, at no cost but that one start. When SIGKILL ends the process and the kernel has counted a
//! kill for want of memory, the [`Exit`] says that.
//!
//! # No orphans
//!
//! However we go, `kill -9` included, ComfyUI goes too. Its standard input is a pipe that only we hold open. A small
//! launcher (`launcher.py`) first forks a watchdog that reads from that pipe, and then becomes ComfyUI by `exec`, so
//! that `main.py` finds everything as if it had been started by hand. When we are gone, the kernel closes the pipe, and
//! the watchdog kills the group. The usual `PR_SET_PDEATHSIG` would not do: it needs code between fork and exec, exists
//! on Linux alone, and fires when the *thread* that spawned ends, which tokio's threads do. A process that leaves the
//! group on purpose (`setsid`) is out of reach.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument as _;

mod child;
mod command;
mod diagnose;
pub(super) mod environment;
mod error;
mod flags;
mod hook;
mod imports;
mod log_line;
mod node_log;
mod output;
pub mod performance;
mod state;
mod task;
#[cfg(test)]
mod tests;

pub use self::command::{Launch, find_tcmalloc, gives, value};
pub use self::error::{Ending, Exit, GPU_FAILED, INTERRUPT_IGNORED, ProcessError};
pub use self::imports::{Import, Outcome, imports};
pub(super) use self::log_line::read_lines;
pub use self::node_log::{NodeLog, Remark, Said};
pub use self::state::{Connection, Pulse, State};
pub(crate) use self::state::{read_stat, stat_fields};

use self::task::{Control, Supervisor};
use crate::net::retry::RetryPolicy;

/// How patient the supervisor is.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// The time between two polls of a process that is starting (`COMFY_API_AVAILABLE_INTERVAL_MS`).
    pub poll_interval: Duration,
    /// How often a process is polled before it is killed and counts as ended (`COMFY_API_AVAILABLE_MAX_RETRIES`);
    /// 0: as long as it lives.
    pub max_retries: u32,
    /// The time from SIGINT to SIGKILL.
    pub stop_grace: Duration,
    /// So many ends in a row, and it is not started again.
    pub crash_limit: u32,
    /// A process that was ready for so long ends the row.
    pub stable_after: Duration,
    /// The waits between an end and the next start.
    pub backoff: RetryPolicy,
    /// The waits after giving up, where the cause may pass by itself, before it is tried again.
    pub revival: RetryPolicy,
    /// The time between two log lines about a process that is still starting.
    pub progress_interval: Duration,
}

impl Default for ProcessOptions {
    /// 50 ms between polls, as long as the process lives; 10 s of grace; 5 ends in a row with less than a minute of
    /// service each; waits of 250 ms, 500 ms, 1 s and so on up to 30 s, a quarter of jitter; after giving up, another try
    /// after 1 minute, 2, 4, 8, and every 15; a log line every 5 s.
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_millis(50),
            max_retries: 0,
            stop_grace: Duration::from_secs(10),
            crash_limit: 5,
            stable_after: Duration::from_mins(1),
            backoff: RetryPolicy::default(),
            revival: RetryPolicy {
                initial: Duration::from_mins(1),
                longest: Duration::from_mins(15),
                ..RetryPolicy::default()
            },
            progress_interval: Duration::from_secs(5),
        }
    }
}

/// A handle to the supervised ComfyUI. Clones are the same; when the last one is gone, ComfyUI is stopped.
#[derive(Debug, Clone)]
pub struct ComfyProcess {
    controls: mpsc::UnboundedSender<Control>,
    state: watch::Receiver<State>,
    nodes: NodeLog,
    pid: Arc<AtomicU32>,
}

impl ComfyProcess {
    /// Starts ComfyUI. Returns at once; what goes wrong is in the [`State`] and in the answer of
    /// [`ComfyProcess::ready`]. Call it within a tokio runtime.
    pub fn start(launch: Launch, options: ProcessOptions) -> Self {
        let (controls, queue) = mpsc::unbounded_channel();
        let nodes = NodeLog::default();
        let pid = Arc::default();
        let (supervisor, state) = Supervisor::new(launch, options, queue, nodes.clone(), Arc::clone(&pid));
        tokio::spawn(supervisor.run().instrument(tracing::info_span!("supervisor")));
        Self {
            controls,
            state,
            nodes,
            pid,
        }
    }

    /// What ComfyUI's log says of custom nodes.
    pub fn node_log(&self) -> NodeLog {
        self.nodes.clone()
    }

    /// The process id, also while it starts; 0 before the first.
    pub fn pid(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.pid)
    }

    /// What the supervisor is doing, now and from now on.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until ComfyUI answers. An error says that it will not, unless somebody calls
    /// [`ComfyProcess::restart`]: ends in between that are followed by another try are waited out.
    pub async fn ready(&self) -> Result<Connection, ProcessError> {
        let mut state = self.state.clone();
        // The end of a process is told a moment before the state changes; a caller in between waits for the next one.
        let settled = state.wait_for(|state| match state {
            State::Ready(connection) => connection.exit().is_none(),
            other => matches!(other, State::Failed(_) | State::Stopped),
        });
        match settled.await.as_deref() {
            Ok(State::Ready(connection)) => Ok(connection.clone()),
            Ok(State::Failed(error)) => Err(error.clone()),
            // An error: the task is gone.
            _ => Err(ProcessError::Stopped),
        }
    }

    /// Ends the process that runs, if one does, and starts the next one; also from [`State::Failed`] and in the middle
    /// of a wait. Returns when the next one was spawned. Does nothing after [`ComfyProcess::stop`].
    pub async fn restart(&self, reason: &str) {
        self.restart_where(None, reason).await;
    }

    /// As [`ComfyProcess::restart`], but only if `connection` is still to the process that runs: of several jobs that find the
    /// same process unusable, the first one has it replaced.
    pub async fn replace(&self, connection: &Connection, reason: &str) {
        self.restart_where(Some(connection.generation), reason).await;
    }

    async fn restart_where(&self, only: Option<u64>, reason: &str) {
        let (done, carried_out) = oneshot::channel();
        let reason = reason.to_owned();
        let control = Control::Restart { only, reason, done };
        if self.controls.send(control).is_ok() {
            let _ = carried_out.await;
        }
    }

    /// Ends the process and the supervisor: SIGINT, the grace, SIGKILL. Returns when ComfyUI is gone and
    /// what was left of its group has been killed. A second call waits for the first.
    pub async fn stop(&self) {
        let (done, carried_out) = oneshot::channel();
        if self.controls.send(Control::Stop { done: Some(done) }).is_ok() {
            let _ = carried_out.await;
        }
        // The first call may still be at work.
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| matches!(state, State::Stopped)).await;
    }
}
