//! The ComfyUI that jobs run on, whoever starts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use url::Url;

use super::client::{ClientError, ComfyClient};
use super::folders::Folders;
use super::nodes::report::NodesBoard;
use super::process::{ComfyProcess, Connection, ProcessError, Pulse, State};
use super::relay::Relay;
use super::version::{ComfyVersion, KnownVersion};
use crate::display::redacted;
use crate::error::{ErrorKind, JobError};
use crate::telemetry::metrics::{Restart, metrics};
use crate::telemetry::start::StartClock;

mod away;
mod made;

pub use made::Made;

pub use crate::telemetry::metrics::LOCAL;

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

/// How long a health check waits for a ComfyUI that we only attach to.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long such a ComfyUI may be silent and count as busy.
const LONGEST_SILENCE: Duration = Duration::from_mins(1);

/// The ComfyUI that jobs run on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Comfy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    is_one_of_many: bool,
    mark: Option<String>,
    link: Link,
    folders: Option<Folders>,
    told: Told,
    /// Whether it has taken prompts before, in any of its starts.
    had_worked: AtomicBool,
    /// When a job last had ComfyUI started after the supervisor gave up.
    revived: tokio::sync::Mutex<Option<Instant>>,
}

/// What is known and told of the ComfyUIs of a worker together. Clones are the same.
#[derive(Debug, Clone, Default)]
struct Told {
    version: KnownVersion,
    nodes: NodesBoard,
    relay: Relay,
    clock: StartClock,
    warnings: Warnings,
    made: Made,
}

