//! OpenAI's Images API under `/v1`.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Shared};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{self, MethodRouter};
use bytes::Bytes;

use super::events::{self, CancelOnDisconnect};
use super::form;
use crate::dialect::answer::Answer;
use crate::dialect::openai::{self, Asked, Body, Form, Operation, Options};
use crate::dialect::schema::{self, EVENTS, FORM, JSON, Schema};
use crate::error::{ErrorKind, JobError};
use crate::http::log::RequestId;
use crate::http::route::Route;
use crate::http::state::State;

/// OpenAI's routes.
pub(in crate::http) const ROUTES: &[Route] = &[
    Route::post(
        "/v1/images/generations",
        "OpenAI's Images API: pictures from text, or from text and `image`. JSON or a form; `stream` for events.",
        || pictures(Operation::Generate),
        |_| making(Operation::Generate),
    ),
    Route::post(
        "/v1/images/edits",
        "Pictures from one to three pictures and text, with `mask` only where that is transparent.",
        || pictures(Operation::Edit),
        |_| making(Operation::Edit),
    ),
    Route::post(
        "/v1/images/variations",
        "Pictures like a picture.",
        || pictures(Operation::Vary),
        |_| making(Operation::Vary),
    ),
    Route::get(
        "/v1/models",
        "The models that OpenAI's API takes.",
        schema::Operation::answers::<openai::Models>,
        |_| routing::get(models),
    ),
    Route::get(
        // The ids have a slash, which some clients escape.
        "/v1/models/{*model}",
        "One of them, by its id.",
        schema::Operation::answers::<openai::Model>,
        |_| routing::get(model),
    ),
];

/// What the routes that make pictures take and answer.
fn pictures(operation: Operation) -> schema::Operation {
    let events = "With `stream`: server-sent events, `image_generation.partial_image` and `image_generation.completed`, \
         or `image_edit.…` where pictures are edited; `error` where it fails.";
    schema::Operation::default()
        .takes(openai::request(operation))
        .body(FORM, openai::form(operation))
        .reply(200, "The pictures.", JSON, Schema::of::<openai::Images>())
        .reply(200, events, EVENTS, Schema::event())
}

fn making(operation: Operation) -> MethodRouter<Arc<State>> {
    routing::post(move |Shared(state): Shared<Arc<State>>, request: Request| make(state, operation, request))
}

async fn models() -> Answer {
    openai::models()
}

async fn model(name: Result<Path<String>, PathRejection>) -> Result<Answer, JobError> {
    // An id that is no text is no model's.
    let name = name.map_or_else(|_| String::new(), |Path(name)| name);
    openai::model(&name)
}

/// Runs a job and answers with its pictures, or with events while it runs. The job ends with the request.
async fn make(state: Arc<State>, operation: Operation, request: Request) -> Result<Response, JobError> {
    state.queue.has_room()?;
    let (parts, stream) = request.into_parts();
    let base = state.origin(&parts.headers)?;
    let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
    let received = state.bodies.read(&parts.headers, stream).await?;
    let place = state.queue.permit()?;
    let options = Options {
        url_form: state.url_form,
        data_uri: state.b64_data_uri,
    };
    let received = received
        .and_then(async |bytes| read(&parts.headers, bytes).await)
        .await?;
    let parse = move |body: Body| openai::parse(operation, body, options);
    let Asked { request, policy, reply } = state.bodies.parsed(received, parse).await?;
    let (mut attended, id) = CancelOnDisconnect::submit(&state.queue, place, request, policy).await?;
    if reply.is_streamed() {
        let watch = state.queue.watch(id.as_str()).await?;
        let shared = Arc::clone(&state);
        let (mut told, request_id) = (openai::Cursor::default(), request_id.unwrap_or_default());
        return Ok(events::stream(shared, watch, Some(attended), move |view| {
            let links = state.links(&base, openai::LINKS_WORK);
            openai::events(&reply, view, &links, &request_id, &mut told)
        }));
    }
    let view = state.queue.wait(id.as_str()).await.map_err(ends_with_the_request)?;
    attended.ended();
    let view = match reply.form() {
        Form::Url => view,
        Form::Inline => state.results.inlined(view).await,
        Form::Both => state.results.with_pictures(view).await,
    };
    let links = state.links(&base, openai::LINKS_WORK);
    Ok(openai::answer(&reply, &view, &links)?.into_response())
}

/// A job that is not run before a stop is cancelled here: nobody would ask for it after the next start.
fn ends_with_the_request(error: JobError) -> JobError {
    match error.kind {
        ErrorKind::Stopping => {
            JobError::new(error.kind, "The worker stops before the request is done").hint("Send it again.")
        }
        _ => error,
    }
}

/// A form where the request says so; anything else is read as JSON, as curl's `-d` sends it under another name.
async fn read(headers: &HeaderMap, bytes: Bytes) -> Result<Body, JobError> {
    match form::kind(headers) {
        Some(kind) => Ok(Body::Form(form::parts(kind, bytes).await?)),
        None => Ok(Body::Json(bytes)),
    }
}
