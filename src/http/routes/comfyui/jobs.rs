//! `/api/jobs`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, Request, State as Shared};
use axum::http::Extensions;
use serde_json::Value;

use super::{Told, Unmet, client_of, history, owner, read};
use crate::dialect::answer::Answer;
use crate::dialect::comfyui::{self, JobOf, JobsAsked, Order, Status};
use crate::error::JobError;
use crate::http::auth::Caller;
use crate::http::routes::{Id, Parameters};
use crate::http::state::State;
use crate::job::{Dialect, JobId, JobView};
use crate::queue::store::{Shown, ShownBy, ShownJob, ShownPart};

/// `GET /api/jobs`.
pub(super) async fn list(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Parameters,
    extensions: Extensions,
) -> Told {
    let asked = JobsAsked::parse(&parameters).map_err(Unmet::Refused)?;
    let (listed, total) = listed(&state, &asked, &Caller::of(&extensions)).await?;
    let mut jobs = Vec::new();
    for job in listed {
        jobs.extend(job_of(&state, &job.id, false).await);
    }
    Ok(comfyui::jobs_answer(&jobs, &asked, total))
}

/// The jobs that are asked for, as far as the caller may see them, and how many there would be without a limit.
async fn listed(state: &State, asked: &JobsAsked, caller: &Caller) -> Result<(Vec<ShownJob>, usize), JobError> {
    // Before those that have ended: one that ends meanwhile is in one of the two.
    let mut line = state.queue.line(Dialect::Comfyui);
    let without = line.iter().map(|view| view.id.clone()).collect();
    line.retain(|view| {
        let owner = owner::seen(&view.policy, caller);
        let workflow = asked.workflow_id.as_ref();
        owner.is_some_and(|owner| workflow.is_none() || owner.workflow_id.as_ref() == workflow)
            && asked.statuses.contains(&Status::of(view.state))
    });
    let waiting_or_running = line.into_iter().map(|view| ShownJob {
        id: view.id,
        created: view.created,
        execution: Duration::ZERO,
    });
    let mut jobs: Vec<ShownJob> = waiting_or_running.collect();
    let states: Vec<_> = asked
        .statuses
        .iter()
        .flat_map(|status| status.ended())
        .copied()
        .collect();
    let (mut total, mut passed) = (jobs.len(), 0);
    if !states.is_empty() {
        let ended = Shown {
            workflow_id: asked.workflow_id.clone(),
            states: Some(states),
            without,
            ..history::seen(caller)
        };
        // At most so many of those that are passed over are live.
        passed = asked.offset.saturating_sub(jobs.len());
        let part = ShownPart {
            by: match asked.order {
                Order::Created => ShownBy::Created,
                Order::Duration => ShownBy::Execution,
            },
            descending: !asked.ascending,
            offset: passed,
            limit: asked.most().saturating_add(jobs.len()),
        };
        total += state.queue.store().count_shown(ended.clone()).await?;
        jobs.extend(state.queue.store().shown(ended, part).await?);
    }
    Ok((part_of(jobs, asked, passed), total))
}

/// The part that is asked for of these, before which `passed` more stand.
fn part_of(mut jobs: Vec<ShownJob>, asked: &JobsAsked, passed: usize) -> Vec<ShownJob> {
    jobs.sort_by(|one, other| {
        let by = match asked.order {
            Order::Created => one.created.cmp(&other.created),
            Order::Duration => one.execution.cmp(&other.execution),
        };
        by.then_with(|| one.id.cmp(&other.id))
    });
    if !asked.ascending {
        jobs.reverse();
    }
    jobs.into_iter()
        .skip(asked.offset - passed)
        .take(asked.most())
        .collect()
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
    comfyui::job_answer(&told(&state, &view, true).await).of_job(&view)
}

/// `POST /api/jobs/{id}/cancel`.
pub(super) async fn cancel(
    Shared(state): Shared<Arc<State>>,
    Id(id): Id,
    Query(parameters): Parameters,
    request: Request,
) -> Told {
    let (caller, body) = read(&state, request).await?;
    let client = client_of(comfyui::named_client(&body)?, &parameters);
    let cancelled = cancel_one(&state, &id, &caller, client.as_deref()).await?;
    Ok(comfyui::cancelled(cancelled))
}

/// `POST /api/jobs/cancel`.
pub(super) async fn cancel_several(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Parameters,
    request: Request,
) -> Told {
    let (caller, body) = read(&state, request).await?;
    let cancellation = comfyui::cancelled_jobs(&body).map_err(Unmet::Refused)?;
    let client = client_of(cancellation.client_id, &parameters);
    let mut cancelled = false;
    for id in cancellation.jobs {
        cancelled |= cancel_one(&state, id.as_str(), &caller, client.as_deref()).await?;
    }
    Ok(comfyui::cancelled(cancelled))
}

/// Cancels a job that waits or runs, of this client where one is named; says whether it did.
async fn cancel_one(state: &State, id: &str, caller: &Caller, client: Option<&str>) -> Result<bool, JobError> {
    let Some(view) = seen(state, id, caller).await.filter(|view| !view.state.is_final()) else {
        return Ok(false);
    };
    if !owner::is_of(&view.policy, client) {
        return Ok(false);
    }
    // It may begin in between.
    Ok(state.queue.cancel_waiting(&view.id).await? || state.queue.interrupt(&view.id))
}

async fn seen(state: &State, id: &str, caller: &Caller) -> Option<JobView> {
    let view = state.queue.view(id).await.ok()?;
    owner::seen(&view.policy, caller)?;
    Some(view)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_part_is_the_same_whether_those_before_it_are_read_or_not() {
        let job = |seconds: u64| ShownJob {
            id: JobId::new(),
            created: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            execution: Duration::from_secs(seconds),
        };
        // Wherever those that live stand among the others.
        for live in [[1, 3], [7, 12], [20, 21], [0, 21]] {
            let live: Vec<_> = live.into_iter().map(|n| job(2 * n + 1)).collect();
            let mut ended: Vec<_> = (0..20).map(|n| job(2 * n)).collect();
            for (sort_by, sort_order) in [
                ("created_at", "asc"),
                ("created_at", "desc"),
                ("execution_duration", "desc"),
            ] {
                let rest: Vec<_> = [&live[..], &ended[..]].concat();
                if sort_order == "desc" {
                    ended.sort_by_key(|job| std::cmp::Reverse(job.created));
                } else {
                    ended.sort_by_key(|job| job.created);
                }
                for offset in 0..25 {
                    let query = [
                        ("offset", offset.to_string()),
                        ("limit", "4".to_owned()),
                        ("sort_by", sort_by.to_owned()),
                        ("sort_order", sort_order.to_owned()),
                    ];
                    let query: HashMap<_, _> = query.map(|(name, value)| (name.to_owned(), value)).into();
                    let asked = JobsAsked::parse(&query).unwrap_or_else(|_| panic!("{query:?}"));
                    let passed = asked.offset.saturating_sub(live.len());
                    let read = ended.iter().skip(passed).take(4 + live.len()).cloned();
                    let part = part_of(live.iter().cloned().chain(read).collect(), &asked, passed);
                    assert_eq!(part, part_of(rest.clone(), &asked, 0), "{query:?}");
                }
            }
        }
    }
}
