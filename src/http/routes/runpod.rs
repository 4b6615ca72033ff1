//! RunPod's operations on jobs, at the root and under `/v2/{endpoint_id}`, where its clients ask for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State as Shared};
use axum::http::HeaderMap;
use axum::routing;
use bytes::Bytes;

use crate::dialect::answer::Answer;
use crate::dialect::links::Links;
use crate::dialect::runpod;
use crate::dialect::schema::{Operation, Schema};
use crate::error::{ErrorKind, JobError};
use crate::http::route::{Base, Route};
use crate::http::state::State;
use crate::job::{JobId, JobView};

use super::{Answered, Id, Parameters, events};

/// The most jobs that one `/requests` lists.
const MOST_REQUESTS: usize = 1_000;
/// How many jobs `/requests` lists unless `?limit=` says otherwise.
const REQUESTS: usize = 100;
/// What `/events` streams.
const EVENTS: &str =
    "Server-sent events: `progress` and `preview` while the job waits and runs, then `status` with the answer.";

/// RunPod's routes.
pub(in crate::http) const ROUTES: &[Route] = &[
    Route::post(
        "/runsync",
        "Run one job and answer with its result: `{\"input\": {\"workflow\": …}}` or `{\"input\": {\"prompt\": …}}`. \
         `?wait=` (ms) limits the wait.",
        || {
            Operation::answers::<runpod::Job>()
                .query("wait", runpod::wait())
                .takes(runpod::request())
        },
        |base| match base {
            Base::Root | Base::Api => routing::post(runsync),
            Base::V2 => routing::post(runsync_v2),
        },
    )
    .v2(),
    Route::post(
        "/run",
        "Take one job in and answer with its id at once.",
        || Operation::answers::<runpod::Brief>().takes(runpod::request()),
        |_| routing::post(run),
    )
    .v2(),
    Route::new(
        &["GET", "POST"],
        "/status/{id}",
        "The job as it is: status, place in the queue, progress, output.",
        Operation::answers::<runpod::Job>,
        |_| routing::get(status).post(status),
    )
    .v2(),
    Route::get(
        "/status-sync/{id}",
        "The same at the job's end, or when `?wait=` (ms) is over.",
        || Operation::answers::<runpod::Job>().query("wait", runpod::wait().or(runpod::WAIT_MS)),
        |_| routing::get(status_sync),
    )
    .v2(),
    Route::new(
        &["GET", "POST"],
        "/stream/{id}",
        "The progress since the last time: each chunk is handed out once.",
        Operation::answers::<runpod::Streamed>,
        |_| routing::get(stream).post(stream),
    )
    .v2(),
    Route::post(
        "/cancel/{id}",
        "Cancel the job, queued or running.",
        Operation::answers::<runpod::Cancelled>,
        |_| routing::post(cancel),
    )
    .v2(),
    Route::post(
        "/retry/{id}",
        "Queue a job again that failed, ran out of time or was cancelled.",
        Operation::answers::<runpod::Brief>,
        |_| routing::post(retry),
    )
    .v2(),
    Route::post(
        "/purge-queue",
        "Remove every queued job.",
        Operation::answers::<runpod::Purged>,
        |_| routing::post(purge_queue),
    )
    .v2(),
    Route::get(
        "/requests",
        "Jobs, newest first: `?status=FAILED&limit=20`.",
        || {
            let limit = Schema::integer(&(1..=MOST_REQUESTS)).or(REQUESTS);
            Operation::answers::<runpod::Requests>()
                .query("status", runpod::status_words())
                .query("limit", limit)
        },
        |_| routing::get(requests),
    )
    .v2(),
    Route::get(
        "/events/{id}",
        "The job's progress as server-sent events; the last one, `status`, holds the answer.",
        || Operation::events(EVENTS),
        |_| routing::get(events::events),
    ),
];

async fn run(Shared(state): Shared<Arc<State>>, headers: HeaderMap, request: Body) -> Answered {
    Ok(runpod::accepted(&accept(&state, &headers, request).await?))
}

/// `POST /runsync` at the root: waits for the end unless `?wait=` sets a limit, and answers a failed job with the
/// specification's 400 or 500.
async fn runsync(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Parameters,
    headers: HeaderMap,
    request: Body,
) -> Answered {
    run_and_wait(&state, &parameters, None, &headers, request, runpod::render).await
}

/// `POST /v2/{endpoint_id}/runsync`: waits as long as RunPod does, and answers a failed job with 200 as RunPod does.
async fn runsync_v2(
    Shared(state): Shared<Arc<State>>,
    Query(parameters): Parameters,
    headers: HeaderMap,
    request: Body,
) -> Answered {
    let wait = Some(runpod::WAIT);
    run_and_wait(&state, &parameters, wait, &headers, request, runpod::status).await
}

async fn status(Shared(state): Shared<Arc<State>>, headers: HeaderMap, Id(id): Id) -> Answered {
    let view = state.queue.view(&id).await?;
    let view = state.results.inlined(view).await;
    Ok(linked(&state, &headers, &view, runpod::status))
}

