//! `GET /events/{id}`: a job's progress as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::Stream;
use tokio::sync::watch;

use super::runpod::Id;
use crate::dialect::runpod::{self, Event, Told};
use crate::http::{State, error_response};
use crate::job::JobView;
use crate::queue::Queue;

/// Streams the job's state: as it is now first, then each change, at last the final answer.
pub async fn events(Shared(state): Shared<Arc<State>>, Id(id): Id) -> Response {
    let watch = match state.queue.watch(&id).await {
        Ok(watch) => watch,
        Err(error) => return error_response(&error),
    };
    let mut response = Sse::new(stream(state.queue.clone(), watch))
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
struct Teller {
    queue: Queue,
    watch: watch::Receiver<JobView>,
    waiting: VecDeque<Event>,
    told: Told,
    over: bool,
}

fn stream(queue: Queue, mut watch: watch::Receiver<JobView>) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    // The state at the time of asking counts as news.
    watch.mark_changed();
    let teller = Teller {
        queue,
        watch,
        waiting: VecDeque::new(),
        told: Told::default(),
        over: false,
    };
    futures_util::stream::unfold(teller, async |mut teller| {
        let event = teller.next().await?;
        Some((Ok(sse::Event::default().event(event.name).data(event.data)), teller))
    })
}

impl Teller {
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
                view = self.queue.inlined(view).await;
            }
            // A change that is not shown gives no event.
            self.waiting.extend(runpod::events(&view, &mut self.told));
        }
    }
}
