//! RunPod's serverless platform as a worker sees it, on a real socket: it hands jobs out, takes results in, and does
//! wrong what it is told to do wrong.
//!
//! The protocol is that of RunPod's Python package, `runpod` 1.12.0 (`serverless/modules/`: `rp_job.py`, `rp_scale.py`,
//! `rp_http.py`, `rp_ping.py`). Whatever a worker sends that this package would not send is kept as a violation.

mod routes;
mod state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};

use super::wire;
pub(crate) use state::{Call, Misdeed, Route, State};

/// The longest that a test waits before it counts as hanging.
const PATIENCE: Duration = Duration::from_mins(4);
/// The worker's id.
pub(crate) const POD: &str = "pod-1";
/// The key that each call must bring.
pub(crate) const KEY: &str = "rpa_THE-KEY-OF-THE-TESTS";

/// A platform with one endpoint, `ep`, and one worker, [`POD`].
pub(crate) struct Platform {
    address: SocketAddr,
    shared: Arc<state::Shared>,
    door: Mutex<Door>,
}

/// The port of the platform.
enum Door {
    /// Connections are accepted; they end with the task.
    Open(JoinHandle<()>),
    /// Connections are refused; the socket keeps the port from others.
    Shut(TcpSocket),
}

impl Platform {
    pub(crate) async fn start() -> Self {
        let socket = bound("127.0.0.1:0".parse().expect("an address"));
        let platform = Self {
            address: socket.local_addr().expect("an address"),
            shared: Arc::default(),
            door: Mutex::new(Door::Shut(socket)),
        };
        platform.come_up().await;
        platform
    }

