//! `/history`.

use std::sync::Arc;

use axum::extract::{Query, Request, State as Shared};
use axum::http::{Extensions, StatusCode};
use axum::response::Response;
use futures_util::StreamExt as _;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Told, client_of, fixed, items, owner, read, streamed};
use crate::dialect::answer::Answer;
use crate::dialect::comfyui::{self, Page};
use crate::error::JobError;
use crate::http::auth::Caller;
use crate::http::routes::{Id, Parameters};
use crate::http::state::State;
use crate::job::{JobId, JobView};
use crate::queue::store::{Shown, ShownBy, ShownJob, ShownPart};

/// The prompts that have ended and that this caller may see.
pub(super) fn seen(caller: &Caller) -> Shown {
    Shown {
        key: caller.key.clone(),
        ..Shown::default()
    }
}

/// The prompt of this id, if it has ended, is remembered, and may be seen by this caller.
pub(super) async fn ended_one(state: &State, id: &JobId, caller: &Caller) -> Option<JobView> {
    let view = state.queue.stored_view(id).await.ok()?;
    let is_seen = owner::seen(&view.policy, caller).is_some_and(|owner| !owner.hidden);
    (is_seen && comfyui::has_entry(view.state, view.execution)).then_some(view)
}

/// What ComfyUI's history has of the job.
pub(super) async fn entry(state: &State, view: &JobView) -> Box<RawValue> {
    let request = match &view.entry {
        Some(_) => None,
        None => state.queue.request(&view.id).await.ok().flatten(),
    };
    comfyui::entry(view, request, |graph| state.executor().output_nodes(graph))
}

/// `GET /history`.
pub(super) async fn list(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Parameters,
    extensions: Extensions,
) -> Told<Response> {
    let page = Page::parse(&parameters)?;
    let part = ShownPart {
        by: ShownBy::Ended,
        descending: page.offset.is_none(),
        offset: page.offset.unwrap_or_default(),
        limit: page.max_items,
    };
    let store = state.queue.store();
    let mut jobs = store
        .shown(seen(&Caller::of(&extensions)), part)
        .await
        .map_err(JobError::from)?;
    if part.descending {
        jobs.reverse();
    }
    let entries = items(
        state,
        jobs,
        |state: Arc<State>, ShownJob { id, .. }: ShownJob| async move {
            let view = state.queue.stored_view(&id).await.ok()?;
            // Its owner may have it run again.
            if !view.state.is_final() {
                return None;
            }
            let entry = entry(&state, &view).await;
            Some(format!("{}:{}", Value::from(id.as_str()), entry.get()))
        },
    );
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
            Answer::json(200, &std::collections::BTreeMap::from([(view.id.as_str(), &entry)])).of_job(&view)
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
    let named = Shown {
        client_id: client_of(removal.client_id, &parameters),
        ..seen(&caller)
    };
    let own = removal.clear.then(|| Shown {
        caller: Some(caller.name),
        ..named.clone()
    });
    let these = (!removal.delete.is_empty()).then(|| Shown {
        ids: Some(removal.delete.into_iter().collect()),
        ..named
    });
    for meant in own.into_iter().chain(these) {
        let jobs = state
            .queue
            .store()
            .shown(meant, ShownPart::ALL)
            .await
            .map_err(JobError::from)?;
        state.queue.hide(jobs.into_iter().map(|job| job.id).collect()).await?;
    }
    Ok(StatusCode::OK)
}
