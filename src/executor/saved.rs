//! Stage: a workflow that ComfyUI's page saved becomes the graph that the page would send of it, by what ComfyUI says of its
//! classes. From then on it is a graph like any other.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use parking_lot::RwLock;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::Executor;
use super::check::{CHECK_TIMEOUT, FETCHES_AT_ONCE, FINDERS_PATIENCE, FINDERS_PATIENCE_AT_ONCE, MANY};
use super::control::ProgressSink;
use super::inputs::Uploads;
use super::losses::Preparations;
use super::parameters::random_seed;
use crate::comfy::{ComfyState, Connection};
use crate::disk::blocking;
use crate::error::{ErrorKind, FaultKind, JobError, Problem};
use crate::job::progress::Stage;
use crate::job::{JobId, SavedRequest};
use crate::workflow::convert::{Converted, Options};
use crate::workflow::{Graph, Node};

/// What a result says of a job that came so.
const NOTE: &str =
    "the workflow is one that ComfyUI's page saved; what ran is the graph that the page would send of it";

/// `/object_info` of the classes that saved workflows used so far, whole and as it came: the order of the fields counts.
#[derive(Debug, Default)]
pub(super) struct Descriptions(RwLock<Described>);

#[derive(Debug, Default)]
struct Described {
    /// Which start of ComfyUI they are from.
    generation: u64,
    /// Shared with the conversions under way, which do not keep others from learning.
    classes: Arc<HashMap<String, Value>>,
}

impl Descriptions {
    /// Has classes described: all of them, or those that are not known yet. Gives whether some were known before.
    async fn learn(&self, connection: &Connection, classes: BTreeSet<&str>, all: bool) -> Result<bool, JobError> {
        let count = classes.len();
        let mut wanted: Vec<String> = {
            let mut described = self.0.write();
            if described.generation != connection.generation() {
                *described = Described {
                    generation: connection.generation(),
                    ..Described::default()
                };
            }
            let is_wanted = |class: &&str| all || !described.classes.contains_key(*class);
            classes.into_iter().filter(is_wanted).map(str::to_owned).collect()
        };
        let were_known = wanted.len() < count;
        if wanted.len() > MANY {
            let names = connection.client.class_names().await?;
            let names: HashSet<&str> = names.iter().map(String::as_str).collect();
            wanted.retain(|class| names.contains(class.as_str()));
        }
        let fetch = |class: String| {
            let client = connection.client.clone();
            async move { client.object_info(&class).await.map(|info| (class, info)) }
        };
        let mut fetches = futures_util::stream::iter(wanted)
            .map(fetch)
            .buffer_unordered(FETCHES_AT_ONCE);
        while let Some(fetched) = fetches.next().await {
            let (class, info) = fetched?;
            let mut described = self.0.write();
            let classes = Arc::make_mut(&mut described.classes);
            match info {
                Some(info) => drop(classes.insert(class, info)),
                // Its pack may have been taken away under a ComfyUI that somebody else restarts.
                None => drop(classes.remove(&class)),
            }
        }
        Ok(were_known)
    }

    /// Converts by what is known.
    fn convert(&self, saved: &SavedRequest, seed: u64) -> Result<Converted, JobError> {
        let options = Options {
            seed: saved.seed.unwrap_or(seed),
            inputs: &saved.inputs,
            now: OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc()),
        };
        let classes = Arc::clone(&self.0.read().classes);
        saved.workflow.convert(&classes, &options)
    }

    /// Whether a class is known.
    fn knows(&self, class: &str) -> bool {
        self.0.read().classes.contains_key(class)
    }
}

impl Executor {
    /// The graph that the page would send of a saved workflow, by the ComfyUI that is ready now.
    pub async fn convert(&self, saved: SavedRequest) -> Result<Converted, JobError> {
        let connection = match self.comfy.state().await {
            ComfyState::Ready { .. } | ComfyState::Elsewhere => self.comfy.connection().await?,
            ComfyState::Failed { reason } => return Err(unavailable(format!("ComfyUI cannot be started: {reason}"))),
            ComfyState::Stopping => return Err(unavailable("The worker stops")),
            ComfyState::Suspended { .. } => return Err(unavailable("ComfyUI was stopped from outside")),
            ComfyState::Starting => return Err(unavailable("ComfyUI is being installed or started")),
        };
        let seed = random_seed()?;
        self.converted(&connection, &Arc::new(saved), seed, FINDERS_PATIENCE_AT_ONCE)
            .await
    }

