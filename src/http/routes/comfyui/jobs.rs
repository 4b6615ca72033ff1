//! `/api/jobs`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Query, Request, State as Shared};
use axum::http::Extensions;
use serde_json::Value;

use super::{Told, Unmet, history, owner, read};
use crate::dialect::answer::Answer;
use crate::dialect::comfyui::{self, JobOf, JobsAsked, Order, Status};
use crate::error::JobError;
use crate::http::auth::Caller;
use crate::http::routes::{Id, Parameters};
use crate::http::state::State;
use crate::job::{Dialect, JobId, JobView};

/// The most jobs that are looked through for those of one workflow, which each of them has to be read for.
const MOST_SEARCHED: usize = 1_000;

/// A job of the list, before it is read.
struct Listed {
    id: JobId,
    created: SystemTime,
    duration: Duration,
}

/// `GET /api/jobs`.
pub(super) async fn list(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Parameters,
    extensions: Extensions,
) -> Told {
    let asked = JobsAsked::parse(&parameters).map_err(Unmet::Refused)?;
    let mut listed = listed(&state, &asked, &Caller::of(&extensions)).await?;
    match asked.order {
        Order::Created => listed.sort_by_key(|job| job.created),
        Order::Duration => listed.sort_by_key(|job| job.duration),
    }
    if !asked.ascending {
        listed.reverse();
    }
    let mut total = listed.len();
    let mut jobs = Vec::new();
    if let Some(workflow) = &asked.workflow_id {
        let mut all = Vec::new();
        for job in listed.into_iter().take(MOST_SEARCHED) {
            let job = job_of(&state, &job.id, false).await;
            all.extend(job.filter(|job| job["workflow_id"] == workflow.as_str()));
        }
        total = all.len();
        jobs.extend(all.into_iter().skip(asked.offset).take(asked.most()));
    } else {
        for job in listed.into_iter().skip(asked.offset).take(asked.most()) {
            jobs.extend(job_of(&state, &job.id, false).await);
        }
    }
    Ok(comfyui::jobs_answer(&jobs, &asked, total))
}

/// The jobs of these statuses that the caller may see.
async fn listed(state: &State, asked: &JobsAsked, caller: &Caller) -> Result<Vec<Listed>, JobError> {
    let mut listed = Vec::new();
    for view in state.queue.line(Dialect::Comfyui) {
        if owner::seen(&view.policy, caller).is_some() && asked.statuses.contains(&Status::of(view.state)) {
            listed.push(Listed {
                id: view.id,
                created: view.created,
                duration: Duration::ZERO,
            });
        }
    }
    let is_asked_for_ended = [Status::Completed, Status::Failed, Status::Cancelled]
        .iter()
        .any(|status| asked.statuses.contains(status));
    if is_asked_for_ended {
        let ended = history::ended(state, caller).await?.into_iter();
        let wanted = ended.filter(|job| asked.statuses.contains(&Status::of(job.state)));
        listed.extend(wanted.map(|job| Listed {
            id: job.id,
            created: job.created,
            duration: job.execution.unwrap_or_default(),
        }));
    }
    Ok(listed)
}

/// The job as it is told; [`None`]: it is there no more.
async fn job_of(state: &State, id: &JobId, whole: bool) -> Option<Value> {
    let view = state.queue.view(id.as_str()).await.ok()?;
    Some(told(state, &view, whole).await)
}

async fn told(state: &State, view: &JobView, whole: bool) -> Value {
    if view.state.is_final() {
        let entry = history::entry(state, view).await;
        return comfyui::job(view, JobOf::Ended(&entry), whole);
    }
    let request = state.queue.request(&view.id).await.ok().flatten();
    let tuple = comfyui::tuple(view, request, |_| Vec::new());
    comfyui::job(view, JobOf::Live(&tuple), whole)
}

/// `GET /api/jobs/{id}`.
pub(super) async fn one(Shared(state): Shared<Arc<State>>, Id(id): Id, extensions: Extensions) -> Answer {
    let caller = Caller::of(&extensions);
    let Some(view) = seen(&state, &id, &caller).await else {
        return comfyui::no_job();
    };
    if view.state.is_final() && history::ended_one(&state, &view.id, &caller).await.is_none() {
        return comfyui::no_job();
    }
    comfyui::job_answer(&told(&state, &view, true).await)
}

/// `POST /api/jobs/{id}/cancel`.
pub(super) async fn cancel(Shared(state): Shared<Arc<State>>, Id(id): Id, extensions: Extensions) -> Told {
    let caller = Caller::of(&extensions);
    Ok(comfyui::cancelled(cancel_one(&state, &id, &caller).await?))
}

/// `POST /api/jobs/cancel`.
pub(super) async fn cancel_several(Shared(state): Shared<Arc<State>>, request: Request) -> Told {
    let (caller, body) = read(&state, request).await?;
    let mut cancelled = false;
    for id in comfyui::cancelled_jobs(&body).map_err(Unmet::Refused)? {
        cancelled |= cancel_one(&state, id.as_str(), &caller).await?;
    }
    Ok(comfyui::cancelled(cancelled))
}

/// Cancels a job that waits or runs; says whether it did.
async fn cancel_one(state: &State, id: &str, caller: &Caller) -> Result<bool, JobError> {
    let Some(view) = seen(state, id, caller).await.filter(|view| !view.state.is_final()) else {
        return Ok(false);
    };
    // It may begin in between.
    Ok(state.queue.cancel_waiting(&view.id).await? || state.queue.interrupt(&view.id))
}

async fn seen(state: &State, id: &str, caller: &Caller) -> Option<JobView> {
    let view = state.queue.view(id).await.ok()?;
    owner::seen(&view.policy, caller)?;
    Some(view)
}
