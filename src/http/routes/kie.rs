//! KIE's tasks under `/api/v1/qwen`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, Request, State as Shared};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing;
use bytes::Bytes;

use crate::dialect::answer::Answer;
use crate::dialect::kie::{self, Options, Task, schema};
use crate::error::JobError;
use crate::http::route::{GET, POST, Route};
use crate::http::{State, body};
use crate::job::Dialect;

/// KIE's routes.
pub(in crate::http) const ROUTES: &[Route] = &[
    Route::new(
        POST,
        "/api/v1/qwen/generate",
        "KIE's tasks: take one in and answer with its `taskId`.",
        schema::generate,
        |_| routing::post(generate),
    ),
    Route::new(
        GET,
        "/api/v1/qwen/record-info",
        "The task as it is: `?taskId=`.",
        schema::record_info,
        |_| routing::get(record_info),
    ),
];

type Parameters = Query<HashMap<String, String>>;

/// `POST /api/v1/qwen/generate`: takes a task in.
pub async fn generate(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    body::respond(accept(&state, request).await)
}

/// `GET /api/v1/qwen/record-info?taskId=`: the task as it is.
pub async fn record_info(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    Query(parameters): Parameters,
) -> Response {
    let answer = async {
        let base = state.origin(&headers)?;
        let task_id = parameters.get("taskId").map(String::as_str);
        let job = kie::parse_task(task_id)?;
        let found = state.queue.view(job).await.ok();
        // Jobs of other APIs are none of this one's.
        let view = found
            .filter(|view| view.policy.dialect == Dialect::Kie)
            .ok_or_else(|| kie::unknown(task_id.unwrap_or_default()))?;
        Ok(kie::record(&view, &state.links(&base, kie::LINKS_WORK)))
    };
    body::respond(answer.await)
}

async fn accept(state: &State, request: Request) -> Result<Answer, JobError> {
    state.queue.has_room()?;
    let (parts, stream) = request.into_parts();
    let base = state.origin(&parts.headers)?;
    let received = state.bodies.read(&parts.headers, stream).await?;
    let place = state.queue.place()?;
    let options = Options {
        url_form: state.url_form,
    };
    let parse = move |bytes: Bytes| kie::parse(&bytes, options);
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
