//! The ComfyUIs of a worker: one most often, one for each GPU, or those that somebody else runs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{join_all, select_ok};

use super::Folders;
use super::handle::{Comfy, ComfyState, Warnings};
use super::nodes::report::NodesBoard;
use super::process::Connection;
use super::relay::Relay;
use super::version::ComfyVersion;
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use crate::job::OutputFolder;
use crate::telemetry::start::StartClock;

/// All of them. What they have in common is the first one's. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Comfys {
    first: Comfy,
    rest: Arc<[Comfy]>,
}

impl From<Comfy> for Comfys {
    fn from(first: Comfy) -> Self {
        Self {
            first,
            rest: Arc::default(),
        }
    }
}

/// How one of several stands.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct EngineState {
    /// `gpu0`, or where it is attached.
    pub name: String,
    /// Where it stands.
    #[serde(flatten)]
    pub state: ComfyState,
}

impl Comfys {
    /// These, the first of which has the page and whatever there is once.
    pub fn new(first: Comfy, rest: impl IntoIterator<Item = Comfy>) -> Self {
        let rest = rest.into_iter().collect();
        Self { first, rest }
    }

    /// Each of them.
    pub fn all(&self) -> impl Iterator<Item = &Comfy> {
        std::iter::once(&self.first).chain(self.rest.iter())
    }

    /// The first of them.
    pub fn first(&self) -> &Comfy {
        &self.first
    }

