//! RunPod's public API of one endpoint on a real socket, as it is to those who send jobs there: `/v2/ep`.
//!
//! Routes, answers and limits are those of RunPod's documentation. Its jobs are done by a worker behind the stand-in platform
//! ([`RunpodApi::before`]), or end as a test says ([`RunpodApi::scripted`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::platform::{Call as PlatformCall, Platform, Route as PlatformRoute};
use super::scripted::{Reply, Words, serving};
use super::until;
use super::wire::{Connection, Head};

/// The key that each call must bring.
pub(crate) const API_KEY: &str = "rpa_THE-KEY-OF-AN-ACCOUNT";
/// The longest body of `/run`, and the longest result that is kept, in bytes.
pub(crate) const LARGEST: usize = 10_000_000;

/// The API of an endpoint.
pub(crate) struct RunpodApi {
    pub(crate) url: String,
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Run,
    Status,
    Stream,
    Cancel,
    Health,
}

/// A call that came.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) route: Route,
    /// The job in its path; empty for none.
    pub(crate) job: String,
    pub(crate) body: Vec<u8>,
}

/// What becomes of a job.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// The worker behind the platform does it.
    Behind,
    InQueue,
    InProgress,
    /// With this as its output; one that is too large is not kept.
    Completed(Value),
    /// With this as its error.
    Failed(&'static str),
    TimedOut,
    Cancelled,
    /// Its status is told in these words, whatever they are.
    Says(Words),
}

struct Job {
    fate: Fate,
    /// How much of its stream was handed out.
    streamed: usize,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    jobs: BTreeMap<String, Job>,
    /// In the order in which they were taken.
    taken: Vec<String>,
    runs: VecDeque<Reply>,
    polls: VecDeque<Reply>,
    cancels: VecDeque<Reply>,
    healths: VecDeque<Reply>,
    /// What `/health` says of them.
    workers: Value,
    most_at_once: usize,
    violations: Vec<String>,
}

struct Shared {
    state: Mutex<State>,
    /// What becomes of a job as long as nobody says otherwise.
    usual: Fate,
    platform: Option<Arc<Platform>>,
}

impl RunpodApi {
    /// An endpoint whose jobs go to the worker of a platform.
    pub(crate) async fn before(platform: &Arc<Platform>) -> Self {
        platform.refuse_over(LARGEST, 400);
        Self::start(Fate::Behind, Some(Arc::clone(platform))).await
    }

    /// An endpoint whose jobs end so.
    pub(crate) async fn scripted(usual: Fate) -> Self {
        Self::start(usual, None).await
    }

    async fn start(usual: Fate, platform: Option<Arc<Platform>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/v2/ep", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                workers: json!({"idle": 1, "initializing": 0, "ready": 1, "running": 1, "throttled": 0, "unhealthy": 0}),
                ..State::default()
            }),
            usual,
            platform,
        });
        let answering = Arc::clone(&shared);
        let serving = serving(listener, move |connection, head| {
            let shared = Arc::clone(&answering);
            async move { shared.answer(connection, head).await }
        });
        Self {
            url,
            shared,
            _serving: serving,
        }
    }

    /// The next calls of `/run` are answered so, one after the other.
    pub(crate) fn answers_runs(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.state.lock().runs.extend(replies);
    }

    /// The next calls of `/status` are answered so, one after the other.
    pub(crate) fn answers_polls(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.state.lock().polls.extend(replies);
    }

    /// The next calls of `/cancel` are answered so, one after the other.
    pub(crate) fn answers_cancels(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.state.lock().cancels.extend(replies);
    }

    /// The next calls of `/health` are answered so, one after the other.
    pub(crate) fn answers_healths(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.state.lock().healths.extend(replies);
    }

    /// The workers that the endpoint has from now on, as `/health` counts them.
    pub(crate) fn has_workers(&self, workers: Value) {
        self.shared.state.lock().workers = workers;
    }

    /// What becomes of a job from now on.
    pub(crate) fn becomes(&self, id: &str, fate: Fate) {
        self.shared.state.lock().jobs.get_mut(id).expect("a job of ours").fate = fate;
    }

    /// The jobs that were taken, which somebody pays for.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.shared.state.lock().taken.clone()
    }

    /// Waits until so many jobs were taken; gives the last one of them.
    pub(crate) async fn has_taken(&self, count: usize) -> String {
        until("the endpoint has taken the job", async || self.taken().len() >= count).await;
        self.taken()[count - 1].clone()
    }

    /// Every call of a route, in the order in which they came.
    pub(crate) fn calls(&self, route: Route) -> Vec<Call> {
        let state = self.shared.state.lock();
        let calls = state.calls.iter().filter(|call| call.route == route);
        calls.cloned().collect()
    }

    /// How often a route was called.
    pub(crate) fn count(&self, route: Route) -> usize {
        self.calls(route).len()
    }

    /// The most jobs that were there at the same time without being over.
    pub(crate) fn most_at_once(&self) -> usize {
        self.shared.state.lock().most_at_once
    }

    /// Nothing was asked that the API does not know, and nothing is left of what a test had planned.
    #[track_caller]
    pub(crate) fn settled(&self) {
        let state = self.shared.state.lock();
        let wrong = &state.violations;
        assert!(wrong.is_empty(), "{wrong:#?}");
        let planned = [&state.runs, &state.polls, &state.cancels, &state.healths];
        let left: Vec<&Reply> = planned.into_iter().flatten().collect();
        assert!(left.is_empty(), "nobody came to see {left:?}");
    }
}

