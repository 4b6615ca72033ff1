//! ComfyUI's own API: prompts are jobs of our queue. Each route is served under `/api` too, as ComfyUI does.

mod history;
pub mod hub;
mod jobs;
mod logs;
mod owner;
mod prompt;
mod queue;
mod socket;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};

use crate::dialect::comfyui;
use crate::dialect::schema::{JSON, Operation, Schema};
use crate::error::JobError;
use crate::http::auth::Caller;
use crate::http::route::Route;
use crate::http::state::State;

use super::unmet::{Told, Unmet};

pub use prompt::Prompts;

/// The largest body of a request that is no prompt, in bytes.
const LARGEST_BODY: usize = 1024 * 1024;

/// The routes of this API that are ours.
pub(in crate::http) const ROUTES: &[Route] = &[
    Route::post(
        "/prompt",
        "ComfyUI: take a prompt in and answer with its `prompt_id`, `number` and `node_errors`.",
        || Operation::answers::<comfyui::Accepted>().takes(comfyui::prompt_request()),
        |_| routing::post(prompt::prompt),
    )
    .api(),
    Route::get(
        "/prompt",
        "ComfyUI: how many jobs wait or run.",
        Operation::answers::<comfyui::QueueInfo>,
        |_| routing::get(prompt::remaining),
    )
    .api(),
    Route::get(
        "/queue",
        "ComfyUI: the prompts that run and those that wait.",
        Operation::answers::<comfyui::QueueLine>,
        |_| routing::get(queue::show),
    )
    .api(),
    Route::post(
        "/queue",
        "ComfyUI: take prompts that wait out of the queue: `{\"clear\": true}` the caller's own, `{\"delete\": [ids]}` these.",
        || nothing().takes(comfyui::removal_request()),
        |_| routing::post(queue::remove),
    )
    .api(),
    Route::post(
        "/interrupt",
        "ComfyUI: end the prompt that runs: the caller's own, or the one that `prompt_id` names.",
        || nothing().takes(comfyui::interrupt_request()).or_no_body(),
        |_| routing::post(queue::interrupt),
    )
    .api(),
    Route::post(
        "/free",
        "ComfyUI: give up models in memory, or all that is kept from earlier prompts, once no prompt runs.",
        || nothing().takes(comfyui::freeing_request()),
        |_| routing::post(queue::free),
    )
    .api(),
    Route::get(
        "/history",
        "ComfyUI: the prompts that have ended, oldest first: the newest 1000, or `?max_items=` from `?offset=` on.",
        || {
            entries()
                .query("max_items", Schema::whole().or(1_000))
                .query("offset", Schema::whole())
        },
        |_| routing::get(history::list),
    )
    .api(),
    Route::post(
        "/history",
        "ComfyUI: forget prompts that have ended: `{\"clear\": true}` the caller's own, `{\"delete\": [ids]}` these. Their files stay.",
        || nothing().takes(comfyui::removal_request()),
        |_| routing::post(history::remove),
    )
    .api(),
    Route::get(
        "/history/{id}",
        "ComfyUI: the prompt, once it has ended.",
        entries,
        |_| routing::get(history::one),
    )
    .api(),
    Route::get(
        "/api/jobs",
        "ComfyUI: prompts that wait, run or have ended: `?status=`, `?limit=`, `?offset=`, `?sort_by=`, `?sort_order=`, `?workflow_id=`.",
        || {
            Operation::answers::<comfyui::Jobs>()
                .query("status", comfyui::status_words())
                .query("limit", Schema::whole().with("minimum", 1))
                .query("offset", Schema::whole().or(0))
                .query("sort_by", Schema::one_of(["created_at", "execution_duration"]).or("created_at"))
                .query("sort_order", Schema::one_of(["asc", "desc"]).or("desc"))
                .query("workflow_id", Schema::text())
                .reply(400, "Why not: `error` is a text.", JSON, Schema::any())
        },
        |_| routing::get(jobs::list),
    ),
    Route::get(
        "/api/jobs/{id}",
        "ComfyUI: one of them, with its outputs and its graph.",
        || Operation::answers::<comfyui::Job>().reply(404, "There is none: `error` is a text.", JSON, Schema::any()),
        |_| routing::get(jobs::one),
    ),
    Route::post(
        "/api/jobs/{id}/cancel",
        "ComfyUI: cancel it, whether it waits or runs.",
        Operation::answers::<comfyui::Cancelled>,
        |_| routing::post(jobs::cancel),
    ),
    Route::post(
        "/api/jobs/cancel",
        "ComfyUI: cancel several: `{\"job_ids\": [ids]}`.",
        || {
            Operation::answers::<comfyui::Cancelled>()
                .takes(comfyui::cancel_request())
                .reply(400, "Why not: `error` is a text.", JSON, Schema::any())
        },
        |_| routing::post(jobs::cancel_several),
    ),
    socket::SOCKET,
    logs::SUBSCRIBE,
];

fn entries() -> Operation {
    Operation::default().reply(200, "The answer.", JSON, comfyui::history())
}

/// A route that says nothing but that it is done.
fn nothing() -> Operation {
    Operation::default().empty_reply(200, "It is done.")
}

/// Who sent a request, and its small body.
async fn read(state: &State, request: Request) -> Result<(Caller, Bytes), JobError> {
    let (parts, body) = request.into_parts();
    let received = state.bodies.read_at_most(LARGEST_BODY, &parts.headers, body).await?;
    Ok((Caller::of(&parts.extensions), received.content))
}

/// The client that a request names in its body, or else in its address.
fn client_of(named: Option<String>, parameters: &HashMap<String, String>) -> Option<String> {
    named.or_else(|| parameters.get("client_id").filter(|id| !id.is_empty()).cloned())
}

/// An answer whose parts are made as they are sent: all of them may be large together.
fn streamed(parts: impl Stream<Item = String> + Send + 'static) -> Response {
    let body = Body::from_stream(parts.map(|part| Ok::<_, Infallible>(Bytes::from(part))));
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ([json], body).into_response()
}

/// The items of a JSON list or object, with commas between them. Those that are gone by their turn are left out.
fn items<T, F>(
    state: Arc<State>,
    of: Vec<T>,
    make: impl Fn(Arc<State>, T) -> F + Send + 'static,
) -> impl Stream<Item = String> + Send + 'static
where
    T: Send + 'static,
    F: Future<Output = Option<String>> + Send + 'static,
{
    stream::iter(of)
        .then(move |item| make(Arc::clone(&state), item))
        .filter_map(std::future::ready)
        .enumerate()
        .map(|(index, text)| if index == 0 { text } else { format!(",{text}") })
}

fn fixed(text: &'static str) -> impl Stream<Item = String> + Send + 'static {
    stream::once(std::future::ready(text.to_owned()))
}
