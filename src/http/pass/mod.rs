//! Requests that ComfyUI answers: they are passed on, and its answers back, piece by piece as they come. Nothing of either is
//! held, and a client that goes away ends its request to ComfyUI.
//!
//! Some are ComfyUI's API ([`ROUTES`]). With the page on, everything is that is no route of ours. What may be passed on at all
//! says [`guard`].

mod elsewhere;
mod guard;
mod headers;
mod refusal;
mod routes;
mod upgrade;
mod upload;
mod upload_here;
mod waiting;

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use tokio::time::timeout;

use super::edit_port::{OwnPort, written_path};
use super::paths::{self, EndsWithSlash};
use super::route::{API, ROOT};
use super::state::State;
use super::{body, unknown};
use crate::comfy::{Comfy, Connection};
use crate::disk::blocking;
use crate::echo::cut;
use crate::error::{ErrorKind, JobError};
use guard::Destination;

pub(super) use routes::ROUTES;
pub(super) use waiting::{SCRIPT as WAITING_SCRIPT, script as waiting_script};

/// Marks an answer that ComfyUI gave, or would have given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed;

/// The longest that ComfyUI may take to begin its answer to a request without a body. One with a body may be slow to come.
const ANSWER_TIME: Duration = Duration::from_mins(10);

/// What ComfyUI says of a path that it does not have, and how long that is: `404: Not Found`, or, as its page has every path
/// for GET, `405: Method Not Allowed`.
const NOTHING_THERE: &[(StatusCode, &str)] = &[(StatusCode::NOT_FOUND, "14"), (StatusCode::METHOD_NOT_ALLOWED, "23")];

/// The kind of the answer, an empty one with 404, where the path could have been a file of its page.
const NO_FILE: &[u8] = b"application/octet-stream";

/// Whether a request is ComfyUI's to answer, or part of its API: by its route, or as it has none.
pub(super) fn is_passed(request: &Request, state: &State) -> bool {
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    match matched {
        Some(ROOT) => state.page,
        Some(path) => {
            let path = path.strip_prefix(API).unwrap_or(path);
            ROUTES.iter().any(|route| route.path == path)
        }
        None => falls_through(request, state),
    }
}

/// Whether a request without a route is passed on.
fn falls_through(request: &Request, state: &State) -> bool {
    state.page
        && request.extensions().get::<OwnPort>().is_none()
        && request.method() != Method::CONNECT
        && Destination::of(request.uri().path()) != Destination::Ours
}

/// Answers what has no route of ours.
pub(super) async fn fall_through(state: &State, request: Request) -> Result<Response, JobError> {
    if !falls_through(&request, state) {
        let own_port = request.extensions().get::<OwnPort>().is_some();
        return Err(unknown(request.method(), written_path(&request), own_port));
    }
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let page = waiting::page_for(&request);
    let answer = attempt(state, request).await;
    let is_nothing = match &answer {
        Ok(answer) => is_nothing(answer),
        // It may be a pack's route. A person waits, and then sees whether there is something.
        Err(error) => {
            error.kind == ErrorKind::ComfyUnavailable && page.is_none() && !paths::closest(uri.path(), false).is_empty()
        }
    };
    if is_nothing {
        return Err(unknown(&method, uri.path(), false));
    }
    Ok(answer.unwrap_or_else(|error| refused(&error, page)))
}

/// Whether ComfyUI says that it has no such path.
fn is_nothing(answer: &Response) -> bool {
    let length = answer.headers().get(CONTENT_LENGTH);
    let kind = answer
        .headers()
        .get(CONTENT_TYPE)
        .map_or(&[][..], HeaderValue::as_bytes);
    if answer.status() == StatusCode::NOT_FOUND && kind == NO_FILE {
        return true;
    }
    kind.starts_with(b"text/plain")
        && NOTHING_THERE
            .iter()
            .any(|(status, bytes)| answer.status() == *status && length.is_some_and(|length| length == bytes))
}

/// Passes a request on, and the answer back; answers in ComfyUI's words, or with a page that waits, where that cannot be.
pub(super) async fn pass(state: &State, request: Request) -> Response {
    let page = waiting::page_for(&request);
    let answer = attempt(state, request).await;
    answer.unwrap_or_else(|error| refused(&error, page))
}

fn refused(error: &JobError, page: Option<Response>) -> Response {
    let page = page.filter(|_| error.kind == ErrorKind::ComfyUnavailable);
    page.unwrap_or_else(|| refusal::answer(error))
}

async fn attempt(state: &State, request: Request) -> Result<Response, JobError> {
    if Destination::of(request.uri().path()) == Destination::Manager && !state.manager {
        return Ok(refusal::manager());
    }
    try_to(state, request).await
}