    /// Whether there is more than one.
    pub fn are_several(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The one of this name; the first, where none is given. Fails where there is none of that name any more.
    pub fn named(&self, name: Option<&str>) -> Result<&Comfy, JobError> {
        let Some(name) = name else { return Ok(&self.first) };
        self.all().find(|comfy| comfy.name() == name).ok_or_else(|| {
            let message = format!(
                "The file is at the ComfyUI `{}`, which this worker does not use any more",
                cut(name)
            );
            JobError::new(ErrorKind::NotFound, message).hint("Have COMFYUI_URL or GPUS name it again.")
        })
    }

    /// The one in whose own temp folder this file is, where they are on this machine. Blocks.
    pub fn holder_of_preview(&self, subfolder: &str, filename: &str) -> Option<&Comfy> {
        let holds = |comfy: &&Comfy| {
            let folders = comfy.folders()?;
            let path = folders.path(OutputFolder::Temp, subfolder, filename)?;
            (path.starts_with(&folders.temp) && path.is_file()).then_some(())
        };
        self.all().find(|comfy| holds(comfy).is_some())
    }

    /// How many take prompts at this moment.
    pub fn ready(&self) -> usize {
        self.all().filter(|comfy| comfy.is_ready()).count()
    }

    /// Whether the processes are ours.
    pub fn is_supervised(&self) -> bool {
        self.first.is_supervised()
    }

    /// Whether there is none, since the engines are elsewhere.
    pub fn is_elsewhere(&self) -> bool {
        self.first.is_elsewhere()
    }

    /// Which version they are.
    pub fn version(&self) -> ComfyVersion {
        self.first.version()
    }

    /// What became of their custom nodes.
    pub fn nodes(&self) -> &NodesBoard {
        self.first.nodes()
    }

    /// Where the clients of their own API listen.
    pub fn relay(&self) -> &Relay {
        self.first.relay()
    }

    /// How far the start of this worker has come.
    pub fn clock(&self) -> &StartClock {
        self.first.clock()
    }

    /// What every result warns of because of how they were started.
    pub fn warnings(&self) -> &Warnings {
        self.first.warnings()
    }

    /// Their folders, where they are on this machine.
    pub fn folders(&self) -> Option<&Folders> {
        self.first.folders()
    }

    /// One that takes prompts at this moment, the first of them if it may be; [`None`]: there is none.
    pub fn connection_now(&self) -> Option<Connection> {
        let ready = self.all().find(|comfy| comfy.is_ready());
        ready.unwrap_or(&self.first).connection_now()
    }

    /// Waits until one takes prompts. Fails when none can be started, or is there.
    pub async fn connection(&self) -> Result<Connection, JobError> {
        let any = select_ok(self.all().map(|comfy| comfy.connection().boxed()));
        any.await.map(|(connection, _)| connection)
    }

    /// The same, however long they are away, or for no longer than a `patience`.
    pub async fn available(&self, patience: Option<Duration>) -> Result<Connection, JobError> {
        let any = select_ok(self.all().map(|comfy| comfy.available(patience).boxed()));
        any.await.map(|(connection, _)| connection)
    }

    /// Who may have a file of this name: the one that made it, where that is known, else any of them.
    pub fn makers(&self, folder: &str, subfolder: &str, filename: &str) -> Vec<Comfy> {
        let maker = self.first.made().last(folder, subfolder, filename);
        let is_maker = |comfy: &&Comfy| maker.as_deref().is_none_or(|maker| maker == comfy.name());
        self.all().filter(is_maker).cloned().collect()
    }

    /// Waits until each takes prompts or cannot be started.
    pub async fn settled(&self) {
        join_all(self.all().map(Comfy::connection)).await;
    }

    /// Where they stand together: one that is ready is enough.
    pub async fn state(&self) -> ComfyState {
        together(&self.states().await)
    }

    /// Where each of them stands.
    pub async fn states(&self) -> Vec<EngineState> {
        let states = self.all().map(|comfy| async {
            let name = comfy.name().to_owned();
            let state = comfy.state().await;
            EngineState { name, state }
        });
        join_all(states).await
    }

    /// Ends those that are ours.
    pub async fn stop(&self) {
        join_all(self.all().map(Comfy::stop)).await;
    }
}

/// The state that lets the most be done; of those that are the same the first one's.
pub fn together(engines: &[EngineState]) -> ComfyState {
    let rank = |state: &ComfyState| match state {
        ComfyState::Ready { .. } | ComfyState::Elsewhere => 0,
        ComfyState::Starting => 1,
        ComfyState::Suspended { .. } => 2,
        ComfyState::Stopping => 3,
        ComfyState::Failed { .. } => 4,
    };
    let states = engines.iter().map(|engine| &engine.state);
    states
        .min_by_key(|state| rank(state))
        .cloned()
        .unwrap_or(ComfyState::Starting)
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::comfy::Boot;

    #[test]
    fn one_that_is_ready_is_enough() {
        let ready = ComfyState::Ready {
            pid: Some(1),
            generation: 1,
        };
        let failed = ComfyState::Failed {
            reason: "no".to_owned(),
        };
        let of = |states: &[&ComfyState]| {
            let named = states.iter().map(|&state| EngineState {
                name: String::new(),
                state: state.clone(),
            });
            together(&named.collect::<Vec<_>>())
        };
        assert_eq!(of(&[&failed, &ready, &ComfyState::Starting]), ready);
        assert_eq!(of(&[&failed, &ComfyState::Starting]), ComfyState::Starting);
        assert_eq!(of(&[&failed, &failed]), failed);
    }

    #[tokio::test]
    async fn it_fails_only_where_none_can_be_had() {
        let (first, boot) = watch::channel(Boot::Preparing);
        let comfy = Comfy::supervised(boot, Folders::default()).named("gpu0");
        let (second, boot) = watch::channel(Boot::Preparing);
        let other = comfy.beside("gpu1", boot, Folders::default());
        let comfys = Comfys::new(comfy, [other]);
        assert_eq!(comfys.ready(), 0);
        let named = |name| comfys.named(name).map(|comfy| comfy.name().to_owned()).ok();
        assert_eq!(named(Some("gpu1")).as_deref(), Some("gpu1"));
        assert_eq!((named(None).as_deref(), named(Some("gpu7"))), (Some("gpu0"), None));
        first.send_replace(Boot::Failed(JobError::internal("the first")));
        let mut any = std::pin::pin!(comfys.connection());
        assert!(futures_util::poll!(&mut any).is_pending());
        assert_eq!(comfys.state().await, ComfyState::Starting);
        second.send_replace(Boot::Failed(JobError::internal("the second")));
        assert!(any.await.is_err());
        let states: Vec<String> = comfys.states().await.into_iter().map(|engine| engine.name).collect();
        assert_eq!(states, ["gpu0", "gpu1"]);
    }
}
