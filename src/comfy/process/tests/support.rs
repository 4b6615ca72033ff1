//! The stand-in for ComfyUI, and what the tests ask about processes and logs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::comfy::process::{ComfyProcess, Connection, Launch, ProcessOptions};
use crate::net::retry::RetryPolicy;

pub(super) const SERVE: &str = "serve()";

/// Far more than anything here takes; only a test that fails waits for it.
pub(super) const DEADLINE: Duration = Duration::from_mins(1);

/// A folder with a `main.py` that follows `plan`.
pub(super) struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    pub(super) fn new(plan: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("main.py"), include_str!("fake_main.py")).unwrap();
        std::fs::write(folder.path().join("plan.py"), plan).unwrap();
        Self { folder }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn launch(&self) -> Launch {
        launch(self.path())
    }

    pub(super) fn start(&self) -> ComfyProcess {
        ComfyProcess::start(self.launch(), options())
    }

    pub(super) fn starts(&self) -> usize {
        std::fs::read(self.path().join("starts")).map_or(0, |starts| starts.len())
    }

    pub(super) fn number(&self, name: &str) -> Option<u32> {
        std::fs::read_to_string(self.path().join(name)).ok()?.parse().ok()
    }
}

pub(super) fn launch(root: &Path) -> Launch {
    Launch::new(python(), root, root.join("run"))
}

pub(super) fn options() -> ProcessOptions {
    ProcessOptions {
        poll_interval: Duration::from_millis(10),
        stop_grace: DEADLINE,
        crash_limit: 3,
        backoff: RetryPolicy {
            initial: Duration::from_millis(1),
            ..RetryPolicy::default()
        },
        ..ProcessOptions::default()
    }
}

/// The interpreter itself: what `python3` names may be a slow script around it.
fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let output = Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .output()
            .unwrap();
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    };
    PYTHON.get_or_init(find).clone()
}

pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("not within the deadline")
}

/// Waits until `condition` holds.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .unwrap_or_else(|_| panic!("not within the deadline: {what}"));
}

pub(super) async fn get(endpoint: &Connection, path: &str) -> String {
    let address = endpoint.client.base().authority();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    // A process that exits resets the connection.
    let _ = stream.read_to_string(&mut answer).await;
    answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default()
}

/// Whether any process of the group is alive. A dead one that nobody has waited for yet does not count.
pub(super) fn group_lives(group: u32) -> bool {
    if !cfg!(target_os = "linux") {
        let group = nix::unistd::Pid::from_raw(i32::try_from(group).unwrap());
        return nix::sys::signal::killpg(group, None).is_ok();
    }
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok())
        .any(|stat| {
            // `PID (NAME) STATE PARENT GROUP …`
            let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
            fields.next() != Some("Z") && fields.nth(1) == Some(&group.to_string())
        })
}

/// Who gets SIGKILL is dead a moment later, not at once.
pub(super) async fn gone(group: u32) {
    until("nothing of the group is left", || !group_lives(group)).await;
}

/// Collects what ComfyUI and the supervisor log.
#[derive(Clone, Default)]
pub(super) struct Log {
    events: Arc<Mutex<Vec<(tracing::Level, String)>>>,
    /// Held by a test to make the log hang.
    pub(super) gate: Arc<Mutex<()>>,
}

impl Log {
    /// A log of all that this test's thread, and the log threads it starts, write as long as the guard lives.
    pub(super) fn listen() -> (Self, impl Sized) {
        let log = Self::default();
        // With a single subscriber alive, `tracing` asks that of the thread which comes to a place first whether anybody
        // is interested in it: another test's thread has none, and its answer would hold for ours. With two it asks all.
        let second = tracing::Dispatch::new(tracing_subscriber::registry());
        let guard = tracing_subscriber::registry().with(log.clone()).set_default();
        (log, (guard, second))
    }

    pub(super) fn has(&self, level: tracing::Level, text: &str) -> bool {
        let events = self.events.lock().unwrap();
        events.iter().any(|(of, message)| *of == level && message == text)
    }

    pub(super) fn contains(&self, text: &str) -> bool {
        self.events
            .lock()
            .unwrap()
            .iter()
            .any(|(_, message)| message.contains(text))
    }
}

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        if event.metadata().target() == "comfyui" {
            drop(self.gate.lock().unwrap());
        }
        self.events.lock().unwrap().push((*event.metadata().level(), message.0));
    }
}
