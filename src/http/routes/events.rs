//! Server-sent events: `GET /events/{id}`, and what other APIs stream; jobs that end with the request that brought them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, interval_at, sleep_until};

use super::Id;
use crate::dialect::answer::Event;
use crate::dialect::runpod::{self, Cursor};
use crate::disk::blocking;
use crate::error::JobError;
use crate::http::state::State;
use crate::job::{JobId, JobRequest, JobState, JobView, Policy};
use crate::queue::{Permit, Queue};
use crate::telemetry::traces;

/// How often a quiet stream says something: proxies close one after a minute, Gradio's Python clients give one up after
/// 20 seconds of silence.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

/// An event stream that nobody keeps or gathers on its way.
pub(super) fn event_stream(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        // nginx gathers answers before it passes them on, unless told not to.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, body).into_response()
}

/// When a quiet stream is to say something.
pub(super) fn ticks() -> Interval {
    interval_at(Instant::now() + COMMENT_EVERY, COMMENT_EVERY)
}

/// Streams the job's state: as it is now first, then each change, at last the final answer.
pub async fn events(Shared(state): Shared<Arc<State>>, headers: HeaderMap, Id(id): Id) -> Result<Response, JobError> {
    let watch = state.queue.watch(&id).await?;
    let mut told = Cursor::default();
    let base = state.origin(&headers).ok();
    Ok(stream(Arc::clone(&state), watch, None, move |view| {
        let links = base.as_ref().map(|base| state.links(base, runpod::LINKS_WORK));
        runpod::events(view, links.as_ref(), &mut told)
    }))
}

/// Streams what `tell` says of a job at each change, the present state first, until its end. A job that is `attended` ends
/// with the stream.
pub(super) fn stream(
    state: Arc<State>,
    watch: watch::Receiver<JobView>,
    attended: Option<CancelOnDisconnect>,
    tell: impl FnMut(&JobView) -> Vec<Event> + Send + 'static,
) -> Response {
    streamed(state, watch, attended, None, tell)
}

/// [`stream`], where changes that are not urgent wait until some time after the last one, and then go together. Where the
/// worker stops before the job's end nothing is said at last: the client asks again.
pub(super) fn stream_at_pace(
    state: Arc<State>,
    watch: watch::Receiver<JobView>,
    every: Duration,
    is_urgent: fn(&JobView, &JobView) -> bool,
    tell: impl FnMut(&JobView) -> Vec<Event> + Send + 'static,
) -> Response {
    let pace = Pace {
        every,
        is_urgent,
        told: None,
    };
    streamed(state, watch, None, Some(pace), tell)
}

fn streamed(
    state: Arc<State>,
    mut watch: watch::Receiver<JobView>,
    attended: Option<CancelOnDisconnect>,
    pace: Option<Pace>,
    tell: impl FnMut(&JobView) -> Vec<Event> + Send + 'static,
) -> Response {
    // The state at the time of asking counts as news.
    watch.mark_changed();
    let events = EventStream {
        state,
        watch,
        attended,
        pace,
        tell: Some(tell),
        waiting: VecDeque::new(),
        ticks: ticks(),
        over: false,
    };
    let pieces = unfold(events, async |mut events| {
        let piece = events.next().await?;
        Some((Ok::<_, Infallible>(piece), events))
    });
    event_stream(Body::from_stream(pieces))
}

/// A comment, which clients pass over.
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// How often changes are told.
struct Pace {
    every: Duration,
    /// Whether a change since what was told last is told at once.
    is_urgent: fn(&JobView, &JobView) -> bool,
    /// When, and what.
    told: Option<(Instant, JobView)>,
}

impl Pace {
    /// Waits until the next change is to be told.
    async fn wait(&self, watch: &mut watch::Receiver<JobView>) {
        let Some((at, told)) = &self.told else { return };
        tokio::select! {
            biased;
            _ = watch.wait_for(|now| (self.is_urgent)(told, now)) => {}
            () = sleep_until(*at + self.every) => {}
        }
    }
}

/// What is still to be said about one job.
struct EventStream<T> {
    state: Arc<State>,
    watch: watch::Receiver<JobView>,
    attended: Option<CancelOnDisconnect>,
    pace: Option<Pace>,
    /// Away while a thread runs it.
    tell: Option<T>,
    waiting: VecDeque<Bytes>,
    ticks: Interval,
    over: bool,
}

