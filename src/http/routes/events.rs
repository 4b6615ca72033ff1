//! Server-sent events: `GET /events/{id}`, and what other APIs stream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Interval;

use super::id::Id;
use crate::dialect::answer::Event;
use crate::dialect::runpod::{self, Told};
use crate::error::JobError;
use crate::http::leave::Attended;
use crate::http::{State, error_response, sse};
use crate::job::{JobState, JobView};
use crate::queue::Queue;

/// Streams the job's state: as it is now first, then each change, at last the final answer.
pub async fn events(Shared(state): Shared<Arc<State>>, headers: HeaderMap, Id(id): Id) -> Response {
    let watch = match state.queue.watch(&id).await {
        Ok(watch) => watch,
        Err(error) => return error_response(&error),
    };
    let mut told = Told::default();
    let base = state.origin(&headers).ok();
    stream(state.queue.clone(), watch, None, move |view| {
        let links = base.as_ref().map(|base| state.links(base, runpod::LINKS_WORK));
        runpod::events(view, links.as_ref(), &mut told)
    })
}

/// Streams what `tell` says of a job at each change, the present state first, until its end. A job that is attended ends
/// with the stream.
pub(super) fn stream(
    queue: Queue,
    mut watch: watch::Receiver<JobView>,
    attended: Option<Attended>,
    tell: impl FnMut(&JobView) -> Vec<Event> + Send + 'static,
) -> Response {
    // The state at the time of asking counts as news.
    watch.mark_changed();
    let teller = Teller {
        queue,
        watch,
        attended,
        tell: Some(tell),
        waiting: VecDeque::new(),
        ticks: sse::ticks(),
        over: false,
    };
    let pieces = futures_util::stream::unfold(teller, async |mut teller| {
        let piece = teller.next().await?;
        Some((Ok::<_, Infallible>(piece), teller))
    });
    sse::response(Body::from_stream(pieces))
}

/// A comment, which clients pass over.
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// What is still to be said about one job.
struct Teller<T> {
    queue: Queue,
    watch: watch::Receiver<JobView>,
    attended: Option<Attended>,
    /// Away while a thread runs it.
    tell: Option<T>,
    waiting: VecDeque<Bytes>,
    ticks: Interval,
    over: bool,
}

impl<T: FnMut(&JobView) -> Vec<Event> + Send + 'static> Teller<T> {
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
                error = self.queue.stopped_before_the_end(id.as_str()) => {
                    self.over = true;
                    let events = self.stopped(&error);
                    self.waiting.extend(events.into_iter().flat_map(Event::framed));
                    continue;
                }
                _ = self.ticks.tick() => return Some(COMMENT),
            }
            let mut view = self.watch.borrow_and_update().clone();
            self.over = view.state.is_final();
            if self.over {
                if let Some(attended) = &mut self.attended {
                    attended.ended();
                }
                view = self.queue.inlined(view).await;
            }
            // A change that is not shown gives no event.
            let events = self.told(view).await?;
            self.waiting.extend(events.into_iter().flat_map(Event::framed));
        }
    }

    /// What is to be said. Pictures are encoded for it, which is not for the async runtime. [`None`]: the thread that did it is
    /// gone.
    async fn told(&mut self, view: JobView) -> Option<Vec<Event>> {
        let mut tell = self.tell.take()?;
        let (tell, events) = if view.progress.preview.is_some() {
            let work = move || {
                let events = tell(&view);
                (tell, events)
            };
            tokio::task::spawn_blocking(work).await.ok()?
        } else {
            let events = tell(&view);
            (tell, events)
        };
        self.tell = Some(tell);
        Some(events)
    }

    /// What is said at last where the worker stops before the job's end.
    fn stopped(&mut self, error: &JobError) -> Vec<Event> {
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
