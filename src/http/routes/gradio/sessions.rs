//! Sessions: the events of one client, and the stream that tells it of them.
//!
//! A session is there while it has events; a client's id for it costs nothing before. All sessions lie behind one lock,
//! held for moments. An event holds no picture: what its job made is read when it is told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::dialect::gradio::{Cursor, Snapshot, messages};
use crate::error::{ErrorKind, JobError};
use crate::job::JobId;

/// The most events that are kept, told or not. Each has some hundred bytes; those that are jobs are fewer, by
/// `QUEUE_LIMIT`.
const MOST_EVENTS: usize = 10_000;
/// How long an event that ended waits for somebody to ask for it.
const KEPT: Duration = Duration::from_mins(10);
/// How long Python's clients may need until they are ready for what follows an answer.
///
/// They look for messages every 50 ms, in threads of their own. Client 1.x forgets what its stream brings of an event
/// before the thread that joined it has read the answer, and gives the whole stream up when that is the event's end
/// (`gradio_client/client.py`, `stream_messages` and `send_data`).
pub(super) const SETTLING: Duration = Duration::from_secs(1);

/// The sessions of all clients. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Sessions(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// By the clients' ids for them.
    sessions: HashMap<String, Session>,
    /// How many streams there were: their numbers.
    streams: u64,
}

#[derive(Debug, Default)]
struct Session {
    events: Vec<Event>,
    /// How many events there were, with those that were told.
    joined: u64,
    /// The number of the stream that tells of the events; 0 is none.
    stream: u64,
    news: Arc<Notify>,
}

#[derive(Debug)]
struct Event {
    id: JobId,
    seed: u64,
    seen: Snapshot,
    told: Cursor,
    stop: CancellationToken,
    joined: Instant,
    ended: Option<Instant>,
    /// Goes with the event.
    here: watch::Sender<()>,
}

impl Event {
    /// When its end may be told, if it has ended. A client's only event has it at once: the client has read the answer
    /// before it opened the stream.
    fn due(&self, only: bool) -> Option<Instant> {
        self.ended?;
        Some(if only { self.joined } else { self.joined + SETTLING })
    }
}

/// An event that ended and is to be told.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) id: JobId,
    pub(super) seed: u64,
    pub(super) seen: Snapshot,
}

/// What a stream is to tell.
#[derive(Debug)]
pub(super) struct News {
    /// Messages, ready to be sent.
    pub(super) lines: Vec<Bytes>,
    /// Events that ended.
    pub(super) ended: Vec<Ended>,
    /// When the end of another may be told.
    pub(super) due: Option<Instant>,
    /// Whether no event is left.
    pub(super) last: bool,
}

/// A stream's right to tell of a session.
#[derive(Debug)]
pub(super) struct Listener {
    sessions: Sessions,
    session: String,
    number: u64,
    news: Arc<Notify>,
}

impl Sessions {
    /// Adds an event; it waits until something else is shown of it. `stop` cancels it.
    pub(super) fn add(&self, session: &str, id: JobId, seed: u64, stop: CancellationToken) -> Result<(), JobError> {
        let all = &mut self.0.lock().sessions;
        if count(all) >= MOST_EVENTS {
            remove_the_old(all, Instant::now());
            if count(all) >= MOST_EVENTS {
                let message = format!("{MOST_EVENTS} events wait for their clients, which is the limit");
                return Err(JobError::new(ErrorKind::Busy, message).hint("Send it again later."));
            }
        }
        let session = all.entry(session.to_owned()).or_default();
        session.joined += 1;
        session.events.push(Event {
            id,
            seed,
            seen: Snapshot::Waiting,
            told: Cursor::default(),
            stop,
            joined: Instant::now(),
            ended: None,
            here: watch::Sender::new(()),
        });
        session.news.notify_one();
        Ok(())
    }