impl<T: FnMut(&JobView) -> Vec<Event> + Send + 'static> EventStream<T> {
    /// The next piece of the stream; [`None`] after the final event, or when nobody watches over the job any more.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.waiting.pop_front() {
                return Some(piece);
            }
            if self.over {
                return None;
            }
            let id = self.watch.borrow().id.clone();
            tokio::select! {
                biased;
                changed = self.watch.changed() => changed.ok()?,
                error = self.state.queue.stopped_before_the_end(&id) => {
                    self.over = true;
                    let events = self.stopped(&error);
                    self.waiting.extend(events.into_iter().flat_map(Event::framed));
                    continue;
                }
                _ = self.ticks.tick() => return Some(COMMENT),
            }
            if let Some(pace) = &self.pace {
                pace.wait(&mut self.watch).await;
            }
            let mut view = self.watch.borrow_and_update().clone();
            if let Some(pace) = &mut self.pace {
                pace.told = Some((Instant::now(), view.clone()));
            }
            self.over = view.state.is_final();
            if self.over {
                if let Some(attended) = &mut self.attended {
                    attended.ended();
                }
                view = self.state.results.inlined(view).await;
            }
            // A change that is not shown gives no event.
            let events = self.told(view).await?;
            self.waiting.extend(events.into_iter().flat_map(Event::framed));
        }
    }

    /// What is to be said. Pictures are encoded for it, which is not for the async runtime.
    async fn told(&mut self, view: JobView) -> Option<Vec<Event>> {
        let mut tell = self.tell.take()?;
        let has_picture = view.progress.preview.is_some();
        let work = move || {
            let events = tell(&view);
            (tell, events)
        };
        let (tell, events) = if has_picture { blocking(work).await } else { work() };
        self.tell = Some(tell);
        Some(events)
    }

    /// What is said at last where the worker stops before the job's end.
    fn stopped(&mut self, error: &JobError) -> Vec<Event> {
        if self.pace.is_some() {
            return Vec::new();
        }
        if self.attended.is_none() {
            return vec![runpod::stopping(error)];
        }
        // The job ends with its client: nobody would ask for it after the next start.
        let error = JobError::new(error.kind, "The worker stops before the request is done").hint("Send it again.");
        let mut view = self.watch.borrow().clone();
        (view.state, view.result) = (JobState::Failed, Some(Err(Arc::new(error))));
        self.tell.as_mut().map(|tell| tell(&view)).unwrap_or_default()
    }
}

/// Cancels a job that belongs to one request when this is dropped before [`Self::ended`]: its client has gone away.
#[derive(Debug)]
pub(super) struct CancelOnDisconnect {
    queue: Queue,
    id: Option<JobId>,
}

impl CancelOnDisconnect {
    /// Takes a job in. A client that goes away while it is stored cancels it too.
    pub(super) async fn submit(
        queue: &Queue,
        place: Permit,
        request: JobRequest,
        policy: Policy,
    ) -> Result<(Self, JobId), JobError> {
        let queue = queue.clone();
        // What a dropped task would have given is dropped at its end, and the job is cancelled.
        let submitted = tokio::spawn(traces::carried(async move {
            let id = queue.submit(place, request, policy).await?;
            let attended = Self {
                queue,
                id: Some(id.clone()),
            };
            Ok((attended, id))
        }));
        submitted
            .await
            .unwrap_or_else(|error| Err(JobError::internal(format!("the job's handling broke off: {error}"))))
    }

    /// The job has ended, or shall go on by itself.
    pub(super) fn ended(&mut self) {
        self.id = None;
    }
}

impl Drop for CancelOnDisconnect {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let queue = self.queue.clone();
        let cancel = async move {
            tracing::info!(job.id = id.as_str(), "the client is gone; its job is cancelled");
            if let Err(error) = queue.cancel(id.as_str()).await {
                tracing::warn!(
                    job.id = id.as_str(),
                    "the job could not be cancelled: {}",
                    error.full_text()
                );
            }
        };
        // Without a runtime the worker is ending, and the job is ended with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn(cancel));
        }
    }
}
