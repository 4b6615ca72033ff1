//! How a process ended.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;

/// How one process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The number of the process.
    pub generation: u64,
    /// Its process id.
    pub pid: u32,
    /// The way it ended.
    pub ending: Ending,
    /// How long it had been answering; [`None`] if it never did.
    pub ready_for: Option<Duration>,
    /// Its last lines of output, oldest first, without colours.
    pub lines: Vec<String>,
}

/// The way a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this exit status.
    Code(i32),
    /// Killed by this signal, which we did not send.
    Signal(i32),
    /// By us, since it did not answer after this many polls.
    NoAnswer {
        /// How often it was asked.
        polls: u32,
    },
    /// By us, to be started anew.
    Restarted {
        /// Why.
        reason: String,
    },
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
            Self::NoAnswer { polls } => write!(f, "did not answer after {polls} polls"),
            Self::Restarted { reason } => write!(f, "was restarted: {reason}"),
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

    /// Whether it ended without being asked to.
    pub fn is_crash(&self) -> bool {
        !matches!(self.ending, Ending::Restarted { .. } | Ending::Stopped)
    }
}

impl fmt::Display for Exit {
    /// `ended with exit status 1 before it was ready; its last lines:` and the lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ending)?;
        match self.ready_for {
            _ if !self.is_crash() => {}
            None => f.write_str(" before it was ready")?,
            Some(time) => write!(f, " after {} s of service", time.as_secs())?,
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
