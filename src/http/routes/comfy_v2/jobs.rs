//! Jobs: `POST /api/v2/jobs`, and what is asked of them.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Request, State as Shared};
use axum::http::{Extensions, HeaderMap, Uri};
use axum::response::Response;
use bytes::Bytes;

use super::{Told, Unmet, assets, own, places, references};
use crate::dialect::comfy_v2::assets::key_reused;
use crate::dialect::comfy_v2::{self, Asked, Code, Refusal, Submission, Workflow};
use crate::disk::blocking;
use crate::error::{ErrorKind, JobError};
use crate::http::auth::Caller;
use crate::http::routes::{Id, events};
use crate::http::state::State;
use crate::job::{JobView, Work, put_references, take_contents};
use crate::queue::NotTaken;
use crate::queue::store::{Claims, JobsOfV2, Operation};

/// `POST /api/v2/jobs`.
pub(super) async fn submit(Shared(state): Shared<Arc<State>>, request: Request) -> Told {
    state.queue.has_room()?;
    let (parts, body) = request.into_parts();
    let places = places(&state, &parts.headers)?;
    let caller = Caller::of(&parts.extensions);
    let owner = caller.key.clone().unwrap_or_default();
    let key = key_of(&state, &parts.headers, &owner).await?;
    let received = state.bodies.read(&parts.headers, body).await?;
    let parse = |body: Bytes| Ok(comfy_v2::parse(&body));
    let mut submission = state.bodies.parsed(received, parse).await??;
    let place = state.queue.permit()?;
    convert(&state, &mut submission).await?;
    // What its graph refers to stays until the job is stored, which needs it from then on.
    let hold = state.assets.hold();
    let resolved = references::resolve(&state, &hold, &caller, &mut submission).await?;
    take_out(&mut submission).await?;
    let (request, policy) = submission.job(caller.key);
    if let Some(Err(error)) = state.executor().check_request(&request).await {
        return Err(comfy_v2::of_graph(&error).into());
    }
    if let Some(error) = state.queue.refused_elsewhere(&request).await {
        return Err(comfy_v2::of_graph(&error).into());
    }
    let claims = Claims {
        key: key.map(|key| (owner, key)),
        contents: resolved.bring(&state, &hold).await?,
    };
    let submitted = state.queue.submit_with(place, request, policy, claims, hold).await;
    let id = submitted.map_err(|not_taken| match not_taken {
        NotTaken::KeyUsed => Unmet::from(key_reused()),
        NotTaken::Failed(error) => error.into(),
    })?;
    let view = state.queue.view(id.as_str()).await?;
    Ok(comfy_v2::job(201, &view, &places))
}

/// The key of a request, if it has one. One that has been used is refused before anything is done.
async fn key_of(state: &State, headers: &HeaderMap, owner: &str) -> Told<Option<String>> {
    let Some(key) = assets::idempotency_key(headers)? else {
        return Ok(None);
    };
    let store = state.queue.store();
    let is_used = store.key_used(owner, Operation::Job, &key, SystemTime::now()).await;
    if is_used.map_err(JobError::from)? {
        return Err(key_reused().into());
    }
    Ok(Some(key))
}

/// Makes a graph of a workflow that the page saved. Where ComfyUI is not ready that is left to the job.
async fn convert(state: &State, submission: &mut Submission) -> Told<()> {
    let Workflow::Saved(saved) = &submission.workflow else {
        return Ok(());
    };
    match state.executor().convert_now(saved).await {
        Some(Ok(converted)) => submission.converted(converted),
        Some(Err(error)) => return Err(comfy_v2::not_converted(&error).into()),
        None => {}
    }
    Ok(())
}

