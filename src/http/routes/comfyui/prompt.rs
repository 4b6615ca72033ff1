//! `POST /prompt` and `GET /prompt`.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Request, State as Shared};
use bytes::Bytes;
use tokio::sync::Mutex;

use super::{Told, Unmet, owner};
use crate::dialect::answer::Answer;
use crate::dialect::comfyui::{self, Checked, Numbers, Prompt, Refusal};
use crate::error::{ErrorKind, JobError};
use crate::http::auth::Caller;
use crate::http::state::State;
use crate::job::{JobId, JobRequest, Policy};
use crate::queue::Permit;
use crate::workflow::Graph;

/// What the client says of itself, which goes into `extra_data`.
const USAGE_SOURCE: &str = "comfy-usage-source";
/// How often a graph is checked again without what cannot run: each check names some dozens of nodes.
const MOST_CHECKS: usize = 10;

/// What prompts have in common.
#[derive(Debug, Default)]
pub struct Prompts {
    numbers: Numbers,
    /// Held while a prompt takes the id of one that has ended, so that no other takes it in between.
    replacing: Mutex<()>,
}

/// `POST /prompt`. The content type does not matter.
pub(super) async fn prompt(Shared(state): Shared<Arc<State>>, request: Request) -> Told {
    state.queue.has_room()?;
    let (parts, body) = request.into_parts();
    let received = state.bodies.read(&parts.headers, body).await?;
    let place = state.queue.permit()?;
    let usage_source = parts.headers.get(USAGE_SOURCE).and_then(|value| value.to_str().ok());
    let usage_source = usage_source.map(str::to_owned);
    let shared = Arc::clone(&state);
    let parse = move |body: Bytes| {
        let next = || shared.prompts.numbers.next(SystemTime::now());
        Ok(comfyui::parse(&body, usage_source.as_deref(), next))
    };
    let mut prompt = state.bodies.parsed(received, parse).await??;
    convert(&state, &mut prompt).await?;
    let checked = match prompt.saved {
        None => checked(&state, &mut prompt).await?,
        // In its turn.
        Some(_) => Checked::default(),
    };
    let caller = Caller::of(&parts.extensions);
    let (id, number, warnings) = (prompt.id.clone(), prompt.number, prompt.warnings.clone());
    let (request, policy) = prompt.job(caller.key.clone(), caller.name.clone());
    let id = match id {
        None => state.queue.submit(place, request, policy).await?,
        Some(id) => submit_as(&state, id, place, request, policy, &caller).await?,
    };
    Ok(comfyui::accepted(&id, number, &checked, &warnings))
}

/// `GET /prompt`.
pub(super) async fn remaining(Shared(state): Shared<Arc<State>>) -> Answer {
    let counts = state.queue.counts();
    comfyui::queue_remaining(counts.in_queue + counts.in_progress)
}

/// Makes a graph of a workflow that the page saved. Where ComfyUI is not ready that is left to the job.
async fn convert(state: &State, prompt: &mut Prompt) -> Told<()> {
    let Some(saved) = &prompt.saved else { return Ok(()) };
    match state.executor().convert_now(saved).await {
        Some(Ok(converted)) => prompt.converted(converted),
        Some(Err(error)) => return Err(Refusal::saved(&error).into()),
        // Which nodes are meant is known of the graph alone.
        None if prompt.targets.is_some() => {
            let error = JobError::new(
                ErrorKind::ComfyUnavailable,
                "ComfyUI is not ready, and `partial_execution_targets` of a saved workflow are looked for in its graph",
            );
            return Err(error.hint("Send it again later, or without them.").into());
        }
        None => {}
    }
    Ok(())
}

/// Whether the graph would run on the ComfyUI here, or at an engine elsewhere; [`None`]: that is not known now.
async fn check_now(state: &State, graph: &Graph) -> Option<Result<(), JobError>> {
    if !state.comfy.is_elsewhere() {
        return state.executor().check_now(graph).await;
    }
    let request = JobRequest::of_graph(graph.clone());
    state.queue.refused_elsewhere(&request).await.map(Err)
}

/// Leaves of the graph what can run, and is to. Where ComfyUI is not ready all of it is taken, and checked in its turn.
async fn checked(state: &State, prompt: &mut Prompt) -> Result<Checked, Refusal> {
    let mut checked = Checked::default();
    let mut found = check_now(state, &prompt.graph).await;
    if let Some(targets) = &prompt.targets {
        // Of the classes of one that answers; those of an earlier one may be others.
        let outputs = match &found {
            Some(_) => state.executor().output_nodes(&prompt.graph),
            None => Vec::new(),
        };
        comfyui::narrowed(&mut prompt.graph, targets, &outputs)?;
        if matches!(found, Some(Err(_))) {
            found = check_now(state, &prompt.graph).await;
        }
    }
    for check in 1.. {
        let Some(Err(error)) = found.filter(|found| found.as_ref().is_err_and(is_of_graph)) else {
            break;
        };
        comfyui::without_what_fails(&mut prompt.graph, &error, &mut checked)?;
        if check == MOST_CHECKS {
            return Err(checked.into_refusal());
        }
        found = check_now(state, &prompt.graph).await;
    }
    Ok(checked)
}

fn is_of_graph(error: &JobError) -> bool {
    matches!(error.kind, ErrorKind::InvalidWorkflow | ErrorKind::ModelMissing)
}

/// Takes a job in under the id that its client chose. One that has ended gives way, if it is the caller's own.
async fn submit_as(
    state: &State,
    id: JobId,
    place: Permit,
    request: JobRequest,
    policy: Policy,
    caller: &Caller,
) -> Told<JobId> {
    let _alone = state.prompts.replacing.lock().await;
    match state.queue.view(id.as_str()).await {
        Ok(view) if view.state.is_final() && owner::is_own(&view.policy, caller) => {
            state.queue.remove(id.as_str()).await?;
        }
        Ok(_) => return Err(Refusal::taken().into()),
        // None is known here. Whether another front has one may not be known at the moment: the job waits, and is told in its turn.
        Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::ComfyUnavailable) => {}
        Err(error) => return Err(error.into()),
    }
    let submitted = state.queue.submit_as(id, place, request, policy).await;
    submitted.map_err(|error| match error.kind {
        ErrorKind::Conflict => Unmet::from(Refusal::taken()),
        _ => error.into(),
    })
}
