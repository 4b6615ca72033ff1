//! Server-sent events: `GET /events/{id}`, and what other APIs stream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use tokio::sync::watch;

use super::runpod::Id;
use crate::dialect::event::Event;
use crate::dialect::runpod::{self, Told};
use crate::http::leave::Attended;
use crate::http::{State, error_response};
use crate::job::JobView;
use crate::queue::Queue;

/// Streams the job's state: as it is now first, then each change, at last the final answer.
pub async fn events(Shared(state): Shared<Arc<State>>, Id(id): Id) -> Response {
    let watch = match state.queue.watch(&id).await {
        Ok(watch) => watch,
        Err(error) => return error_response(&error),
    };
    let mut told = Told::default();
    stream(state.queue.clone(), watch, None, move |view| {
        runpod::events(view, &mut told)
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
        tell,
        waiting: VecDeque::new(),
        over: false,
    };
    let events = futures_util::stream::unfold(teller, async |mut teller| {
        let event = teller.next().await?;
        let event = sse::Event::default().event(event.name).data(event.data);
        Some((Ok::<_, Infallible>(event), teller))
    });
    let mut response = Sse::new(events)
        // A comment every 15 seconds keeps proxies from closing a quiet connection.
        .keep_alive(KeepAlive::default())
        .into_response();
    // nginx gathers answers before it passes them on, unless told not to.
    response.headers_mut().insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

/// What is still to be said about one job.
struct Teller<T> {
    queue: Queue,
    watch: watch::Receiver<JobView>,
    attended: Option<Attended>,
    tell: T,
    waiting: VecDeque<Event>,
    over: bool,
}

impl<T: FnMut(&JobView) -> Vec<Event>> Teller<T> {
    /// The next event; [`None`] after the final one, or when nobody watches over the job any more.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            self.watch.changed().await.ok()?;
            let mut view = self.watch.borrow_and_update().clone();
            self.over = view.state.is_final();
            if self.over {
                if let Some(attended) = &mut self.attended {
                    attended.ended();
                }
                view = self.queue.inlined(view).await;
            }
            // A change that is not shown gives no event.
            self.waiting.extend((self.tell)(&view));
        }
    }
}
