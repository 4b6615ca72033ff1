//! What the platform knows: jobs and where they are, every call, and what is to go wrong next.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use super::super::wire::Head;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Route {
    /// `job-take` and `job-take-batch`.
    Take,
    /// `job-stop`.
    Stop,
    /// `job-done` with a result.
    Done,
    /// `job-done` with progress.
    Progress,
    /// `job-stream`.
    Stream,
    /// `ping`.
    Ping,
}

/// Something that the platform does wrong, once.
#[derive(Debug, Clone)]
pub(crate) enum Misdeed {
    /// This status, and a few words.
    Status(u16),
    /// Status 200 with this in place of an answer.
    Says {
        content_type: &'static str,
        body: &'static str,
    },
    /// The right answer in a list, or out of it.
    Listed,
    /// Nothing, until the client gives up.
    Hang,
    /// The right answer without its last bytes. A job that was in it is in the queue again.
    HangUp {
        /// Whether what was posted is taken in all the same.
        taken_in: bool,
    },
    /// A reset once the whole request was read.
    Reset {
        /// Whether what was posted is taken in all the same.
        taken_in: bool,
    },
    /// The right answer in five pieces, with this pause before each.
    Slow(Duration),
}

impl Misdeed {
    /// Whether it does not matter what the right answer is.
    pub(super) fn needs_no_answer(&self) -> bool {
        matches!(
            self,
            Self::Status(_) | Self::Says { .. } | Self::Hang | Self::Reset { .. }
        )
    }
}

/// One call of a worker.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) route: Route,
    /// The job that is in the path; empty for none.
    pub(crate) job: String,
    pub(crate) head: Head,
    /// Empty when [`super::Platform::forget_results`] was called and it is large.
    pub(crate) body: Vec<u8>,
    /// The length of the body that came, in bytes.
    pub(crate) length: usize,
    /// When it had come whole.
    pub(crate) at: Instant,
    /// Whether the platform took in what was posted.
    pub(crate) taken_in: bool,
}

impl Call {
    /// A call that has just come.
    pub(super) fn new(head: Head, body: Vec<u8>, length: usize) -> Self {
        Self {
            route: Route::Take,
            job: String::new(),
            head,
            body,
            length,
            at: Instant::now(),
            taken_in: false,
        }
    }

    /// The body as JSON; null when it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]);
        let (route, head, length) = (self.route, &self.head, self.length);
        let taken_in = if self.taken_in { ", taken in" } else { "" };
        write!(
            formatter,
            "{route:?}{taken_in}: {} {} {:?}, {length} bytes {begin}",
            head.method, head.path, head.query
        )
    }
}

/// What became of a job.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ticket {
    /// How often it was handed out.
    pub(crate) handed_out: usize,
    /// When it was handed out last.
    pub(crate) handed_out_at: Option<Instant>,
    /// A result was taken in.
    pub(crate) done: bool,
    /// The worker was told so.
    pub(crate) told: bool,
    /// It was cancelled.
    pub(crate) cancelled: bool,
}

/// What the platform knows.
pub(crate) struct State {
    queue: VecDeque<Value>,
    pub(crate) tickets: BTreeMap<String, Ticket>,
    pub(super) to_stop: Vec<String>,
    pub(super) misdeeds: BTreeMap<Route, VecDeque<Misdeed>>,
    pub(super) calls: Vec<Call>,
    pub(super) violations: Vec<String>,
    pub(super) refused: Option<(usize, u16)>,
    pub(super) hold: Duration,
    pub(super) forgets: bool,
    /// Calls for jobs that are held now.
    pub(crate) held: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            tickets: BTreeMap::new(),
            to_stop: Vec::new(),
            misdeeds: BTreeMap::new(),
            calls: Vec::new(),
            violations: Vec::new(),
            refused: None,
            hold: Duration::from_secs(30),
            forgets: false,
            held: 0,
        }
    }
}

fn id_of(job: &Value) -> &str {
    job["id"].as_str().unwrap_or_default()
}