/// What every result warns of, as far as that is known once ComfyUI is prepared. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// From now on results warn of this too.
    pub fn add(&self, warning: String) {
        self.0.lock().push(warning);
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

#[derive(Debug)]
enum Link {
    /// There is none: jobs run at engines elsewhere, and their files are kept here.
    Elsewhere,
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

impl Link {
    fn attached(base: &Url) -> Result<Self, JobError> {
        let client = ComfyClient::at(base.as_str().trim_end_matches('/'));
        let client = client.map_err(|error| JobError::internal(format!("no HTTP client can be made: {error}")))?;
        Ok(Self::Attached {
            connection: Connection::attached(client),
            looked: AtomicBool::new(false),
            away: watch::Sender::default(),
            seen: Seen::default(),
        })
    }
}

/// What we know of an attached ComfyUI.
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
        let mut silent_since = self.silent_since.lock();
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
    /// There is none here: this worker is a front, and its engines are elsewhere.
    Elsewhere,
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
        Self::supervised_as(boot, folders, KnownVersion::default())
    }

    /// The same; who starts it puts down in `version` what it is.
    pub fn supervised_as(boot: watch::Receiver<Boot>, folders: Folders, version: KnownVersion) -> Self {
        let told = Told {
            version,
            ..Told::default()
        };
        Self::new(None, Link::Supervised(boot), Some(folders), told)
    }

    /// An attached ComfyUI.
    pub fn attached(base: &Url) -> Result<Self, JobError> {
        Ok(Self::new(None, Link::attached(base)?, None, Told::default()))
    }

    /// None at all, in a worker whose engines are elsewhere; their files are kept in these folders.
    pub fn elsewhere(folders: Folders) -> Self {
        Self::new(None, Link::Elsewhere, Some(folders), Told::default())
    }

    /// Whether there is none, since the engines are elsewhere.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self.0.link, Link::Elsewhere)
    }

    /// The same one under a name, before anybody has it: there are others beside it.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => Self(Arc::new(Inner {
                name: name.to_owned(),
                is_one_of_many: true,
                ..inner
            })),
            Err(shared) => Self(shared),
        }
    }

    /// Another ComfyUI of ours, of the same installation: its clients are the same, and so is what is told of the start.
    #[must_use]
    pub fn beside(&self, name: &str, boot: watch::Receiver<Boot>, folders: Folders) -> Self {
        Self::new(Some(name), Link::Supervised(boot), Some(folders), self.0.told.clone())
    }

    /// Another attached one, the so-and-so-many-th (from 1 on) beside this one.
    pub fn attached_beside(&self, (name, number): (&str, usize), base: &Url) -> Result<Self, JobError> {
        let told = Told {
            // Each may have other nodes.
            nodes: NodesBoard::default(),
            ..self.0.told.clone()
        };
        let mut beside = Self::new(Some(name), Link::attached(base)?, None, told);
        if let Some(inner) = Arc::get_mut(&mut beside.0) {
            inner.mark = Some(format!("c{}", number + 1));
        }
        Ok(beside)
    }

    fn new(name: Option<&str>, link: Link, folders: Option<Folders>, told: Told) -> Self {
        Self(Arc::new(Inner {
            name: name.unwrap_or(LOCAL).to_owned(),
            is_one_of_many: name.is_some(),
            mark: None,
            link,
            folders,
            told,
            had_worked: AtomicBool::new(false),
            revived: tokio::sync::Mutex::default(),
        }))
    }

    /// What it is called where there are several.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the process is ours, so that its end is seen.
    pub fn is_supervised(&self) -> bool {
        matches!(self.0.link, Link::Supervised(_))
    }

    /// Which version it is: known as soon as it is found or installed, and never of one that we only attach to.
    pub fn version(&self) -> ComfyVersion {
        self.0.told.version.get().cloned().unwrap_or_default()
    }

    /// What became of its custom nodes.
    pub fn nodes(&self) -> &NodesBoard {
        &self.0.told.nodes
    }

    /// Where the clients of its own API listen.
    pub fn relay(&self) -> &Relay {
        &self.0.told.relay
    }

    /// How far the start of this worker has come.
    pub fn clock(&self) -> &StartClock {
        &self.0.told.clock
    }

    /// What every result warns of because of how ComfyUI was started.
    pub fn warnings(&self) -> &Warnings {
        &self.0.told.warnings
    }

    /// What the prefixes of output files are to end with, so that another ComfyUI gives no file the same name; the first of
    /// several has none. Where the folders are on this machine, the process sees to it itself.
    pub fn mark(&self) -> Option<&str> {
        self.0.mark.as_deref()
    }

    /// Which ComfyUI made which file, where there are several that are attached.
    pub fn made(&self) -> &Made {
        &self.0.told.made
    }

    /// Its folders, where they are on this machine.
    pub fn folders(&self) -> Option<&Folders> {
        self.0.folders.as_ref()
    }

    /// Waits until ComfyUI takes prompts. Fails when it cannot be started, or is not there; see [`Self::available`].
    pub async fn connection(&self) -> Result<Connection, JobError> {
        let boot = match &self.0.link {
            Link::Elsewhere => return Err(none_here()),
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
        let connection = match process.ready().await {
            Ok(connection) => connection,
            Err(error) => self.revive(&process, error).await?,
        };
        self.0.had_worked.store(true, Ordering::Relaxed);
        Ok(connection)
    }

    /// The ComfyUI that takes prompts at this moment, as far as is known without asking it; [`None`]: it starts, was stopped
    /// from outside, or failed.
    pub fn connection_now(&self) -> Option<Connection> {
        if let Link::Attached { connection, .. } = &self.0.link {
            return Some(connection.clone());
        }
        let state = self.process()?.state().borrow().clone();
        match state {
            State::Ready(connection) => (connection.pulse() == Pulse::Alive).then_some(connection),
            _ => None,
        }
    }

    /// Whether it takes prompts at this moment, as far as is known without asking it.
    pub fn is_ready(&self) -> bool {
        !self.is_away() && self.connection_now().is_some()
    }

    /// What it is called, where there are others beside it.
    pub fn name_among_others(&self) -> Option<&str> {
        self.0.is_one_of_many.then_some(self.0.name.as_str())
    }

    /// Has a ComfyUI started once more that the supervisor gave up, if it had worked before: then a job was at fault,
    /// most likely, and not the installation.
    async fn revive(&self, process: &ComfyProcess, error: ProcessError) -> Result<Connection, ProcessError> {
        let had_worked = self.0.had_worked.load(Ordering::Relaxed);
        let mut revived = self.0.revived.lock().await;
        // Another job may have had it started in the meantime.
        if matches!(*process.state().borrow(), State::Failed(_)) {
            if !had_worked || revived.is_some_and(|last| last.elapsed() < REVIVAL_EVERY) {
                return Err(error);
            }
            *revived = Some(Instant::now());
            metrics().restarted(Restart::Revived);
            process.restart("a job came, and it had worked before").await;
        }
        drop(revived);
        process.ready().await
    }

    /// Where ComfyUI stands at this moment.
    pub async fn state(&self) -> ComfyState {
        let boot = match &self.0.link {
            Link::Elsewhere => return ComfyState::Elsewhere,
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
            State::Starting | State::BackingOff(_) => ComfyState::Starting,
            State::Ready(connection) => match (connection.pulse(), connection.pid()) {
                // The supervisor is about to see that, and starts the next one.
                (Pulse::Gone, _) => ComfyState::Starting,
                (Pulse::Suspended, Some(pid)) => ComfyState::Suspended { pid },
                (Pulse::Alive | Pulse::Suspended, pid) => ComfyState::Ready {
                    pid,
                    generation: connection.generation(),
                },
            },
            State::Stopping | State::Stopped => ComfyState::Stopping,
            State::Failed(error) => ComfyState::Failed {
                reason: JobError::from(error).full_text(),
            },
        }
    }

    /// Ends the process of this connection, if it is ours and still runs, and starts the next one.
    pub async fn replace(&self, connection: &Connection, reason: &str) {
        if let Some(process) = self.process() {
            process.replace(connection, reason).await;
        }
    }

    /// Ends the process, if it is ours and was started.
    pub async fn stop(&self) {
        if let Some(process) = self.process() {
            process.stop().await;
        }
    }

    /// The process of ours once it is watched; [`None`] where there is none to come.
    pub async fn process_begun(&self) -> Option<ComfyProcess> {
        match &self.0.link {
            Link::Elsewhere | Link::Attached { .. } => None,
            Link::Supervised(boot) => started(boot.clone()).await.ok(),
        }
    }

    fn process(&self) -> Option<ComfyProcess> {
        let Link::Supervised(boot) = &self.0.link else {
            return None;
        };
        let boot = boot.borrow();
        if let Boot::Started(process) = &*boot {
            Some(process.clone())
        } else {
            None
        }
    }
}

/// What is asked of ComfyUI cannot be had at a front.
fn none_here() -> JobError {
    JobError::new(
        ErrorKind::ComfyUnavailable,
        "This worker is a front: it has no ComfyUI of its own, and its jobs run at engines elsewhere",
    )
    .hint("/health lists them. What ComfyUI tells of its nodes can be asked at an engine's own ComfyUI.")
}

/// Fails with the next step when what answers at `COMFYUI_URL` is no ComfyUI, or nothing answers there.
async fn look_for_comfyui(client: &ComfyClient) -> Result<(), JobError> {
    let url = redacted(client.base());
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