    /// Shows where an event is.
    pub(super) fn show(&self, session: &str, id: &JobId, seen: Snapshot) {
        let mut all = self.0.lock();
        let Some(session) = all.sessions.get_mut(session) else {
            return;
        };
        if let Some(event) = session.events.iter_mut().find(|event| event.id == *id) {
            event.ended = seen.is_over().then(Instant::now);
            event.seen = seen;
            session.news.notify_one();
        }
    }

    /// Cancels an event, if it is there and, where that is said, in this session.
    pub(super) fn cancel(&self, event: &str, session: Option<&str>) {
        let all = self.0.lock();
        let events = all
            .sessions
            .iter()
            .filter(|(name, _)| session.is_none_or(|session| session == *name))
            .flat_map(|(_, session)| &session.events);
        for event in events.filter(|one| one.id.as_str() == event) {
            event.stop.cancel();
        }
    }

    /// Resolves when an event's end was told, or nobody is there to hear it; at once if it is unknown.
    pub(super) async fn told(&self, event: &str) {
        let here = self
            .0
            .lock()
            .sessions
            .values()
            .flat_map(|session| &session.events)
            .find(|one| one.id.as_str() == event)
            .map(|event| event.here.subscribe());
        if let Some(mut here) = here {
            // Nothing is ever sent; it fails when the event is gone.
            let _ = here.changed().await;
        }
    }

    /// Begins a stream; one that the session had before ends. [`None`]: the session has no events.
    pub(super) fn listen(&self, session: &str) -> Option<Listener> {
        let all = &mut *self.0.lock();
        let found = all.sessions.get_mut(session)?;
        all.streams += 1;
        found.stream = all.streams;
        // The one before sees that it is not wanted any more.
        found.news.notify_one();
        Some(Listener {
            sessions: self.clone(),
            session: session.to_owned(),
            number: found.stream,
            news: Arc::clone(&found.news),
        })
    }
}

impl Listener {
    /// What is new, or [`None`] when another stream has taken over. `queued` and `usual` are as in [`messages`].
    pub(super) fn news(&self, now: Instant, queued: usize, usual: Option<Duration>) -> Option<News> {
        let all = &mut self.sessions.0.lock().sessions;
        let session = all.get_mut(&self.session).filter(|it| it.stream == self.number)?;
        let mut news = News {
            lines: Vec::new(),
            ended: Vec::new(),
            due: None,
            last: false,
        };
        for event in &mut session.events {
            let lines = messages(&event.id, &event.seen, queued, usual, &mut event.told);
            news.lines.extend(lines);
        }
        let only = session.joined == 1;
        let is_due = |event: &mut Event| event.due(only).is_some_and(|due| due <= now);
        for event in session.events.extract_if(.., is_due) {
            news.ended.push(Ended {
                id: event.id,
                seed: event.seed,
                seen: event.seen,
            });
        }
        news.due = session.events.iter().filter_map(|event| event.due(only)).min();
        if session.events.is_empty() {
            news.last = true;
            all.remove(&self.session);
        }
        Some(news)
    }

    /// Resolves when there may be news.
    pub(super) async fn changed(&self) {
        self.news.notified().await;
    }
}

impl Drop for Listener {
    /// The client has gone, unless the stream came to its end: its events are cancelled, as Gradio does.
    fn drop(&mut self) {
        let all = &mut self.sessions.0.lock().sessions;
        if all.get(&self.session).is_some_and(|it| it.stream == self.number)
            && let Some(session) = all.remove(&self.session)
        {
            for event in session.events {
                event.stop.cancel();
            }
        }
    }
}

fn count(all: &HashMap<String, Session>) -> usize {
    all.values().map(|session| session.events.len()).sum()
}

/// Removes what nobody asked for.
fn remove_the_old(all: &mut HashMap<String, Session>, now: Instant) {
    all.retain(|_, session| {
        let old = |event: &Event| event.ended.is_some_and(|ended| now - ended >= KEPT);
        session.events.retain(|event| session.stream != 0 || !old(event));
        !session.events.is_empty()
    });
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