async fn status_sync(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Id(id): Id,
    Query(parameters): Parameters,
) -> Answered {
    let limit = wait_of(&parameters)?.unwrap_or(runpod::WAIT);
    let view = match wait(&state, &id, Some(limit)).await {
        // It is asked again.
        Err(error) if error.kind == ErrorKind::ComfyUnavailable => state.queue.view(&id).await?,
        view => view?,
    };
    Ok(linked(&state, &headers, &view, runpod::status))
}

async fn stream(Shared(state): Shared<Arc<State>>, Id(id): Id) -> Answered {
    let (view, chunks) = state.queue.stream(&id).await?;
    Ok(runpod::stream(&view, &chunks))
}

/// `POST /cancel/{id}`. Python's client sends no body, npm's `{}`; neither is read.
async fn cancel(Shared(state): Shared<Arc<State>>, Id(id): Id) -> Answered {
    Ok(runpod::cancelled(&state.queue.cancel(&id).await?))
}

async fn retry(Shared(state): Shared<Arc<State>>, Id(id): Id) -> Answered {
    Ok(runpod::brief(&state.queue.retry(&id).await?))
}

/// `POST /purge-queue`: queued jobs are removed, running ones go on.
async fn purge_queue(Shared(state): Shared<Arc<State>>) -> Answered {
    Ok(runpod::purged(state.queue.purge().await?))
}

async fn requests(Shared(state): Shared<Arc<State>>, Query(parameters): Parameters) -> Answered {
    let wanted = parameters.get("status").map(|text| runpod::parse_status(text));
    let limit = parameters.get("limit").map(|text| limit_of(text));
    let (wanted, limit) = (wanted.transpose()?, limit.transpose()?.unwrap_or(REQUESTS));
    Ok(runpod::requests(&state.queue.list(wanted, None, limit).await?))
}

/// Takes a job in. The content type does not matter: curl's `-d` sends another than JSON's.
async fn accept(state: &State, headers: &HeaderMap, request: Body) -> Result<JobId, JobError> {
    // A place is taken when the body is there: who sends slowly keeps none from others.
    state.queue.has_room()?;
    let received = state.bodies.read(headers, request).await?;
    let place = state.queue.permit()?;
    let parse = |bytes: Bytes| runpod::parse(&bytes);
    let (request, mut policy) = state.bodies.parsed(received, parse).await?;
    if let Some(webhook) = &policy.webhook {
        let checked = state.guard.check_url_and_name(webhook).await;
        checked.map_err(|refused| JobError::invalid(format!("Invalid request: webhook: {refused}")))?;
        // Its receiver is told of a picture at the address that was asked.
        policy.base = state.origin(headers).ok();
    }
    state.results.check(&request.delivery).await?;
    state.queue.submit(place, request, policy).await
}

async fn run_and_wait(
    state: &State,
    parameters: &HashMap<String, String>,
    usual_wait: Option<Duration>,
    headers: &HeaderMap,
    request: Body,
    render: impl FnOnce(&JobView, Option<&Links<'_>>) -> Answer,
) -> Answered {
    let limit = wait_of(parameters)?.or(usual_wait);
    let id = accept(state, headers, request).await?;
    let view = wait(state, id.as_str(), limit).await;
    let view = view.map_err(|error| kept(error, &id))?;
    Ok(if view.state.is_final() {
        linked(state, headers, &view, render)
    } else {
        runpod::brief(&view)
    })
}

/// An answer with links that begin where the request was sent to. One that names no host gets none.
fn linked(
    state: &State,
    headers: &HeaderMap,
    view: &JobView,
    render: impl FnOnce(&JobView, Option<&Links<'_>>) -> Answer,
) -> Answer {
    let base = state.origin(headers).ok();
    let links = base.as_ref().map(|base| state.links(base, runpod::LINKS_WORK));
    render(view, links.as_ref())
}

/// The reason why a job is not waited for, with what becomes of it.
fn kept(error: JobError, id: &JobId) -> JobError {
    if error.kind != ErrorKind::ComfyUnavailable {
        return error;
    }
    let before = error.hint.as_deref().map(|hint| format!("{hint} ")).unwrap_or_default();
    let hint = format!(
        "{before}The job is kept and runs once ComfyUI is there: ask for /status/{id}, and do not send it again."
    );
    error.hint(hint)
}

/// Waits for the job's end, at most as long as `limit`; gives the job as it is then, with its files where it is to
/// hold them.
async fn wait(state: &State, id: &str, limit: Option<Duration>) -> Result<JobView, JobError> {
    let end = state.queue.wait(id);
    let view = match limit {
        Some(limit) => match tokio::time::timeout(limit, end).await {
            Ok(view) => view?,
            Err(_) => return state.queue.view(id).await,
        },
        None => end.await?,
    };
    Ok(state.results.inlined(view).await)
}

fn wait_of(parameters: &HashMap<String, String>) -> Result<Option<Duration>, JobError> {
    runpod::parse_wait(parameters.get("wait").map(String::as_str))
}

fn limit_of(text: &str) -> Result<usize, JobError> {
    match text.parse() {
        Ok(limit) if (1..=MOST_REQUESTS).contains(&limit) => Ok(limit),
        _ => Err(JobError::invalid(format!(
            "Invalid request: limit: must be a whole number from 1 to {MOST_REQUESTS}"
        ))),
    }
}
