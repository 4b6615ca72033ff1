//! `/history`.

use std::sync::Arc;

use axum::extract::{Query, Request, State as Shared};
use axum::http::{Extensions, StatusCode};
use axum::response::Response;
use futures_util::StreamExt as _;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{MOST_KEPT, Told, client_of, fixed, items, owner, read, streamed};
use crate::dialect::answer::Answer;
use crate::dialect::comfyui::{self, Page};
use crate::error::JobError;
use crate::http::auth::Caller;
use crate::http::routes::{Id, Parameters};
use crate::http::state::State;
use crate::job::{Dialect, JobId, JobView};
use crate::queue::store::StoredJob;

/// The prompts that have ended and that this caller may see, the one that ended first being the first.
pub(super) async fn ended(state: &State, caller: &Caller) -> Result<Vec<StoredJob>, JobError> {
    let mut jobs = state.queue.store().ended(Dialect::Comfyui, MOST_KEPT).await?;
    jobs.retain(|job| {
        let is_seen = owner::seen(&job.policy, caller).is_some_and(|owner| !owner.hidden);
        is_seen && comfyui::has_entry(job.state, job.execution.unwrap_or_default())
    });
    jobs.reverse();
    Ok(jobs)
}

/// The prompt of this id, if it has ended, is remembered, and may be seen by this caller.
pub(super) async fn ended_one(state: &State, id: &JobId, caller: &Caller) -> Option<JobView> {
    let view = state.queue.view(id.as_str()).await.ok()?;
    let is_seen = owner::seen(&view.policy, caller).is_some_and(|owner| !owner.hidden);
    (is_seen && comfyui::has_entry(view.state, view.execution)).then_some(view)
}

/// What ComfyUI's history has of the job.
pub(super) async fn entry(state: &State, view: &JobView) -> Box<RawValue> {
    let request = match &view.entry {
        Some(_) => None,
        None => state.queue.request(&view.id).await.ok().flatten(),
    };
    comfyui::entry(view, request, |graph| state.executor.output_nodes(graph))
}

/// `GET /history`.
pub(super) async fn list(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Parameters,
    extensions: Extensions,
) -> Told<Response> {
    let page = Page::parse(&parameters)?;
    let jobs = page.of(ended(&state, &Caller::of(&extensions)).await?);
    let ids = jobs.into_iter().map(|job| job.id).collect();
    let entries = items(state, ids, |state: Arc<State>, id: JobId| async move {
        let view = state.queue.view(id.as_str()).await.ok()?;
        // Its owner may have it run again.
        if !view.state.is_final() {
            return None;
        }
        let entry = entry(&state, &view).await;
        Some(format!("{}:{}", Value::from(id.as_str()), entry.get()))
    });
    Ok(streamed(fixed("{").chain(entries).chain(fixed("}"))))
}

/// `GET /history/{prompt_id}`.
pub(super) async fn one(Shared(state): Shared<Arc<State>>, Id(id): Id, extensions: Extensions) -> Answer {
    let caller = Caller::of(&extensions);
    let view = match JobId::parse(&id) {
        Some(id) => ended_one(&state, &id, &caller).await,
        None => None,
    };
    match view {
        Some(view) => {
            let entry = entry(&state, &view).await;
            Answer::json(200, &std::collections::BTreeMap::from([(view.id.as_str(), &entry)]))
        }
        None => Answer::json(200, &serde_json::json!({})),
    }
}

/// `POST /history`. The jobs and their files stay for their time: a picture goes with no entry.
pub(super) async fn remove(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Parameters,
    request: Request,
) -> Told<StatusCode> {
    let (caller, body) = read(&state, request).await?;
    let removal = comfyui::removal(&body)?;
    let client = client_of(removal.client_id, &parameters);
    let jobs = ended(&state, &caller).await?.into_iter();
    let meant = jobs.filter(|job| {
        let is_meant = (removal.clear && owner::is_own(&job.policy, &caller)) || removal.delete.contains(&job.id);
        is_meant && owner::is_of(&job.policy, client.as_deref())
    });
    state.queue.hide(meant.map(|job| job.id).collect()).await?;
    Ok(StatusCode::OK)
}
