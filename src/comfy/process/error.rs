//! How a process ended, and what can go wrong with it.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::imports::{Import, Outcome, pack_name};
use crate::comfy::memory::Gib;
use crate::display::error_chain;
use crate::error::{ErrorKind, JobError};
use crate::telemetry::metrics::Restart;

/// How one process ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Exit {
    /// Which start of ComfyUI it was, from 1; 0 where nobody knows.
    pub generation: u64,
    /// The way it ended.
    pub ending: Ending,
    /// How long it had been answering; [`None`] if it never did.
    pub ready_for: Option<Duration>,
    /// Its last lines of output, oldest first, without colours.
    pub lines: Vec<String>,
    /// The custom nodes that it imported, if it ended before it was ready.
    pub imports: Vec<Import>,
    /// Whose memory was at its end, if the kernel killed it for that.
    pub out_of_memory: Option<OutOfMemory>,
}

/// Whose memory was at its end when the kernel killed a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfMemory {
    /// The container's, which has this limit in bytes.
    Container(u64),
    /// The machine's.
    Machine,
}

impl fmt::Display for OutOfMemory {
    /// A sentence's rest after `since`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(limit) => write!(f, "the container's memory limit of {} was reached", Gib(*limit)),
            Self::Machine => f.write_str("the machine's memory was used up"),
        }
    }
}

/// Why a process is replaced whose GPU refuses everything.
pub const GPU_FAILED: &str = "the GPU refuses everything after an error";
/// Why one is replaced that cannot be interrupted.
pub const INTERRUPT_IGNORED: &str = "a node ignored the interrupt of a job that was cancelled";

/// The way a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this exit status.
    Code(i32),
    /// Killed by this signal, which we did not send.
    Signal(i32),
    /// By us, since it did not answer after this many polls.
    NoAnswer(u32),
    /// By us, to be started again, for this reason.
    Restarted(String),
    /// By us, for good.
    Stopped,
    /// Nobody knows: the operating system did not tell.
    Unknown,
}

impl Ending {
    pub(super) fn of(status: Option<ExitStatus>) -> Self {
        let Some(status) = status else { return Self::Unknown };
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }

    /// Why the next process is started, in few words; [`None`]: there is none.
    pub(super) fn restart(&self, out_of_memory: bool) -> Option<Restart> {
        Some(match self {
            Self::Stopped => return None,
            _ if out_of_memory => Restart::OutOfMemory,
            Self::Code(_) | Self::Signal(_) | Self::Unknown => Restart::Crashed,
            Self::NoAnswer(_) => Restart::NoAnswer,
            Self::Restarted(reason) => match reason.as_str() {
                GPU_FAILED => Restart::GpuFailed,
                INTERRUPT_IGNORED => Restart::InterruptIgnored,
                _ => Restart::Stalled,
            },
        })
    }
}

impl fmt::Display for Ending {
    /// Goes on after `ComfyUI `: `ended with exit status 1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Shells and container runtimes report a signal as 128 and its number.
            Self::Code(code @ 129..=159) => {
                write!(
                    f,
                    "ended with exit status {code}, as after {}",
                    signal_name(*code - 128)
                )
            }
            Self::Code(code) => write!(f, "ended with exit status {code}"),
            Self::Signal(signal) => write!(f, "was killed by {}", signal_name(*signal)),
            Self::NoAnswer(polls) => write!(f, "did not answer after {polls} polls"),
            Self::Restarted(reason) => write!(f, "was restarted: {reason}"),
            Self::Stopped => f.write_str("was stopped"),
            Self::Unknown => f.write_str("ended without an exit status"),
        }
    }
}

/// `SIGKILL`, or `signal 99` for one without a name.
fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

impl Exit {
    /// How many of [`Exit::lines`] an error message shows.
    const SHOWN_LINES: usize = 20;

    /// An exit of which nothing but the ending is known.
    pub(super) fn of(ending: Ending) -> Self {
        Self {
            generation: 0,
            ending,
            ready_for: None,
            lines: Vec::new(),
            imports: Vec::new(),
            out_of_memory: None,
        }
    }

    /// Whether SIGKILL ended it that we did not send, as the kernel sends it for want of memory.
    pub(super) fn was_killed(ending: &Ending) -> bool {
        matches!(ending, Ending::Signal(9) | Ending::Code(137))
    }

    /// The pack of custom nodes that was being imported, if it ended before it was ready.
    fn importing(&self) -> Option<&Path> {
        let running = self.imports.iter().rfind(|import| import.outcome == Outcome::Running);
        running.map(|import| &*import.folder)
    }

    /// How it ended, as far as that is known. Goes on after `ComfyUI `: `ended with exit status 1`.
    pub fn how(&self) -> String {
        match self.out_of_memory {
            Some(memory) => format!("was killed by the kernel, since {memory}"),
            None => self.ending.to_string(),
        }
    }

    /// The pack of custom nodes whose import ended it, by all that is known. One that only took long did not, nor one that
    /// ran when somebody asked ComfyUI to end, or killed it: what the kernel kills for want of memory it counts.
    pub(super) fn ended_by(&self) -> Option<&Path> {
        let asked = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].map(|signal| signal as i32);
        match self.ending {
            Ending::Signal(signal) if asked.contains(&signal) => None,
            _ if Self::was_killed(&self.ending) && self.out_of_memory.is_none() => None,
            Ending::Code(_) | Ending::Signal(_) => self.importing(),
            _ => None,
        }
    }

    /// Whether it ended without being asked to.
    pub fn is_crash(&self) -> bool {
        !matches!(self.ending, Ending::Restarted(_) | Ending::Stopped)
    }
}

