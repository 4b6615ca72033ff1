//! `GET /ping` and `GET /health`: what a load balancer and a person ask.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use serde::Serialize;
use utoipa::ToSchema;

use crate::comfy::nodes::report::{NodesReport, PackReport, PackState};
use crate::comfy::{ComfyState, ComfyVersion, EngineState, together};
use crate::dialect::schema::{JSON, Operation, Schema};
use crate::engine::remote::RemoteState;
use crate::http::route::{self, Route};
use crate::http::state::State;
use crate::member::{FleetHealth, Member};
use crate::models::{ModelsHealth, ModelsState};
use crate::queue::Counts;
use crate::telemetry::start::StartHealth;

/// `GET /health`.
pub(in crate::http) const HEALTH: Route = Route::get(
    "/health",
    "Jobs by state, where ComfyUI stands, and which custom nodes it has.",
    Operation::answers::<Health>,
    |_| routing::get(health),
)
.v2();

/// `GET /ping`.
pub(in crate::http) const PING: Route = Route::get(
    route::PING,
    "The health check: 204 while ComfyUI starts, 200 when jobs can run, 503 when ComfyUI cannot be started or was \
     suspended, while the disk of `DATA_DIR` is full, and while the worker stops.",
    || {
        Operation::default()
            .reply(200, "Jobs can run.", JSON, Schema::of::<Ready>())
            .empty_reply(204, "ComfyUI starts, models are fetched, or the worker warms up.")
            .reply(503, "No job can run; the body has the reason.", JSON, Schema::object())
    },
    |_| routing::get(ping),
);

/// Jobs can run.
#[derive(Serialize, ToSchema)]
struct Ready {
    /// Always `ready`.
    status: &'static str,
}

/// As RunPod's load balancer wants it: 204 while the worker starts and its models are fetched, 200 when it takes jobs, anything else takes it
/// out (docs.runpod.io, serverless, load balancing, health checks).
pub async fn ping(Shared(state): Shared<Arc<State>>) -> Response {
    // The store looks for room by itself, so this ends by itself.
    if let Some(error) = state.queue.trouble() {
        let body = serde_json::json!({"state": "disk_full", "error": error.full_text()});
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    }
    let comfyui = if state.queue.is_stopping() {
        ComfyState::Stopping
    } else {
        state.comfy.state().await
    };
    match comfyui {
        ComfyState::Ready { .. } | ComfyState::Elsewhere => match state.models.health() {
            // A load balancer sends requests where they are answered soon.
            _ if state.warming.is_on() => StatusCode::NO_CONTENT.into_response(),
            models if models.state == ModelsState::Downloading => StatusCode::NO_CONTENT.into_response(),
            models if models.state == ModelsState::Failed => {
                (StatusCode::SERVICE_UNAVAILABLE, Json(models)).into_response()
            }
            _ => Json(Ready { status: "ready" }).into_response(),
        },
        ComfyState::Starting => StatusCode::NO_CONTENT.into_response(),
        unfit @ (ComfyState::Suspended { .. } | ComfyState::Stopping | ComfyState::Failed { .. }) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(unfit)).into_response()
        }
    }
}