    /// [`Self::convert`] before a job is taken in; [`None`]: no ComfyUI is ready, or it does not tell soon enough.
    pub async fn convert_now(&self, saved: &SavedRequest) -> Option<Result<Converted, JobError>> {
        let converted = tokio::time::timeout(CHECK_TIMEOUT, self.convert(saved.clone()))
            .await
            .ok()?;
        match converted {
            Err(error) if error.kind == ErrorKind::ComfyUnavailable => None,
            converted => Some(converted),
        }
    }

    /// The graph of a job that is run, once ComfyUI is there.
    pub(super) async fn graph_of_saved(
        &self,
        saved: SavedRequest,
        id: &JobId,
        sink: &mut ProgressSink<'_>,
    ) -> Result<Converted, JobError> {
        let saved = Arc::new(saved);
        let mut preparations = Preparations::default();
        loop {
            let connection = self.comfy.available(sink.owner.patience).await?;
            sink.stage(Stage::Preparing);
            // The same at each attempt.
            let seed = id.seed();
            match self.converted(&connection, &saved, seed, FINDERS_PATIENCE).await {
                Err(error) if preparations.is_lost(self, &connection, &error).await => {}
                converted => {
                    let mut converted = converted?;
                    converted.warnings.insert(0, NOTE.to_owned());
                    return Ok(converted);
                }
            }
        }
    }

    async fn converted(
        &self,
        connection: &Connection,
        saved: &Arc<SavedRequest>,
        seed: u64,
        patience: Duration,
    ) -> Result<Converted, JobError> {
        let mut all = false;
        loop {
            let were_known = self
                .descriptions
                .learn(connection, saved.workflow.classes(), all)
                .await?;
            let (descriptions, shared) = (Arc::clone(&self.descriptions), Arc::clone(saved));
            match blocking(move || descriptions.convert(&shared, seed)).await {
                // Files may have come since the classes were described. What could run must not be refused for that.
                Err(error) if were_known && error.kind == ErrorKind::InvalidWorkflow => all = true,
                Err(error) => return Err(self.advised(connection, error, patience).await),
                converted => return converted,
            }
        }
    }

    /// Says of classes that ComfyUI lacks what the check of a graph says of them: which pack of custom nodes brings them.
    async fn advised(&self, connection: &Connection, mut error: JobError, patience: Duration) -> JobError {
        let mut graph = Graph::default();
        for problem in &error.problems {
            if let (Some(id), Some(class)) = (&problem.node_id, &problem.class_type)
                && !self.descriptions.knows(class)
            {
                graph.nodes.insert(id.clone(), Node::new(class.as_str(), Map::new()));
            }
        }
        if graph.nodes.is_empty() {
            return error;
        }
        let judges = (self.models.catalog(), &self.finder, patience);
        let checked = self
            .schemas
            .check(judges, connection, &mut graph, &Uploads::default())
            .await;
        let Err(failure) = checked else { return error };
        for problem in &mut error.problems {
            let is_class = |told: &&Problem| {
                let fault = told.fault.as_deref();
                fault.is_some_and(|fault| fault.kind == FaultKind::MissingNodeType)
            };
            let mut told = failure.error.problems.iter().filter(is_class);
            let told = told.find(|told| told.node_id == problem.node_id);
            if let Some(told) = told {
                problem.message.clone_from(&told.message);
                problem.fault.clone_from(&told.fault);
            }
        }
        error
    }
}

fn unavailable(message: impl Into<String>) -> JobError {
    JobError::new(ErrorKind::ComfyUnavailable, message)
        .hint("Send the request again later; /health says how far it is.")
}

#[cfg(test)]
#[path = "saved_tests.rs"]
mod tests;
