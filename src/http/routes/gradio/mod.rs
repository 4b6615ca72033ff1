//! A Gradio Space's routes, for the clients of the Qwen-Image Space.
//!
//! ```text
//!  queue/join ──► event ──► its prompt is enhanced ──► job ──► ends
//!                   │               │                   │        │
//!                   └──── shown ────┴───────────────────┴────────┘
//!                           │
//!                        session ──► queue/data: one stream for all its events
//! ```

mod enhance;
mod event;
mod quota;
mod sessions;
mod stream;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request, State as Shared};
use axum::response::Response;
use axum::routing;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::GradioConfig;
use crate::dialect::answer::Answer;
use crate::dialect::gradio;
use crate::dialect::schema::{JSON, Operation, Schema};
use crate::error::{ErrorKind, JobError};
use crate::http::body::Received;
use crate::http::route::Route;
use crate::http::routes::events::event_stream;
use crate::http::routes::{Answered, Parameters};
use crate::http::state::State;

use enhance::Enhancer;
use quota::{Client, Quota};
use sessions::{SETTLING, Sessions};
use stream::Form;

/// Gradio's routes.
pub(in crate::http) const ROUTES: &[Route] = &[
    Route::get(
        "/config",
        "Gradio: what a client asks for first, so `Client.connect(\"http://HOST:PORT\")` finds `/infer`.",
        || {
            let config = "Gradio's description of the Space: its components and functions.";
            Operation::default().reply(200, config, JSON, Schema::object())
        },
        |_| routing::get(config),
    ),
    Route::get(
        "/gradio_api/info",
        "Gradio: the parameters of `/infer`.",
        || {
            let endpoints = Schema::object()
                .needs("named_endpoints", Schema::object())
                .needs("unnamed_endpoints", Schema::object());
            Operation::default().reply(200, "The answer.", JSON, endpoints)
        },
        |_| routing::get(info),
    ),
    Route::get(
        "/gradio_api/heartbeat/{session_hash}",
        "Gradio: a stream that tells a client that the worker is alive.",
        || Operation::events("`ALIVE`, again and again."),
        |_| routing::get(heartbeat),
    ),
    Route::post(
        "/gradio_api/queue/join",
        "Gradio: `{\"data\": [prompt, seed, …], \"session_hash\": …}` joins the queue; answers `event_id`, which is the job's id.",
        || Operation::answers::<gradio::Joined>().takes(gradio::join()),
        |_| routing::post(join),
    ),
    Route::get(
        "/gradio_api/queue/data",
        "Gradio: the events of a session, `?session_hash=`. A client that leaves cancels its jobs.",
        || {
            Operation::events(
                "Server-sent events, one line of JSON each: `estimation`, `process_starts`, `progress`, `heartbeat`, \
                 `process_completed`, `close_stream`.",
            )
            .query("session_hash", gradio::session())
        },
        |_| routing::get(data),
    ),
    Route::post(
        "/gradio_api/cancel",
        "Gradio: cancel an event.",
        || Operation::answers::<gradio::Success>().takes(gradio::cancel()),
        |_| routing::post(cancel),
    ),
    Route::post(
        "/gradio_api/reset",
        "Gradio: what clients send after a cancel; answered when the end of the event was told that `event_id` names.",
        // Whatever is sent, or nothing, is answered alike.
        Operation::answers::<gradio::Success>,
        |_| routing::post(reset),
    ),
    Route::post(
        "/gradio_api/call/infer",
        "Gradio, for curl: `{\"data\": [prompt, seed, …]}`; answers `event_id`.",
        || Operation::answers::<gradio::Joined>().takes(gradio::call()),
        |_| routing::post(call),
    ),
    Route::post(
        "/gradio_api/call/v2/infer",
        "The same, with values by name: `{\"prompt\": …, \"seed\": …}`.",
        || Operation::answers::<gradio::Joined>().takes(gradio::infer()),
        |_| routing::post(named_call),
    ),
    Route::get(
        "/gradio_api/call/infer/{event_id}",
        "Gradio, for curl: the result as a server-sent event.",
        || {
            Operation::events(
                "Server-sent events: `heartbeat` while it goes on, then `complete` with the picture and the seed, or `error`.",
            )
        },
        |_| routing::get(call_result),
    ),
];

/// The largest body of a cancel or a reset, which need no key, in bytes.
const SMALL_BODY: usize = 4 * 1024;
/// How long a reset waits for the end of its event. Clients wait five seconds for its answer.
const RESET_PATIENCE: Duration = Duration::from_secs(3);
/// The most streams at once, heartbeats included.
const MOST_STREAMS: usize = 10_000;

/// What the routes of this dialect share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gradio {
    sessions: Sessions,
    quota: Quota,
    enhancer: Enhancer,
    streams: Arc<Semaphore>,
}

impl Gradio {
    /// Without clients yet. Fails when no HTTP client can be made for the chat model.
    pub fn new(config: &GradioConfig) -> Result<Self, reqwest::Error> {
        Ok(Self {
            sessions: Sessions::default(),
            quota: Quota::new(config.gpu_quota),
            enhancer: Enhancer::new(config.chat.as_ref())?,
            streams: Arc::new(Semaphore::new(MOST_STREAMS)),
        })
    }

