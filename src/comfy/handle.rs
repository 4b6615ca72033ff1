//! The ComfyUI that jobs run on, whoever starts it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use url::Url;

use super::client::{ClientError, ComfyClient};
use super::folders::Folders;
use super::process::{ComfyProcess, Ending, Endpoint, ProcessError, Pulse, State};
use crate::error::{ErrorKind, JobError};

mod away;

/// Time between two starts that jobs ask for after the supervisor gave up.
const REVIVAL_EVERY: Duration = Duration::from_mins(1);

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

/// The longest that the end of a process goes unseen, on a busy machine.
const DEATH_SHOWS_AFTER: Duration = Duration::from_secs(2);

/// How long a health check waits for a ComfyUI that we only attach to.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long such a ComfyUI may be silent and count as busy.
const LONGEST_SILENCE: Duration = Duration::from_mins(1);

/// The ComfyUI that jobs run on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Comfy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Link,
    folders: Option<Folders>,
    /// The connection to the current process; made anew for each start.
    current: Mutex<Option<Connection>>,
    /// When a job last had ComfyUI started after the supervisor gave up.
    revived: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Debug)]
enum Link {
    Supervised(watch::Receiver<Boot>),
    Attached {
        connection: Connection,
        /// Whether a job has looked at what answers there, and has not lost it since.
        looked: AtomicBool,
        /// Why jobs wait for it, while they do.
        away: watch::Sender<Option<JobError>>,
        seen: Seen,
    },
}

/// What we know of a ComfyUI that somebody else runs.
#[derive(Debug, Default)]
struct Seen {
    /// Whether a ComfyUI was seen there.
    ever: AtomicBool,
    /// Since when it takes connections and answers nothing.
    silent_since: Mutex<Option<Instant>>,
}

impl Seen {
    /// Whether it takes prompts, as far as can be told soon. One that is silent may be loading a model.
    async fn answers(&self, client: &ComfyClient) -> bool {
        let answer = tokio::time::timeout(PROBE_TIMEOUT, client.system_stats()).await;
        let mut silent_since = self.silent_since.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(Ok(stats)) => {
                *silent_since = None;
                self.ever.fetch_or(stats.get("system").is_some(), Ordering::Relaxed);
                true
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the ComfyUI at COMFYUI_URL does not answer");
                false
            }
            Err(_) => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                self.ever.load(Ordering::Relaxed) && since.elapsed() < LONGEST_SILENCE
            }
        }
    }
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

    /// One whose process is looked at.
    #[cfg(test)]
    pub(crate) fn of_process(mut self, pid: u32) -> Self {
        self.endpoint.pid = Some(pid);
        self
    }

    /// Which start of ComfyUI this is; 0 when somebody else starts it.
    pub fn generation(&self) -> u64 {
        self.endpoint.generation
    }

    /// The process, where it is ours.
    pub fn pid(&self) -> Option<u32> {
        self.endpoint.pid
    }

    /// Whether this start of ComfyUI is over; never said of one that we only attach to.
    pub fn is_over(&self) -> bool {
        self.endpoint.exit().is_some()
    }

    /// Whether this start of ComfyUI is over because we wanted it so.
    pub fn was_replaced(&self) -> bool {
        self.endpoint.exit().is_some_and(|exit| !exit.is_crash())
    }

    /// The death that is behind `error`, if there is one: a connection breaks a moment before the end of the process is
    /// seen, and what the process said last is the better answer.
    pub async fn death_behind(&self, error: &JobError) -> Option<JobError> {
        if error.kind != ErrorKind::ComfyUnavailable || self.endpoint.pid.is_none() {
            return None;
        }
        tokio::time::timeout(DEATH_SHOWS_AFTER, self.death()).await.ok()
    }

    /// Resolves when this start of ComfyUI is over, with what its last lines say; of the kind
    /// [`ErrorKind::Interrupted`] when we stopped it for good. Never for one that we only attach to.
    pub async fn death(&self) -> JobError {
        let exit = self.endpoint.exited().await;
        if exit.ending == Ending::Stopped {
            return JobError::new(ErrorKind::Interrupted, "The worker was stopped before the job was done")
                .hint("Send the job again, later or to another worker.");
        }
        let error = JobError::new(ErrorKind::ComfyUnavailable, format!("ComfyUI {exit}"));
        match exit.hint() {
            Some(hint) => error.hint(hint),
            None => error.hint("It is started again by itself; send the job again."),
        }
    }
}