    /// The environment that the platform gives to a worker.
    pub(crate) fn vars(&self) -> BTreeMap<String, String> {
        let base = format!("http://{}/v2/ep", self.address);
        let vars = [
            ("RUNPOD_WEBHOOK_GET_JOB", format!("{base}/job-take/$ID?gpu=x")),
            (
                "RUNPOD_WEBHOOK_POST_OUTPUT",
                format!("{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=x"),
            ),
            (
                "RUNPOD_WEBHOOK_POST_STREAM",
                format!("{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=x"),
            ),
            ("RUNPOD_WEBHOOK_PING", format!("{base}/ping/$RUNPOD_POD_ID")),
            ("RUNPOD_AI_API_KEY", KEY.to_owned()),
            ("RUNPOD_POD_ID", POD.to_owned()),
            ("RUNPOD_ENDPOINT_ID", "ep".to_owned()),
            ("RUNPOD_PING_INTERVAL", "1000".to_owned()),
        ];
        vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Queues a job.
    pub(crate) fn queue(&self, id: &str, input: &Value) {
        self.queue_as(&json!({"id": id, "input": input}));
    }

    /// Queues a job as it is to be handed out; its id may be one that was queued before.
    pub(crate) fn queue_as(&self, job: &Value) {
        self.shared.change(|state| state.enqueue(job.clone()));
    }

    /// Cancels jobs: those in flight by the stop channel, those in the queue by taking them out of it.
    pub(crate) fn cancel(&self, ids: &[&str]) {
        self.shared.change(|state| state.cancel(ids));
    }

    /// The next calls of a route go wrong, one for each misdeed. A call that a misdeed was meant for and that never
    /// came counts as a failure in [`Self::settled`].
    pub(crate) fn misbehave(&self, route: Route, misdeeds: impl IntoIterator<Item = Misdeed>) {
        self.shared
            .change(|state| state.misdeeds.entry(route).or_default().extend(misdeeds));
    }

    /// Refuses results of more bytes: with 413 before they were read, with another status after it.
    pub(crate) fn refuse_over(&self, bytes: usize, status: u16) {
        self.shared.change(|state| state.refused = Some((bytes, status)));
    }

    /// How long a call for jobs or stops is held when there is none.
    pub(crate) fn hold(&self, time: Duration) {
        self.shared.change(|state| state.hold = time);
    }

    /// Keeps of large results only their sizes, and does not look into them.
    pub(crate) fn forget_results(&self) {
        self.shared.change(|state| state.forgets = true);
    }

    /// Refuses connections and breaks those that are open.
    pub(crate) async fn go_down(&self) {
        let mut door = self.door.lock().await;
        if let Door::Open(serving) = &mut *door {
            serving.abort();
            let _ = serving.await;
            *door = Door::Shut(bound(self.address));
        }
    }

    /// Accepts connections again.
    pub(crate) async fn come_up(&self) {
        let mut door = self.door.lock().await;
        // The port is kept by an unused socket while it is exchanged.
        let open = Door::Shut(TcpSocket::new_v4().expect("a socket"));
        *door = match std::mem::replace(&mut *door, open) {
            Door::Shut(socket) => {
                let listener = socket.listen(128).expect("a port of its own");
                Door::Open(tokio::spawn(accept(listener, Arc::clone(&self.shared))))
            }
            already @ Door::Open(_) => already,
        };
    }

    /// Waits until `found` finds something; panics with all that happened when it does not.
    pub(crate) async fn until<T>(&self, what: &str, mut found: impl FnMut(&State) -> Option<T>) -> T {
        let mut changes = self.shared.changes();
        let waiting = async {
            loop {
                if let Some(thing) = self.shared.look(&mut found) {
                    return thing;
                }
                let _ = changes.changed().await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(thing) => thing,
            Err(late) => panic!("waited in vain ({late}): {what}\n{}", self.told()),
        }
    }

    /// Waits until a call for jobs is held.
    pub(crate) async fn is_asked_for_jobs(&self) {
        self.until("a call for jobs is held", |state| (state.held > 0).then_some(()))
            .await;
    }

    /// Waits until a job was handed out; gives when.
    pub(crate) async fn handed_out(&self, id: &str) -> Instant {
        self.until(&format!("{id} is handed out"), |state| state.ticket(id).handed_out_at)
            .await
    }

    /// Waits until a job's result was taken in and the worker told so; gives the result.
    pub(crate) async fn result(&self, id: &str) -> Value {
        self.until(&format!("{id} is done"), |state| {
            let told = state.ticket(id).told;
            told.then(|| state.finals(id).last().map_or(Value::Null, Call::json))
        })
        .await
    }

    /// Every post for a job, in the order in which they came.
    pub(crate) fn posts(&self, id: &str) -> Vec<Call> {
        self.shared.look(|state| state.posts(id).cloned().collect())
    }

    /// Every attempt to post a job's result, in the order in which they came.
    pub(crate) fn finals(&self, id: &str) -> Vec<Call> {
        self.shared.look(|state| state.finals(id).cloned().collect())
    }

    /// Every call of a route, in the order in which they came.
    pub(crate) fn calls(&self, route: Route) -> Vec<Call> {
        self.shared.look(|state| state.calls(route).cloned().collect())
    }

    /// Everything is as it should be at the end: no violation, no job lost or left over, no misdeed undone.
    #[track_caller]
    pub(crate) fn settled(&self) {
        let wrong = self.wrong();
        assert!(wrong.is_empty(), "{wrong:#?}\n{}", self.told());
    }

    /// What is not as it should be.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.shared.look(State::wrong)
    }

    /// What happened, for a person.
    pub(crate) fn told(&self) -> String {
        self.shared.look(State::told)
    }
}

/// A socket that has the address, and accepts nothing yet.
fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option of every socket");
    socket.bind(address).expect("a free port");
    socket
}

/// Serves connections, which end with it.
async fn accept(listener: TcpListener, shared: Arc<state::Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(routes::serve(wire::Connection::new(stream), Arc::clone(&shared)));
                }
            }
            Some(ended) = connections.join_next() => ended.expect("the platform itself does not fail"),
        }
    }
}