/// Takes files out of the graph that stand in it, as far as its loaders are known: those at a URL are fetched before its turn.
async fn take_out(submission: &mut Submission) -> Told<()> {
    let Workflow::Graph(graph) = &mut submission.workflow else {
        return Ok(());
    };
    let (mut taken, mut images) = (std::mem::take(graph), std::mem::take(&mut submission.images));
    let work = move || {
        let outcome = take_contents(&mut taken, None, &mut images);
        (outcome, taken, images)
    };
    let (outcome, taken, images) = blocking(work).await;
    outcome.map_err(|error| comfy_v2::of_graph(&error))?;
    *graph = taken;
    submission.images = images;
    Ok(())
}

/// A job that this caller may see.
async fn seen(state: &State, id: &str, extensions: &Extensions) -> Told<JobView> {
    let view = match state.queue.view(id).await {
        Ok(view) => view,
        Err(error) if error.kind == ErrorKind::NotFound => return Err(unknown(id).into()),
        Err(error) => return Err(error.into()),
    };
    if own(&view.policy, &Caller::of(extensions)) {
        Ok(view)
    } else {
        Err(unknown(id).into())
    }
}

fn unknown(id: &str) -> Refusal {
    let message = format!(
        "There is no job `{}`, or no more: jobs are kept until their `expires_at`",
        crate::echo::cut(id)
    );
    Refusal::new(Code::NotFound, message)
}

/// `GET /api/v2/jobs/{id}`.
pub(super) async fn one(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Id(id): Id,
    extensions: Extensions,
) -> Told {
    let view = seen(&state, &id, &extensions).await?;
    Ok(comfy_v2::job(200, &view, &places(&state, &headers)?))
}

/// `POST /api/v2/jobs/{id}/cancel`.
pub(super) async fn cancel(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Id(id): Id,
    extensions: Extensions,
) -> Told {
    seen(&state, &id, &extensions).await?;
    let view = state.queue.cancel(&id).await?;
    Ok(comfy_v2::job(200, &view, &places(&state, &headers)?))
}

/// `GET /api/v2/jobs/{id}/events`.
pub(super) async fn events(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Id(id): Id,
    extensions: Extensions,
) -> Told<Response> {
    seen(&state, &id, &extensions).await?;
    let places = places(&state, &headers)?;
    let watch = state.queue.watch(&id).await?;
    let mut cursor = comfy_v2::Cursor::default();
    let tell = move |view: &JobView| comfy_v2::events(view, &places, &mut cursor);
    Ok(events::stream_at_pace(
        state,
        watch,
        super::PACE,
        comfy_v2::is_urgent,
        tell,
    ))
}

/// `GET /api/v2/jobs/{id}/workflow`.
pub(super) async fn workflow(Shared(state): Shared<Arc<State>>, Id(id): Id, extensions: Extensions) -> Told {
    let view = seen(&state, &id, &extensions).await?;
    let Some(request) = state.queue.request(&view.id).await? else {
        return Err(unknown(&id).into());
    };
    Ok(match request.work {
        Work::Workflow(graph) => {
            let images = request.images;
            // Files that stood in it are written as text again.
            let graph = blocking(move || {
                let mut graph = serde_json::to_value(&graph).unwrap_or_default();
                put_references(&mut graph, &images);
                graph
            });
            comfy_v2::graph(&graph.await)
        }
        Work::Saved(saved) => comfy_v2::saved(saved.workflow.as_value()),
        Work::Template(_) => return Err(unknown(&id).into()),
    })
}

/// `GET /api/v2/jobs`.
pub(super) async fn list(Shared(state): Shared<Arc<State>>, uri: Uri, extensions: Extensions) -> Told {
    let asked = Asked::parse(uri.query().unwrap_or_default())?;
    let wanted = JobsOfV2 {
        key: Caller::of(&extensions).key,
        metadata: asked.metadata.clone(),
        states: asked.states(),
        after: asked.after.clone(),
        limit: asked.limit,
    };
    let (mut views, next) = state.queue.jobs_of_v2(wanted).await?;
    // The store may be behind what is live.
    views.retain(|view| asked.has(view));
    Ok(comfy_v2::page(&views, next.as_ref()))
}