/// What `/health` says of ComfyUI.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
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
    /// It answers nothing: its process was stopped from outside (SIGSTOP).
    Suspended {
        /// The process id.
        pid: u32,
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
            revived: tokio::sync::Mutex::default(),
        }))
    }

    /// A ComfyUI that somebody else runs.
    pub fn attached(base: &Url) -> Result<Self, JobError> {
        let connection = Connection::new(Endpoint::attached(base.as_str()))?;
        Ok(Self(Arc::new(Inner {
            link: Link::Attached {
                connection,
                looked: AtomicBool::new(false),
                away: watch::Sender::default(),
                seen: Seen::default(),
            },
            folders: None,
            current: Mutex::default(),
            revived: tokio::sync::Mutex::default(),
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

    /// Waits until ComfyUI takes prompts. Fails when it cannot be started, or is not there; see [`Self::available`].
    pub async fn connection(&self) -> Result<Connection, JobError> {
        let boot = match &self.0.link {
            Link::Attached {
                connection,
                looked,
                seen,
                ..
            } => {
                if !looked.load(Ordering::Relaxed) {
                    look_for_comfyui(&connection.client).await?;
                    looked.store(true, Ordering::Relaxed);
                    seen.ever.store(true, Ordering::Relaxed);
                }
                return Ok(connection.clone());
            }
            Link::Supervised(boot) => boot,
        };
        let process = started(boot.clone()).await?;
        let endpoint = match process.ready().await {
            Ok(endpoint) => endpoint,
            Err(error) => self.revive(&process, error).await?,
        };
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

    /// Has a ComfyUI started once more that the supervisor gave up, if it had worked before: then a job was at fault,
    /// most likely, and not the installation.
    async fn revive(&self, process: &ComfyProcess, error: ProcessError) -> Result<Endpoint, ProcessError> {
        let had_worked = self.0.current.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let mut revived = self.0.revived.lock().await;
        // Another job may have had it started in the meantime.
        if matches!(*process.state().borrow(), State::Failed(_)) {
            if !had_worked || revived.is_some_and(|last| last.elapsed() < REVIVAL_EVERY) {
                return Err(error);
            }
            *revived = Some(Instant::now());
            process.restart("a job came, and it had worked before").await;
        }
        drop(revived);
        process.ready().await
    }

    /// Where ComfyUI stands at this moment.
    pub async fn state(&self) -> ComfyState {
        let boot = match &self.0.link {
            Link::Attached { connection, seen, .. } => {
                let ready = seen.answers(&connection.client).await;
                return if ready {
                    ComfyState::Ready {
                        pid: None,
                        generation: 0,
                    }
                } else {
                    ComfyState::Starting
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
            State::Ready { endpoint, .. } => match (endpoint.pulse(), endpoint.pid) {
                // The supervisor is about to see that, and starts the next one.
                (Pulse::Gone, _) => ComfyState::Starting,
                (Pulse::Suspended, Some(pid)) => ComfyState::Suspended { pid },
                (Pulse::Alive | Pulse::Suspended, pid) => ComfyState::Ready {
                    pid,
                    generation: endpoint.generation,
                },
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

/// Fails with the next step when what answers at `COMFYUI_URL` is no ComfyUI, or nothing answers there.
async fn look_for_comfyui(client: &ComfyClient) -> Result<(), JobError> {
    let mut url = client.base().clone();
    // A name and a password in it are nobody's business.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let message = match client.system_stats().await {
        Ok(stats) if stats.get("system").is_some() => return Ok(()),
        Ok(_) => format!("what answers at {url} is no ComfyUI: its /system_stats is another"),
        Err(error @ ClientError::Unreachable { .. }) => {
            format!("no ComfyUI answers at {url}: {}", JobError::from(error).message)
        }
        Err(error) => format!("what answers at {url} is no ComfyUI: {error}"),
    };
    Err(JobError::new(ErrorKind::ComfyUnavailable, message)
        .hint("Let COMFYUI_URL name a running ComfyUI, such as http://127.0.0.1:8000."))
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
