//! The streams: server-sent events as the clients take them, which is without comments.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::unfold;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, sleep_until};

use super::sessions::{Ended, Listener};
use crate::dialect::gradio::{self, Snapshot};
use crate::http::routes::events::{event_stream, ticks};
use crate::http::state::State;

/// Which stream it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `/queue/data`: everything about all events.
    Queue,
    /// `/call`: how the one event ended.
    Call,
}

/// `ALIVE`, until the worker has stopped.
pub(super) fn alive(state: Arc<State>, permit: OwnedSemaphorePermit) -> Response {
    const ALIVE: Bytes = Bytes::from_static(b"data: ALIVE\n\n");
    let beats = unfold((state, permit, None), async |(state, permit, beats)| {
        let beats = match beats {
            None => ticks(),
            Some(mut beats) => tokio::select! {
                _ = Interval::tick(&mut beats) => beats,
                () = state.queue.stopped() => return None,
            },
        };
        Some((Ok::<_, Infallible>(ALIVE), (state, permit, Some(beats))))
    });
    event_stream(Body::from_stream(beats))
}

/// The events of a session, until the last one was told.
pub(super) fn events(state: Arc<State>, listener: Listener, form: Form, permit: OwnedSemaphorePermit) -> Response {
    let stream = EventStream {
        state,
        listener: Some(listener),
        form,
        waiting: VecDeque::new(),
        ticks: ticks(),
        _permit: permit,
    };
    let pieces = unfold(stream, async |mut stream| {
        let piece = stream.next().await?;
        Some((Ok::<_, Infallible>(piece), stream))
    });
    event_stream(Body::from_stream(pieces))
}

/// What is still to be said to one session.
struct EventStream {
    state: Arc<State>,
    /// Dropped with the stream, it cancels the session's events; gone once all of them were told.
    listener: Option<Listener>,
    form: Form,
    waiting: VecDeque<Bytes>,
    ticks: Interval,
    _permit: OwnedSemaphorePermit,
}

impl EventStream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.waiting.pop_front() {
                return Some(piece);
            }
            let listener = self.listener.as_ref()?;
            let queued = usize::try_from(self.state.queue.counts().in_queue).unwrap_or(usize::MAX);
            let news = listener.news(Instant::now(), queued, self.state.gradio.quota.usual())?;
            if self.form == Form::Queue {
                self.waiting.extend(news.lines);
            }
            if news.last {
                self.listener = None;
            }
            for ended in news.ended {
                let pieces = self.told(ended).await;
                self.waiting.extend(pieces);
            }
            if self.listener.is_none() && self.form == Form::Queue {
                self.waiting.push_back(gradio::CLOSE_STREAM);
            }
            if self.waiting.is_empty() {
                self.wait(news.due).await;
            }
        }
    }

    /// How an event ended. The picture is read now, since it is kept in no stream's memory.
    async fn told(&self, mut ended: Ended) -> Vec<Bytes> {
        if let Snapshot::Job(view) = ended.seen {
            ended.seen = Snapshot::Job(Box::new(self.state.results.inlined(*view).await));
        }
        match self.form {
            Form::Queue => gradio::completed(&ended.id, &ended.seen, ended.seed, self.state.gradio.quota.usual()),
            Form::Call => gradio::call_result(&ended.seen, ended.seed),
        }
    }

    /// Waits for news, until an end is `due`, or until it is time to say something.
    async fn wait(&mut self, due: Option<Instant>) {
        let Some(listener) = &self.listener else { return };
        let due = async {
            match due {
                Some(due) => sleep_until(due.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = listener.changed() => {}
            () = due => {}
            _ = self.ticks.tick() => self.waiting.push_back(match self.form {
                Form::Queue => gradio::HEARTBEAT,
                Form::Call => gradio::CALL_HEARTBEAT,
            }),
        }
    }
}