impl Call {
    /// The body as JSON; null when it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether a node of the graph that was sent has this seed, by which a test knows its job.
    pub(crate) fn has_seed(&self, seed: u32) -> bool {
        let body = self.json();
        let nodes = body["input"]["workflow"].as_object().into_iter().flatten();
        nodes
            .map(|(_, node)| &node["inputs"]["seed"])
            .any(|found| *found == seed)
    }
}

impl Fate {
    fn is_final(&self) -> bool {
        !matches!(self, Self::Behind | Self::InQueue | Self::InProgress)
    }
}

fn error(status: u16, words: &str) -> Words {
    Words::json(status, &json!({"error": words}))
}

impl Shared {
    /// Answers one call; gives the connection back if it may bring another.
    async fn answer(&self, mut connection: Connection, head: Head) -> Option<Connection> {
        let parts: Vec<&str> = head.path.split('/').skip(1).collect();
        let (route, method, job) = match parts[..] {
            ["v2", "ep", "run"] => (Route::Run, "POST", ""),
            ["v2", "ep", "status", job] => (Route::Status, "GET", job),
            ["v2", "ep", "stream", job] => (Route::Stream, "GET", job),
            ["v2", "ep", "cancel", job] => (Route::Cancel, "POST", job),
            ["v2", "ep", "health"] => (Route::Health, "GET", ""),
            // What a worker of ours is asked, as which an endpoint may stand in a list: there is no such route.
            ["object_info" | "node_replacements"] => {
                return Reply::Well.give(connection, &error(404, "not found")).await;
            }
            _ => (Route::Health, "", ""),
        };
        let length = head.length();
        if head.method != method || length.is_none() {
            let what = format!("{} {} ({length:?} bytes) is not of this API", head.method, head.path);
            self.state.lock().violations.push(what);
            connection.body(length.unwrap_or_default()).await.ok()?;
            return Reply::Well.give(connection, &error(404, "not found")).await;
        }
        let length = length.unwrap_or_default();
        let planned = self.planned(route);
        let unread = matches!(planned, Reply::Unread);
        let too_large = route == Route::Run && length > LARGEST;
        let mut call = Call {
            route,
            job: job.to_owned(),
            body: Vec::new(),
        };
        if !unread && !too_large {
            call.body = connection.body(length).await.ok()?;
        }
        let body = call.json();
        self.state.lock().calls.push(call);
        if too_large {
            connection.refuse(413, length).await;
            return None;
        }
        let well = if unread || planned.words().is_some() {
            Words::json(200, &Value::Null)
        } else if head.header("authorization") != format!("Bearer {API_KEY}") {
            error(401, "unauthorized")
        } else {
            match route {
                Route::Run => self.run(&body),
                Route::Status => self.status(job).await,
                Route::Stream => self.stream(job).await,
                Route::Cancel => self.cancel(job).await,
                Route::Health => self.health(),
            }
        };
        planned.give(connection, &well).await
    }

    /// How the next call of a route is to be answered.
    fn planned(&self, route: Route) -> Reply {
        let mut state = self.state.lock();
        let planned = match route {
            Route::Run => state.runs.pop_front(),
            Route::Status => state.polls.pop_front(),
            Route::Cancel => state.cancels.pop_front(),
            Route::Health => state.healths.pop_front(),
            Route::Stream => None,
        };
        planned.unwrap_or(Reply::Well)
    }

    fn run(&self, body: &Value) -> Words {
        if !body["input"].is_object() {
            return error(400, "the body holds no input");
        }
        let id = format!("{}-u1", uuid::Uuid::new_v4());
        let job = Job {
            fate: self.usual.clone(),
            streamed: 0,
        };
        let mut state = self.state.lock();
        state.jobs.insert(id.clone(), job);
        state.taken.push(id.clone());
        let now = state.jobs.values().filter(|job| !job.fate.is_final()).count();
        state.most_at_once = state.most_at_once.max(now);
        drop(state);
        if let Some(platform) = &self.platform {
            platform.queue(&id, &body["input"]);
        }
        Words::json(200, &json!({"id": id, "status": "IN_QUEUE"}))
    }