    fn stream(&self) -> Result<OwnedSemaphorePermit, JobError> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let message = format!("{MOST_STREAMS} streams are open, which is the limit");
            JobError::new(ErrorKind::Busy, message).hint("Try again later.")
        })
    }
}

async fn config() -> Answer {
    static BODY: LazyLock<Answer> = LazyLock::new(|| Answer::json(200, &gradio::config()));
    BODY.clone()
}

async fn info() -> Answer {
    static BODY: LazyLock<Answer> = LazyLock::new(|| Answer::json(200, &gradio::info()));
    BODY.clone()
}

/// `GET /gradio_api/heartbeat/{session_hash}`: `ALIVE` at once and every 15 seconds. Python's client 1.x asks again at
/// once, without a pause, if it ends.
async fn heartbeat(Shared(state): Shared<Arc<State>>) -> Result<Response, JobError> {
    let permit = state.gradio.stream()?;
    Ok(stream::alive(state, permit))
}

async fn join(Shared(state): Shared<Arc<State>>, request: Request) -> Answered {
    let parse = |bytes: &[u8]| gradio::parse_join(bytes).map(|join| (Some(join.session), join.infer));
    accept(&state, request, parse).await
}

/// `POST /gradio_api/call/infer`: takes an event in that is a session of its own.
async fn call(Shared(state): Shared<Arc<State>>, request: Request) -> Answered {
    let parse = |bytes: &[u8]| gradio::parse_call(bytes).map(|infer| (None, infer));
    accept(&state, request, parse).await
}

async fn named_call(Shared(state): Shared<Arc<State>>, request: Request) -> Answered {
    let parse = |bytes: &[u8]| gradio::parse_named_call(bytes).map(|infer| (None, infer));
    accept(&state, request, parse).await
}

/// `GET /gradio_api/queue/data?session_hash=`: the events of a session, until the last one ended.
async fn data(Shared(state): Shared<Arc<State>>, Query(parameters): Parameters) -> Result<Response, JobError> {
    let permit = state.gradio.stream()?;
    let session = parameters.get("session_hash").map_or("", String::as_str);
    Ok(match state.gradio.sessions.listen(session) {
        Some(listener) => stream::events(state, listener, Form::Queue, permit),
        None => event_stream(Body::from(gradio::UNKNOWN_SESSION)),
    })
}

/// `GET /gradio_api/call/infer/{event_id}`: how the event ended, once it has.
async fn call_result(
    Shared(state): Shared<Arc<State>>,
    event: Result<Path<String>, PathRejection>,
) -> Result<Response, JobError> {
    let permit = state.gradio.stream()?;
    // An id that is no text is no event's.
    let event = event.map_or_else(|_| String::new(), |Path(event)| event);
    let listener = state.gradio.sessions.listen(&event).ok_or_else(|| {
        JobError::new(ErrorKind::NotFound, "There is no such event")
            .hint("Use the id that /gradio_api/call/infer answered; each result is told once.")
    })?;
    Ok(stream::events(state, listener, Form::Call, permit))
}

/// `POST /gradio_api/cancel`: cancels an event. An unknown one is no mistake.
async fn cancel(Shared(state): Shared<Arc<State>>, request: Request) -> Answered {
    let small = read_small(&state, request).await?;
    let (event, session) = gradio::parse_cancel(&small.content)?;
    state.gradio.sessions.cancel(&event, session.as_deref());
    Ok(gradio::success())
}

/// `POST /gradio_api/reset`: ends the iterator of an event, of which `/infer` has none.
///
/// Python's clients send it in a thread beside the one that waits for the event's end, and take whichever is through
/// first; both at once are `ValueError: Did not expect 2 tasks to be done.` (`gradio_client/utils.py`,
/// `get_pred_from_sse_v1plus`). So the answer leaves the end its time.
async fn reset(Shared(state): Shared<Arc<State>>, request: Request) -> Answered {
    let small = read_small(&state, request).await?;
    // Not a stream, but as long on its way as some.
    if let (Ok((event, _)), Ok(_permit)) = (gradio::parse_cancel(&small.content), state.gradio.stream()) {
        let told = state.gradio.sessions.told(&event);
        // Not in time: a step of the sampler, which cannot be interrupted, takes longer than the client is patient.
        let _ = tokio::time::timeout(RESET_PATIENCE, told).await;
        tokio::time::sleep(SETTLING).await;
    }
    Ok(gradio::success())
}

async fn read_small(state: &State, request: Request) -> Result<Received, JobError> {
    let (parts, body) = request.into_parts();
    state.bodies.read_at_most(SMALL_BODY, &parts.headers, body).await
}

type Asked = (Option<String>, Result<gradio::Infer, JobError>);

/// Takes an event in, for its session or as one of its own. What is wrong with its values is told in its stream.
async fn accept(
    state: &Arc<State>,
    request: Request,
    parse: impl FnOnce(&[u8]) -> Result<Asked, JobError> + Send + 'static,
) -> Answered {
    state.queue.has_room()?;
    let client = Client::of(request.headers(), request.extensions());
    let (parts, body) = request.into_parts();
    let received = state.bodies.read(&parts.headers, body).await?;
    let place = state.queue.permit()?;
    let parse = move |bytes: Bytes| parse(&bytes);
    let (session, infer) = state.bodies.parsed(received, parse).await?;
    let id = event::begin(state, place, client, session, infer)?;
    Ok(gradio::joined(&id))
}