/// Passes a request on; fails where there is no answer of ComfyUI's.
pub(super) async fn try_to(state: &State, request: Request) -> Result<Response, JobError> {
    let Some(connection) = state.comfy.connection_now() else {
        if let Some(classes) = elsewhere::Classes::asked(&request).filter(|_| state.comfy.is_elsewhere())
            && let Some(answer) = classes.answer(state).await
        {
            return Ok(answer);
        }
        return Err(waiting::reason(state).await);
    };
    if upgrade::is_asked(request.headers()) {
        return upgrade::pass(&connection, request).await;
    }
    let (parts, body) = request.into_parts();
    let headers = headers::onward(&parts.headers);
    let body = (!body.is_end_stream()).then(|| reqwest::Body::wrap_stream(body::coming(body)));
    let answer = ask(&connection, &parts, headers, body).await?;
    Ok(answered(&connection, answer))
}

/// Asks for a file, of those whose ComfyUIs have folders of their own the one that has it.
pub(super) async fn view(
    state: &State,
    request: Request,
    [folder, name, subfolder]: [&str; 3],
) -> Result<Response, JobError> {
    if !state.comfy.are_several() {
        return try_to(state, request).await;
    }
    let (comfys, subfolder, name) = (state.comfy.clone(), subfolder.to_owned(), name.to_owned());
    let of: Vec<Comfy> = match (folder, state.comfy.folders()) {
        (TEMP, Some(_)) => {
            let found = move || comfys.holder_of_preview(&subfolder, &name).cloned();
            blocking(found).await.into_iter().collect()
        }
        (_, Some(_)) => Vec::new(),
        (_, None) => comfys.makers(folder, &subfolder, &name),
    };
    let Some((last, before)) = of.split_last() else {
        return try_to(state, request).await;
    };
    let (parts, _) = request.into_parts();
    for comfy in before {
        let answer = view_at(state, comfy, &parts).await?;
        if !answer.status().is_client_error() {
            return Ok(answer);
        }
    }
    view_at(state, last, &parts).await
}

/// The folder of previews, as ComfyUI calls it.
const TEMP: &str = "temp";

/// Fails where this one does not answer: another may have a file of the same name, which is not meant.
async fn view_at(state: &State, comfy: &Comfy, parts: &Parts) -> Result<Response, JobError> {
    let Some(connection) = comfy.connection_now() else {
        return Err(waiting::reason(state).await);
    };
    let answer = ask(&connection, parts, headers::onward(&parts.headers), None).await?;
    Ok(answered(&connection, answer))
}

async fn ask(
    connection: &Connection,
    parts: &Parts,
    headers: HeaderMap,
    body: Option<reqwest::Body>,
) -> Result<reqwest::Response, JobError> {
    let mut path = parts.uri.path().to_owned();
    // A pack may have its routes so.
    if parts.extensions.get::<EndsWithSlash>().is_some()
        && path != "/"
        && parts.extensions.get::<MatchedPath>().is_none()
    {
        path.push('/');
    }
    // A name within a route of ComfyUI's may lead out of it.
    if Destination::of(&path) == Destination::Ours {
        let message = format!("There is no {} {}", cut(parts.method.as_str()), cut(&path));
        return Err(JobError::new(ErrorKind::NotFound, message));
    }
    if guard::changes_assets(&parts.method, &path) {
        let error = JobError::new(
            ErrorKind::NotFound,
            "ComfyUI's assets can only be looked at through this worker",
        );
        return Err(error.hint("/upload/image puts a file into the input folder."));
    }
    let may_take = body.is_none().then_some(ANSWER_TIME);
    let client = &connection.client;
    let answer = client.pass(parts.method.clone(), &path, parts.uri.query(), headers, body);
    let answer = async { answer.await.map_err(|error| refusal::unreachable(&error)) };
    in_time(may_take, answer).await
}

/// An answer that begins within so much time.
async fn in_time<T>(time: Option<Duration>, answer: impl Future<Output = Result<T, JobError>>) -> Result<T, JobError> {
    let Some(time) = time else { return answer.await };
    timeout(time, answer).await.unwrap_or_else(|_| {
        let what = format!("ComfyUI has not begun to answer the request in {} s", time.as_secs());
        Err(JobError::new(ErrorKind::ComfyUnavailable, what)
            .hint("See what ComfyUI itself says in the log, and send it again."))
    })
}

fn answered(connection: &Connection, answer: reqwest::Response) -> Response {
    let (parts, body) = axum::http::Response::<reqwest::Body>::from(answer).into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = parts.status;
    *response.headers_mut() = headers::back(&parts.headers, connection.client.base());
    response.extensions_mut().insert(Passed);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_begins_is_given_up() {
        let begun = tokio::time::Instant::now();
        let never = std::future::pending::<Result<(), JobError>>();
        let error = in_time(Some(ANSWER_TIME), never).await.unwrap_err();
        assert_eq!(
            (error.kind, begun.elapsed()),
            (ErrorKind::ComfyUnavailable, ANSWER_TIME)
        );
        let late = async {
            tokio::time::sleep(2 * ANSWER_TIME).await;
            Ok(())
        };
        assert!(in_time(None, late).await.is_ok());
    }
}