/// What `/health` answers.
#[derive(Serialize, ToSchema)]
struct Health {
    jobs: Counts,
    workers: Workers,
    comfyui: ComfyHealth,
    /// Each ComfyUI, where there are several, or each engine elsewhere; absent where there is one ComfyUI.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    engines: Vec<EngineHealth>,
    /// How it stands with the fleet that gives it jobs; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<FleetHealth>,
    models: ModelsHealth,
    start: StartHealth,
    /// The packs of custom nodes that ComfyUI found at its last start; absent when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    custom_nodes: Vec<PackHealth>,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<MemoryHealth>,
    /// Why no jobs can be taken in at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Which ComfyUI it is, and where it stands.
#[derive(Serialize, ToSchema)]
struct ComfyHealth {
    #[serde(flatten)]
    state: ComfyState,
    #[serde(flatten)]
    version: ComfyVersion,
}

/// What runs jobs.
#[derive(Serialize, ToSchema)]
struct EngineHealth {
    #[serde(flatten)]
    engine: EngineFacts,
    /// The jobs that it has: those that run, and those that it prepares.
    jobs: usize,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum EngineFacts {
    /// One ComfyUI of several.
    Comfyui(EngineState),
    /// An engine elsewhere.
    Elsewhere(RemoteState),
}

/// What the container that the worker runs in allows, where that is less than the machine has.
#[derive(Serialize, ToSchema)]
struct MemoryHealth {
    /// The most that the worker and its ComfyUI may use together, in bytes.
    limit: u64,
}

/// What became of one pack of custom nodes. One that failed makes the worker not unhealthy: graphs without it run.
#[derive(Serialize, ToSchema)]
struct PackHealth {
    /// The name of its folder, or of its file.
    name: String,
    /// Its version or commit, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// What became of it.
    state: PackState,
    /// How long its import took.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    /// How many node classes it brought; absent until they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<usize>,
    /// What was wrong, on one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl PackHealth {
    fn of(report: &NodesReport) -> Vec<Self> {
        let pack = |pack: &PackReport| Self {
            name: pack.name.clone(),
            version: pack.version.clone(),
            state: pack.state,
            seconds: pack.seconds,
            classes: report.counted.then_some(pack.classes.len()),
            error: pack.error.clone(),
        };
        report.packs.iter().map(pack).collect()
    }
}

/// RunPod's counts of workers; each ComfyUI counts as one.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct Workers {
    idle: usize,
    initializing: usize,
    ready: usize,
    running: usize,
    throttled: usize,
    unhealthy: usize,
}

impl Workers {
    /// By where each ComfyUI and the models stand, and how many jobs run. `trouble`: no jobs can be taken in.
    fn of(engines: &[EngineState], models: ModelsState, running: u64, trouble: bool) -> Self {
        let count = |is: fn(&ComfyState) -> bool| engines.iter().filter(|engine| is(&engine.state)).count();
        let is_down = |state: &ComfyState| matches!(state, ComfyState::Suspended { .. } | ComfyState::Failed { .. });
        let ready = count(|state| matches!(state, ComfyState::Ready { .. }));
        let ready = if models == ModelsState::Ready && !trouble {
            ready
        } else {
            0
        };
        let running = usize::try_from(running).unwrap_or(usize::MAX).min(engines.len());
        let initializing = count(|state| *state == ComfyState::Starting);
        Self {
            idle: ready.saturating_sub(running),
            initializing: initializing.max(usize::from(models == ModelsState::Downloading)),
            ready,
            running,
            throttled: 0,
            unhealthy: count(is_down).max(usize::from(trouble || models == ModelsState::Failed)),
        }
    }
}

impl Workers {
    /// By how the engines elsewhere stand: each counts as one, and one that rests is throttled.
    fn of_remotes(remotes: &[RemoteState], busy: usize, trouble: bool) -> Self {
        let resting = remotes.iter().filter(|remote| remote.rests_s.is_some()).count();
        let ready = if trouble { 0 } else { remotes.len() - resting };
        let running = busy.min(remotes.len());
        Self {
            idle: ready.saturating_sub(running),
            initializing: 0,
            ready,
            running,
            throttled: resting,
            unhealthy: usize::from(trouble),
        }
    }
}

/// Jobs and workers as RunPod's `/health` counts them, and where ComfyUI and the models stand.
async fn health(Shared(state): Shared<Arc<State>>) -> Response {
    let jobs = state.queue.counts();
    let states = state.comfy.states().await;
    let models = state.models.health();
    let trouble = state.queue.trouble();
    let comfyui = together(&states);
    let remotes = state.queue.remote_states();
    let workers = if remotes.is_empty() {
        Workers::of(&states, models.state, jobs.in_progress, trouble.is_some())
    } else {
        let busy = remotes.iter().filter(|remote| state.queue.jobs_at(&remote.name) > 0);
        Workers::of_remotes(&remotes, busy.count(), trouble.is_some())
    };
    let engines: Vec<_> = if remotes.is_empty() {
        let several = states.into_iter().filter(|_| state.comfy.are_several());
        several
            .map(|engine| (engine.name.clone(), EngineFacts::Comfyui(engine)))
            .collect()
    } else {
        remotes
            .into_iter()
            .map(|engine| (engine.name.clone(), EngineFacts::Elsewhere(engine)))
            .collect()
    };
    let engines = engines.into_iter().map(|(name, engine)| EngineHealth {
        jobs: state.queue.jobs_at(&name),
        engine,
    });
    Json(Health {
        jobs,
        workers,
        comfyui: ComfyHealth {
            state: comfyui,
            version: state.comfy.version(),
        },
        engines: engines.collect(),
        fleet: state.member.as_ref().map(Member::health),
        models,
        start: state.comfy.clock().health(),
        custom_nodes: state
            .comfy
            .nodes()
            .report()
            .map(|report| PackHealth::of(&report))
            .unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION"),
        memory: state
            .memory_limit
            .as_ref()
            .map(|limit| MemoryHealth { limit: limit.bytes }),
        error: trouble.map(|error| error.full_text()),
        warnings: [state.warnings.clone(), state.comfy.warnings().all()].concat(),
    })
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engines(states: &[ComfyState]) -> Vec<EngineState> {
        let named = |state: &ComfyState| EngineState {
            name: "gpu".to_owned(),
            state: state.clone(),
        };
        states.iter().map(named).collect()
    }

    #[test]
    fn each_comfyui_counts_as_a_worker() {
        let ready = ComfyState::Ready {
            pid: None,
            generation: 1,
        };
        let failed = ComfyState::Failed { reason: String::new() };
        let counts = |states: &[ComfyState], models, running, trouble| {
            let workers = Workers::of(&engines(states), models, running, trouble);
            [
                workers.idle,
                workers.initializing,
                workers.ready,
                workers.running,
                workers.unhealthy,
            ]
        };
        let three = [ready.clone(), ComfyState::Starting, failed];
        assert_eq!(counts(&three, ModelsState::Ready, 1, false), [0, 1, 1, 1, 1]);
        let two = [ready.clone(), ready.clone()];
        assert_eq!(counts(&two, ModelsState::Ready, 1, false), [1, 0, 2, 1, 0]);
        let one = [ready];
        assert_eq!(counts(&one, ModelsState::Ready, 0, false), [1, 0, 1, 0, 0]);
        assert_eq!(counts(&one, ModelsState::Ready, 7, false), [0, 0, 1, 1, 0]);
        assert_eq!(counts(&one, ModelsState::Downloading, 0, false), [0, 1, 0, 0, 0]);
        assert_eq!(counts(&one, ModelsState::Failed, 0, false), [0, 0, 0, 0, 1]);
        assert_eq!(counts(&one, ModelsState::Ready, 0, true), [0, 0, 0, 0, 1]);
        assert_eq!(
            counts(&[ComfyState::Starting], ModelsState::Ready, 0, false),
            [0, 1, 0, 0, 0]
        );
    }
}
