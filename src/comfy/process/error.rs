//! What can go wrong with the process.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::exit::Exit;
use crate::error::{ErrorKind, JobError};

/// Why ComfyUI cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// `COMFYUI_ARGS` has a flag that would make ComfyUI unreachable for us, or reachable for others.
    #[error("COMFYUI_ARGS must not hold {argument}")]
    ReservedArgument {
        /// The argument as it was given.
        argument: String,
    },
    /// The folder has no `main.py`.
    #[error("no ComfyUI at {}: the folder has no main.py", root.display())]
    NotComfyUi {
        /// The folder.
        root: PathBuf,
    },
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
    NoFreePort {
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
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
    #[error("ComfyUI {exit}")]
    Exited {
        /// How it ended.
        exit: Arc<Exit>,
    },
    /// The process ended while starting, for a reason that another try does not mend.
    #[error("ComfyUI cannot start: it {exit}")]
    StartFailed {
        /// How it ended.
        exit: Arc<Exit>,
    },
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
            | Self::NoFreePort { .. }
            | Self::Spawn { .. }
            | Self::Exited { .. }
            | Self::CrashLoop { .. } => true,
            Self::ReservedArgument { .. } | Self::NotComfyUi { .. } | Self::StartFailed { .. } | Self::Stopped => false,
        }
    }

    /// The next step for the user.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ReservedArgument { .. } => Some(
                "Take it out: the worker runs ComfyUI on 127.0.0.1 with a port of its own choice, and HOST and PORT say \
                 where the worker itself listens."
                    .to_owned(),
            ),
            Self::NotComfyUi { .. } => Some(
                "Set COMFYUI_DIR to the folder that holds ComfyUI's main.py, or unset it to have ComfyUI installed."
                    .to_owned(),
            ),
            Self::RunDirectory { .. } => Some("Set DATA_DIR to a folder that can be written to.".to_owned()),
            Self::NoFreePort { .. } => Some("Check that the loopback interface is up and has free ports.".to_owned()),
            Self::Spawn { .. } => {
                Some("Check that the Python interpreter exists and can be executed; `setup` installs one's packages.".to_owned())
            }
            Self::Exited { exit } | Self::StartFailed { exit } => exit.hint(),
            Self::CrashLoop { exit, .. } => {
                Some(exit.hint().unwrap_or_else(|| {
                    "Mend what the last lines show (COMFY_LOG_LEVEL=DEBUG shows more), then restart.".to_owned()
                }))
            }
            Self::Stopped => None,
        }
    }
}

impl From<Arc<Exit>> for ProcessError {
    fn from(exit: Arc<Exit>) -> Self {
        Self::Exited { exit }
    }
}

impl From<ProcessError> for JobError {
    fn from(error: ProcessError) -> Self {
        let mut message = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            message = format!("{message}: {source}");
        }
        let job_error = Self::new(ErrorKind::ComfyUnavailable, message);
        match error.hint() {
            Some(hint) => job_error.hint(hint),
            None => job_error,
        }
    }
}