    fn fate(&self, id: &str) -> Option<Fate> {
        self.state.lock().jobs.get(id).map(|job| job.fate.clone())
    }

    async fn status(&self, id: &str) -> Words {
        match self.fate(id) {
            None => error(404, "job not found"),
            Some(Fate::Says(words)) => words,
            Some(fate) => Words::json(200, &self.told(id, &fate).await),
        }
    }

    async fn told(&self, id: &str, fate: &Fate) -> Value {
        let (status, more) = match fate {
            Fate::Behind => return self.told_by_the_platform(id).await,
            Fate::InQueue | Fate::Says(_) => ("IN_QUEUE", json!({})),
            Fate::InProgress => ("IN_PROGRESS", json!({"delayTime": 20, "workerId": "w"})),
            Fate::Completed(output) if output.to_string().len() > LARGEST => ("COMPLETED", json!({"executionTime": 9})),
            Fate::Completed(output) => ("COMPLETED", json!({"executionTime": 9, "output": output})),
            Fate::Failed(error) => ("FAILED", json!({"executionTime": 9, "error": error})),
            Fate::TimedOut => ("TIMED_OUT", json!({"executionTime": 9})),
            Fate::Cancelled => ("CANCELLED", json!({})),
        };
        described(id, status, more)
    }

    async fn told_by_the_platform(&self, id: &str) -> Value {
        let platform = self.platform.as_ref().expect("a platform");
        let ticket = platform.until("a look", |state| Some(state.ticket(id))).await;
        if ticket.done {
            let finals = platform.finals(id);
            let result = finals
                .iter()
                .rfind(|call| call.taken_in)
                .map_or(Value::Null, PlatformCall::json);
            return match &result["error"] {
                Value::Null => described(id, "COMPLETED", json!({"output": result["output"]})),
                error => described(id, "FAILED", json!({"error": error})),
            };
        }
        if ticket.cancelled {
            return described(id, "CANCELLED", json!({}));
        }
        if ticket.handed_out == 0 {
            return described(id, "IN_QUEUE", json!({}));
        }
        // RunPod shows what the worker has told last.
        let posts = platform.posts(id);
        let progress = posts.iter().rfind(|call| call.route == PlatformRoute::Progress);
        let progress = progress.map_or(Value::Null, |call| call.json()["output"].clone());
        described(id, "IN_PROGRESS", json!({"output": progress, "delayTime": 20}))
    }

    /// Each chunk is handed out once.
    async fn stream(&self, id: &str) -> Words {
        let Some(fate) = self.fate(id) else {
            return error(404, "job not found");
        };
        let status = self.told(id, &fate).await["status"].clone();
        let posts = self.platform.as_ref().map(|platform| platform.posts(id));
        let posts = posts.into_iter().flatten();
        let chunks: Vec<Value> = posts
            .filter(|call| call.route == PlatformRoute::Stream)
            .map(|call| json!({"output": call.json()["output"]}))
            .collect();
        let mut state = self.state.lock();
        let job = state.jobs.get_mut(id).expect("it is known");
        let new = &chunks[job.streamed.min(chunks.len())..];
        job.streamed = chunks.len();
        Words::json(200, &json!({"status": status, "stream": new}))
    }

    async fn cancel(&self, id: &str) -> Words {
        let Some(fate) = self.fate(id) else {
            return error(404, "job not found");
        };
        let before = self.told(id, &fate).await["status"].clone();
        if before != "IN_QUEUE" && before != "IN_PROGRESS" {
            return Words::json(200, &json!({"id": id, "status": before}));
        }
        if let Some(platform) = &self.platform {
            platform.cancel(&[id]);
        } else {
            self.state.lock().jobs.get_mut(id).expect("it is known").fate = Fate::Cancelled;
        }
        Words::json(200, &json!({"id": id, "status": "CANCELLED"}))
    }

    fn health(&self) -> Words {
        let state = self.state.lock();
        let live = state.jobs.values().filter(|job| !job.fate.is_final()).count();
        let jobs = json!({"completed": 0, "failed": 0, "inProgress": live, "inQueue": 0, "retried": 0});
        Words::json(200, &json!({"jobs": jobs, "workers": state.workers}))
    }
}

fn described(id: &str, status: &str, mut more: Value) -> Value {
    more["id"] = json!(id);
    more["status"] = json!(status);
    if more["output"].is_null() {
        more.as_object_mut().expect("an object").remove("output");
    }
    more
}