impl State {
    pub(super) fn enqueue(&mut self, job: Value) {
        let ticket = self.tickets.entry(id_of(&job).to_owned()).or_default();
        // The platform's own retry.
        if ticket.done || ticket.cancelled {
            *ticket = Ticket::default();
        }
        self.queue.push_back(job);
    }

    pub(super) fn cancel(&mut self, ids: &[&str]) {
        for id in ids {
            let queued = self.queue.len();
            self.queue.retain(|job| id_of(job) != *id);
            if queued == self.queue.len() {
                self.to_stop.push((*id).to_owned());
            }
            self.tickets.entry((*id).to_owned()).or_default().cancelled = true;
        }
    }

    /// Takes up to `count` jobs out of the queue.
    pub(super) fn hand_out(&mut self, count: usize) -> Vec<Value> {
        let count = count.min(self.queue.len());
        let jobs: Vec<Value> = self.queue.drain(..count).collect();
        for job in &jobs {
            let ticket = self.tickets.entry(id_of(job).to_owned()).or_default();
            ticket.handed_out += 1;
            ticket.handed_out_at = Some(Instant::now());
        }
        jobs
    }

    /// Puts jobs back that did not reach the worker.
    pub(super) fn take_back(&mut self, jobs: Vec<Value>) {
        for job in jobs.into_iter().rev() {
            let ticket = self.tickets.entry(id_of(&job).to_owned()).or_default();
            ticket.handed_out -= 1;
            ticket.handed_out_at = None;
            self.queue.push_front(job);
        }
    }

    pub(super) fn misdeed(&mut self, route: Route) -> Option<Misdeed> {
        self.misdeeds.get_mut(&route)?.pop_front()
    }

    pub(crate) fn ticket(&self, id: &str) -> Ticket {
        self.tickets.get(id).cloned().unwrap_or_default()
    }

    pub(crate) fn calls(&self, route: Route) -> impl DoubleEndedIterator<Item = &Call> {
        self.calls.iter().filter(move |call| call.route == route)
    }

    pub(crate) fn posts(&self, id: &str) -> impl DoubleEndedIterator<Item = &Call> {
        self.calls.iter().filter(move |call| call.job == id)
    }

    pub(crate) fn finals(&self, id: &str) -> impl DoubleEndedIterator<Item = &Call> {
        self.posts(id).filter(|call| call.route == Route::Done)
    }

    /// What is not as it should be when all is over.
    pub(super) fn wrong(&self) -> Vec<String> {
        let mut wrong = self.violations.clone();
        wrong.extend(self.queue.iter().map(|job| format!("{} is still queued", id_of(job))));
        for (id, ticket) in &self.tickets {
            if ticket.handed_out > 0 && !ticket.done && !ticket.cancelled {
                wrong.push(format!("{id} was handed out and is lost"));
            }
        }
        for (route, misdeeds) in &self.misdeeds {
            for misdeed in misdeeds {
                wrong.push(format!("nobody came to see {route:?} do this: {misdeed:?}"));
            }
        }
        wrong
    }
}

impl State {
    /// Jobs and calls, those that repeat themselves once.
    pub(super) fn told(&self) -> String {
        let mut told = format!("{:#?}\n", self.tickets);
        let (mut last, mut times) = (String::new(), 0);
        for call in self.calls.iter().map(|call| format!("{call:?}")).chain([String::new()]) {
            if call == last {
                times += 1;
                continue;
            }
            if times > 0 {
                let _ = writeln!(told, "{times} x {last}");
            }
            (last, times) = (call, 1);
        }
        told
    }
}

/// The state, and who waits for a change of it.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Shared {
    pub(super) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state, if there is something to be found; who waits is told only then.
    pub(super) fn find<T>(&self, find: impl FnOnce(&mut State) -> Option<T>) -> Option<T> {
        let found = find(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        if found.is_some() {
            self.changed.send_replace(());
        }
        found
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
        result
    }

    /// Tells of every change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}
