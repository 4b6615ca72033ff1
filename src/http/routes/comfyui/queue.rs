//! `/queue`, `/interrupt` and `/free`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, Request, State as Shared};
use axum::http::{Extensions, StatusCode};
use axum::response::Response;
use futures_util::StreamExt as _;
use futures_util::future::join_all;

use super::{Told, client_of, fixed, items, owner, read, streamed};
use crate::comfy::ComfyState;
use crate::dialect::comfyui;
use crate::error::JobError;
use crate::http::auth::Caller;
use crate::http::routes::Parameters;
use crate::http::state::State;
use crate::job::{Dialect, JobState, JobView};

/// How long a prompt may be on its way to ComfyUI that nothing is before. Clients interrupt what they have just sent.
const ABOUT_TO_BEGIN: Duration = Duration::from_secs(1);

/// `GET /queue`.
pub(super) async fn show(Shared(state): Shared<Arc<State>>, extensions: Extensions) -> Response {
    let caller = Caller::of(&extensions);
    let line = state.queue.line(Dialect::Comfyui).into_iter();
    let seen = line.filter(|view| owner::seen(&view.policy, &caller).is_some());
    let (running, waiting): (Vec<_>, Vec<_>) = seen.partition(|view| view.state == JobState::Running);
    streamed(
        fixed(r#"{"queue_running":["#)
            .chain(items(Arc::clone(&state), running, tuple))
            .chain(fixed(r#"],"queue_pending":["#))
            .chain(items(state, waiting, tuple))
            .chain(fixed("]}")),
    )
}

/// [`None`]: it has ended meanwhile, and its request is kept no more.
async fn tuple(state: Arc<State>, view: JobView) -> Option<String> {
    let request = state.queue.request(&view.id).await.ok().flatten()?;
    let tuple = comfyui::tuple(&view, Some(request), |graph| state.executor().output_nodes(graph));
    Some(tuple.to_string())
}

/// `POST /queue`: prompts that wait, and no others.
pub(super) async fn remove(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Parameters,
    request: Request,
) -> Told<StatusCode> {
    let (caller, body) = read(&state, request).await?;
    let removal = comfyui::removal(&body)?;
    let client = client_of(removal.client_id, &parameters);
    let line = state.queue.line(Dialect::Comfyui);
    let meant = line.iter().filter(|view| {
        let is_meant = (removal.clear && owner::is_own(&view.policy, &caller))
            || (removal.delete.contains(&view.id) && owner::seen(&view.policy, &caller).is_some());
        view.state == JobState::Queued && is_meant && owner::is_of(&view.policy, client.as_deref())
    });
    // All at once, so that the store takes them together.
    let cancelled = join_all(meant.map(|view| state.queue.cancel_waiting(&view.id))).await;
    cancelled.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(StatusCode::OK)
}

/// `POST /interrupt`: prompts that run, and the one that ComfyUI would have begun with by now; no others.
pub(super) async fn interrupt(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Parameters,
    request: Request,
) -> Told<StatusCode> {
    let (caller, body) = read(&state, request).await?;
    let interrupt = comfyui::interrupt(&body)?;
    let client = client_of(interrupt.client_id, &parameters);
    let is_meant = |view: &&JobView| {
        let is_named = match &interrupt.prompt {
            None => owner::is_own(&view.policy, &caller),
            Some(id) => id.as_ref() == Some(&view.id) && owner::seen(&view.policy, &caller).is_some(),
        };
        is_named && owner::is_of(&view.policy, client.as_deref())
    };
    let line = state.queue.line(Dialect::Comfyui);
    let mut ended = false;
    for view in line.iter().filter(is_meant) {
        if view.state == JobState::Running {
            ended |= state.queue.interrupt(&view.id);
        }
    }
    let next = line.iter().filter(is_meant).find(|view| view.position == Some(1));
    if let Some(next) = next.filter(|_| !ended && state.queue.counts().in_progress == 0) {
        begun(&state, next).await;
        state.queue.interrupt(&next.id);
    }
    Ok(StatusCode::OK)
}

/// Waits a moment for a prompt to begin that nothing is before.
async fn begun(state: &State, view: &JobView) {
    if let Ok(mut job) = state.queue.watch(view.id.as_str()).await {
        let begins = job.wait_for(|view| view.state != JobState::Queued);
        let _ = tokio::time::timeout(ABOUT_TO_BEGIN, begins).await;
    }
}

/// `POST /free`: ComfyUI does it between two prompts, so that none of them notices.
pub(super) async fn free(Shared(state): Shared<Arc<State>>, request: Request) -> Told<StatusCode> {
    let (_, body) = read(&state, request).await?;
    let freeing = comfyui::freeing(&body)?;
    // One that is not there keeps nothing.
    let freed = state.comfy.all().map(async |comfy| {
        if matches!(comfy.state().await, ComfyState::Ready { .. }) {
            let client = comfy.connection().await?.client;
            client.free(freeing.unload_models, freeing.free_memory).await?;
        }
        Ok::<_, JobError>(())
    });
    // Each is asked, whatever another one says.
    for freed in join_all(freed).await {
        freed?;
    }
    Ok(StatusCode::OK)
}
