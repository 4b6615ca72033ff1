//! The ComfyUI that jobs run on, whoever starts it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use url::Url;

use super::client::ComfyClient;
use super::folders::Folders;
use super::process::{ComfyProcess, Endpoint, State};
use crate::error::{ErrorKind, JobError};

/// How far the start of a ComfyUI of ours has come.
#[derive(Debug, Clone)]
pub enum Boot {
    /// It is being installed, or its demo weights are being written.
    Preparing,
    /// Its process is being watched.
    Started(ComfyProcess),
    /// It cannot be started.
    Failed(JobError),
}

/// The ComfyUI that jobs run on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Comfy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Link,
    folders: Option<Folders>,
    /// The connection to the current process; made anew for each start.
    current: Mutex<Option<Connection>>,
}

#[derive(Debug)]
enum Link {
    Supervised(watch::Receiver<Boot>),
    Attached(Connection),
}

/// A way to speak to one start of ComfyUI.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Its HTTP API.
    pub client: ComfyClient,
    endpoint: Endpoint,
}

impl Connection {
    fn new(endpoint: Endpoint) -> Result<Self, JobError> {
        let url = Url::parse(&endpoint.base_url)
            .map_err(|error| JobError::internal(format!("the address {} is no URL: {error}", endpoint.base_url)))?;
        let client = ComfyClient::new(url)
            .map_err(|error| JobError::internal(format!("no HTTP client can be made: {error}")))?;
        Ok(Self { client, endpoint })
    }

    /// Which start of ComfyUI this is; 0 when somebody else starts it.
    pub fn generation(&self) -> u64 {
        self.endpoint.generation
    }

    /// The process, where it is ours.
    pub fn pid(&self) -> Option<u32> {
        self.endpoint.pid
    }

    /// Whether this start of ComfyUI is over because we wanted it so.
    pub fn was_replaced(&self) -> bool {
        self.endpoint.exit().is_some_and(|exit| !exit.is_crash())
    }

    /// Resolves when this start of ComfyUI is over, with what its last lines say. Never for one that we only attach to.
    pub async fn death(&self) -> JobError {
        let exit = self.endpoint.exited().await;
        let error = JobError::new(ErrorKind::ComfyUnavailable, format!("ComfyUI {exit}"));
        match exit.hint() {
            Some(hint) => error.hint(hint),
            None => error.hint("It is started again by itself; send the job again."),
        }
    }
}

/// What `/health` says of ComfyUI.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum ComfyState {
    /// It is being installed, started, or started again.
    Starting,
    /// It takes prompts.
    Ready {
        /// The process id, where the process is ours.
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// Which start this is.
        generation: u64,
    },
    /// It is being stopped.
    Stopping,
    /// It cannot be started; a person has to look.
    Failed {
        /// What is wrong and what to do.
        reason: String,
    },
}

impl Comfy {
    /// A ComfyUI of ours that is about to be started; `boot` tells how far that is.
    pub fn supervised(boot: watch::Receiver<Boot>, folders: Folders) -> Self {
        Self(Arc::new(Inner {
            link: Link::Supervised(boot),
            folders: Some(folders),
            current: Mutex::default(),
        }))
    }

    /// A ComfyUI that somebody else runs.
    pub fn attached(base: &Url) -> Result<Self, JobError> {
        let connection = Connection::new(Endpoint::attached(base.as_str()))?;
        Ok(Self(Arc::new(Inner {
            link: Link::Attached(connection),
            folders: None,
            current: Mutex::default(),
        })))
    }

    /// Whether the process is ours, so that its end is seen.
    pub fn is_supervised(&self) -> bool {
        matches!(self.0.link, Link::Supervised(_))
    }

    /// Its folders, where they are on this machine.
    pub fn folders(&self) -> Option<&Folders> {
        self.0.folders.as_ref()
    }

    /// Waits until ComfyUI takes prompts. Fails when it cannot be started.
    pub async fn connection(&self) -> Result<Connection, JobError> {
        let boot = match &self.0.link {
            Link::Attached(connection) => return Ok(connection.clone()),
            Link::Supervised(boot) => boot,
        };
        let endpoint = started(boot.clone()).await?.ready().await?;
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = current
            .as_ref()
            .filter(|connection| connection.generation() == endpoint.generation)
        {
            return Ok(connection.clone());
        }
        let connection = Connection::new(endpoint)?;
        *current = Some(connection.clone());
        Ok(connection)
    }

    /// Where ComfyUI stands at this moment.
    pub async fn state(&self) -> ComfyState {
        let boot = match &self.0.link {
            Link::Attached(connection) => {
                return match connection.client.system_stats().await {
                    Ok(_) => ComfyState::Ready {
                        pid: None,
                        generation: 0,
                    },
                    Err(error) => {
                        tracing::debug!(%error, "the ComfyUI at COMFYUI_URL does not answer");
                        ComfyState::Starting
                    }
                };
            }
            Link::Supervised(boot) => boot.borrow().clone(),
        };
        let process = match boot {
            Boot::Preparing => return ComfyState::Starting,
            Boot::Failed(error) => {
                return ComfyState::Failed {
                    reason: error.full_text(),
                };
            }
            Boot::Started(process) => process,
        };
        let state = process.state().borrow().clone();
        match state {
            State::Starting { .. } | State::BackingOff { .. } => ComfyState::Starting,
            State::Ready { endpoint, .. } => ComfyState::Ready {
                pid: endpoint.pid,
                generation: endpoint.generation,
            },
            State::Stopping { .. } | State::Stopped => ComfyState::Stopping,
            State::Failed(error) => ComfyState::Failed {
                reason: JobError::from(error).full_text(),
            },
        }
    }

    /// Ends the process of this connection, if it is ours and still runs, and starts the next one.
    pub async fn replace(&self, connection: &Connection, reason: &str) {
        let Link::Supervised(boot) = &self.0.link else { return };
        let boot = boot.borrow().clone();
        if let Boot::Started(process) = boot {
            process.replace(&connection.endpoint, reason).await;
        }
    }

    /// Ends the process, if it is ours and was started.
    pub async fn stop(&self) {
        let Link::Supervised(boot) = &self.0.link else { return };
        let boot = boot.borrow().clone();
        if let Boot::Started(process) = boot {
            process.stop().await;
        }
    }
}

async fn started(mut boot: watch::Receiver<Boot>) -> Result<ComfyProcess, JobError> {
    let Ok(boot) = boot.wait_for(|boot| !matches!(boot, Boot::Preparing)).await else {
        return Err(JobError::internal("the start of ComfyUI was given up"));
    };
    match &*boot {
        Boot::Started(process) => Ok(process.clone()),
        Boot::Failed(error) => Err(error.clone()),
        Boot::Preparing => Err(JobError::internal("ComfyUI is neither started nor failed")),
    }
}
