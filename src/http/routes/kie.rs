//! KIE's tasks under `/api/v1/jobs`, and as the specification has them under `/api/v1/qwen`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, Request, State as Shared};
use axum::http::HeaderMap;
use axum::routing::{self, MethodRouter};
use bytes::Bytes;

use super::{Answered, Parameters};
use crate::dialect::answer::Answer;
use crate::dialect::kie::{self, Options, Task};
use crate::dialect::links::Links;
use crate::dialect::schema::Operation;
use crate::error::JobError;
use crate::http::route::Route;
use crate::http::state::State;
use crate::job::{Dialect, JobView};

/// KIE's routes.
pub(in crate::http) const ROUTES: &[Route] = &[
    Route::post(
        "/api/v1/jobs/createTask",
        "KIE's tasks: take one in for a `model` and answer with its `taskId`.",
        || Operation::answers::<kie::Accepted>().takes(kie::task()),
        |_| accepting(kie::parse_create),
    ),
    Route::get(
        "/api/v1/jobs/recordInfo",
        "The task as it is: `?taskId=`.",
        || Operation::answers::<kie::JobAnswer>().needs("taskId", kie::task_asked_for()),
        |_| telling(kie::record_info),
    ),
    Route::post(
        "/api/v1/qwen/generate",
        "The same without a `model`, as an earlier form of KIE's API has it.",
        || Operation::answers::<kie::Accepted>().takes(kie::request()),
        |_| accepting(kie::parse),
    ),
    Route::get(
        "/api/v1/qwen/record-info",
        "The task as that form tells it: `?taskId=`.",
        || Operation::answers::<kie::RecordAnswer>().needs("taskId", kie::task_asked_for()),
        |_| telling(kie::record),
    ),
];

type Parse = fn(&[u8], Options) -> Result<Task, JobError>;
type Render = fn(&JobView, &Links<'_>) -> Answer;

fn accepting(parse: Parse) -> MethodRouter<Arc<State>> {
    routing::post(move |Shared(state): Shared<Arc<State>>, request: Request| accept(state, request, parse))
}

fn telling(render: Render) -> MethodRouter<Arc<State>> {
    routing::get(
        move |Shared(state): Shared<Arc<State>>, headers: HeaderMap, Query(parameters): Parameters| {
            record_of(state, headers, parameters, render)
        },
    )
}

async fn record_of(
    state: Arc<State>,
    headers: HeaderMap,
    parameters: HashMap<String, String>,
    render: Render,
) -> Answered {
    let base = state.origin(&headers)?;
    let task_id = parameters.get("taskId").map(String::as_str);
    let job = kie::parse_task(task_id)?;
    let found = state.queue.view(job).await.ok();
    // Jobs of other APIs are none of this one's.
    let view = found
        .filter(|view| view.policy.dialect == Dialect::Kie)
        .ok_or_else(|| kie::unknown(task_id.unwrap_or_default()))?;
    Ok(render(&view, &state.links(&base, kie::LINKS_WORK)))
}

async fn accept(state: Arc<State>, request: Request, parse: Parse) -> Answered {
    state.queue.has_room()?;
    let (parts, stream) = request.into_parts();
    let base = state.origin(&parts.headers)?;
    let received = state.bodies.read(&parts.headers, stream).await?;
    let place = state.queue.permit()?;
    let options = Options {
        url_form: state.url_form,
    };
    let parse = move |bytes: Bytes| parse(&bytes, options);
    let Task { request, mut policy } = state.bodies.parsed(received, parse).await?;
    if let Some(url) = &policy.webhook {
        let checked = state.guard.check_url_and_name(url).await;
        checked.map_err(|refused| {
            JobError::invalid(format!("Invalid request: callBackUrl: {refused}")).at("callBackUrl")
        })?;
    }
    // Whoever is called back is told of the pictures at the address that was asked.
    policy.base = Some(base);
    let job = state.queue.submit(place, request, policy).await?;
    Ok(kie::accepted(&job))
}