impl fmt::Display for Exit {
    /// `ended with exit status 1 before it was ready; its last lines:` and the lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.how())?;
        match self.ready_for {
            _ if !self.is_crash() => {}
            None if let Some(folder) = self.importing() => {
                write!(f, " while it loaded the custom node {}", pack_name(folder))?;
            }
            None => f.write_str(" before it was ready")?,
            Some(_) if self.out_of_memory.is_some() => {}
            Some(time) => write!(f, " after {} s of service", time.as_secs())?,
        }
        // It cannot know what the kernel does.
        if self.out_of_memory.is_some() {
            return Ok(());
        }
        if self.lines.is_empty() {
            return f.write_str("; it wrote nothing");
        }
        f.write_str("; its last lines:")?;
        for line in &self.lines[self.lines.len().saturating_sub(Self::SHOWN_LINES)..] {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

/// Why ComfyUI cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// `COMFYUI_ARGS` has a flag that would make ComfyUI unreachable for us, or reachable for others.
    #[error("COMFYUI_ARGS must not hold {0}")]
    ReservedArgument(String),
    /// The folder has no `main.py`.
    #[error("no ComfyUI at {}: the folder has no main.py", .0.display())]
    NotComfyUi(PathBuf),
    /// It has no such argument, and would read and write where nobody looks.
    #[error("this ComfyUI is too old: it has no argument {0}")]
    TooOld(&'static str),
    /// The private folder of the process cannot be made.
    #[error("cannot make the folder {}", path.display())]
    RunDirectory {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
    /// No port on the loopback address.
    #[error("cannot get a free port on 127.0.0.1")]
    NoFreePort(#[source] Arc<io::Error>),
    /// Nobody can ask whether it answers.
    #[error("no HTTP client can be made for ComfyUI")]
    NoClient(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The interpreter cannot be started.
    #[error("cannot start {}", python.display())]
    Spawn {
        /// The interpreter.
        python: PathBuf,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
    /// The process ended; the next one is on its way.
    #[error("ComfyUI {0}")]
    Exited(Arc<Exit>),
    /// The process ended while starting, for a reason that another try does not mend.
    #[error("ComfyUI cannot start: it {0}")]
    StartFailed(Arc<Exit>),
    /// The process keeps ending.
    #[error("ComfyUI keeps ending ({exits} times in a row): it {exit}")]
    CrashLoop {
        /// How often it ended in a row.
        exits: u32,
        /// How it ended the last time.
        exit: Arc<Exit>,
    },
    /// The supervisor was stopped.
    #[error("ComfyUI was stopped")]
    Stopped,
}

impl ProcessError {
    /// Whether a later try may succeed although nobody changed anything: a disk has room again, a GPU is free.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::RunDirectory { .. }
            | Self::NoFreePort(_)
            | Self::NoClient(_)
            | Self::Spawn { .. }
            | Self::Exited(_)
            | Self::CrashLoop { .. } => true,
            Self::ReservedArgument(_)
            | Self::NotComfyUi(_)
            | Self::TooOld(_)
            | Self::StartFailed(_)
            | Self::Stopped => false,
        }
    }

    /// The next step for the user.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::ReservedArgument(_) => {
                "Take it out: the worker runs ComfyUI on 127.0.0.1 with a port of its own choice, and HOST and PORT say \
                 where the worker itself listens."
            }
            Self::NotComfyUi(_) => {
                "Set COMFYUI_DIR to the folder that holds ComfyUI's main.py, or unset it to have ComfyUI installed."
            }
            Self::TooOld(_) => {
                "Take a newer one: COMFYUI_VERSION names the version that is installed, COMFYUI_DIR one of your own."
            }
            Self::RunDirectory { .. } => "Set DATA_DIR to a folder that can be written to.",
            Self::NoFreePort(_) => "Check that the loopback interface is up and has free ports.",
            Self::NoClient(_) => "Check that this machine has certificates of its own (`ca-certificates`).",
            Self::Spawn { .. } => {
                "Check that the Python interpreter exists and can be executed; `setup` installs one's packages."
            }
            Self::Exited(exit) | Self::StartFailed(exit) => return exit.hint(),
            Self::CrashLoop { exit, .. } => {
                return exit.hint().or_else(|| {
                    Some("Mend what the last lines show (COMFY_LOG_LEVEL=DEBUG shows more), then restart.".to_owned())
                });
            }
            Self::Stopped => return None,
        };
        Some(hint.to_owned())
    }
}

impl From<ProcessError> for JobError {
    fn from(error: ProcessError) -> Self {
        let job_error = Self::new(ErrorKind::ComfyUnavailable, error_chain(&error));
        match error.hint() {
            Some(hint) => job_error.hint(hint),
            None => job_error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_a_process_is_told_in_few_words() {
        let replaced = |reason: &str| Ending::Restarted(reason.to_owned()).restart(false);
        assert_eq!(Ending::Stopped.restart(false), None);
        assert_eq!(Ending::Stopped.restart(true), None);
        assert_eq!(Ending::Code(1).restart(false), Some(Restart::Crashed));
        assert_eq!(Ending::Signal(9).restart(true), Some(Restart::OutOfMemory));
        assert_eq!(Ending::NoAnswer(7).restart(false), Some(Restart::NoAnswer));
        assert_eq!(replaced(GPU_FAILED), Some(Restart::GpuFailed));
        assert_eq!(replaced(INTERRUPT_IGNORED), Some(Restart::InterruptIgnored));
        assert_eq!(replaced("it said nothing for 120 s"), Some(Restart::Stalled));
    }
}
