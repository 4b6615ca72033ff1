//! One process and everything that belongs to it: its group, its standard input, the readers of its output; and the question
//! whether it answers yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use process_wrap::tokio::ChildWrapper;
use serde_json::Value;
use tokio::process::ChildStdin;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::command::{Launch, value};
use super::error::ProcessError;
use super::flags::Flags;
use super::hook;
use super::output::{Output, Ring};
use crate::comfy::client::ComfyClient;
use crate::comfy::memory::MemoryLimit;

/// How long we wait for what follows SIGKILL. Only a process that hangs in the kernel, such as on a dead network
/// volume, takes longer; we go on without it.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// What ComfyUI says when SIGINT has ended its server (`main.py`). What follows is the end of Python with PyTorch in it,
/// which takes seconds and does nothing for us.
const STOPPED: &str = "Stopped server";
/// The time left to ComfyUI after that, for the threads and files it still tidies up.
const AFTER_STOPPED: Duration = Duration::from_millis(150);

/// How long one answer may take. On a busy machine the first one takes a second; another program may take our connection
/// and say nothing.
const ANSWER_TIME: Duration = Duration::from_secs(10);

pub(super) struct Child {
    process: Box<dyn ChildWrapper>,
    pid: u32,
    /// The watchdog kills the group when this is closed.
    _lifeline: Option<ChildStdin>,
    readers: JoinSet<()>,
}

/// What the start hook is told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The memory limit that ComfyUI is to know.
    pub(super) memory: Option<MemoryLimit>,
    /// Packs of custom nodes that are not imported, each with the reason.
    pub(super) left_out: BTreeMap<PathBuf, String>,
}

impl Child {
    /// Spawns ComfyUI on `port`.
    pub(super) fn spawn(
        (launch, flags): (&Launch, &Flags),
        port: u16,
        output: &Output,
        generation: u64,
        told: &Told,
    ) -> Result<Self, ProcessError> {
        std::fs::create_dir_all(&launch.run_dir).map_err(|source| ProcessError::RunDirectory {
            path: launch.run_dir.clone(),
            source: Arc::new(source),
        })?;
        let hook = hook::write(
            &launch.run_dir,
            told.memory.as_ref(),
            &told.left_out,
            !launch.wants_no_metadata(),
            launch.mark.as_deref(),
        );
        let hook = hook.inspect_err(|error| {
            tracing::warn!(
                %error,
                "ComfyUI is started without the worker's start hook: it does not know the container's memory limit, and \
                 a custom node that ends it cannot be named"
            );
        });
        let spawned = launch.command(port, flags, hook.ok().as_deref()).spawn();
        let mut process = spawned.map_err(|source| ProcessError::Spawn {
            python: launch.python.clone(),
            source: Arc::new(source),
        })?;
        let mut readers = JoinSet::new();
        if let Some(stdout) = process.stdout().take() {
            readers.spawn(output.clone().read(stdout, generation));
        }
        if let Some(stderr) = process.stderr().take() {
            readers.spawn(output.clone().read(stderr, generation));
        }
        Ok(Self {
            pid: process.id().unwrap_or_default(),
            _lifeline: process.stdin().take(),
            process,
            readers,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the end of ComfyUI itself, not of its group: the watchdog outlives it. (The wrapper's own `wait` would,
    /// where we are process 1 and inherit the watchdog, wait for that too.)
    pub(super) async fn ended(&mut self) -> Option<ExitStatus> {
        match self.process.inner_mut().wait().await {
            Ok(status) => Some(status),
            Err(error) => {
                tracing::warn!(%error, comfyui.pid = self.pid, "Cannot learn how ComfyUI ended");
                None
            }
        }
    }

    /// SIGINT, the grace, SIGKILL. Once ComfyUI has said that it stopped, little more is waited for.
    pub(super) async fn stop(&mut self, grace: Duration, ring: &Ring) {
        self.signal(Signal::SIGINT);
        let stopped = async {
            ring.holds(STOPPED).await;
            tokio::time::sleep(AFTER_STOPPED).await;
        };
        tokio::select! {
            _ = self.ended() => return,
            () = stopped => {
                self.signal(Signal::SIGKILL);
                let _ = timeout(AFTER_KILL, self.ended()).await;
                return;
            }
            () = tokio::time::sleep(grace) => {}
        }
        tracing::warn!(
            comfyui.pid = self.pid,
            grace_ms = grace.as_millis(),
            "ComfyUI does not stop on SIGINT: killing it"
        );
        self.signal(Signal::SIGKILL);
        if timeout(AFTER_KILL, self.ended()).await.is_err() {
            tracing::error!(
                comfyui.pid = self.pid,
                "ComfyUI hangs in the kernel and cannot be killed"
            );
        }
    }

    /// Kills what is left of the group, which is at least the watchdog, and reads the output to its end.
    pub(super) async fn clear_away(mut self) {
        self.signal(Signal::SIGKILL);
        // Takes the dead of the group off the process table, where they are our children.
        let _ = timeout(AFTER_KILL, self.process.wait()).await;
        // A process that left the group may hold the output open; the rest is not waited for then.
        let read = async { while self.readers.join_next().await.is_some() {} };
        let _ = timeout(Duration::from_secs(1), read).await;
    }

    /// To the whole group. That there is none any more is no error.
    fn signal(&self, signal: Signal) {
        let _ = self.process.signal(signal as i32);
    }
}

/// What a ComfyUI that is starting is asked, many times a second for many seconds.
pub(super) struct Question {
    pub(super) port: u16,
    pub(super) client: ComfyClient,
    temp_dir: PathBuf,
}

impl Question {
    /// For the ComfyUI of `launch`, which was told to listen on `port`.
    pub(super) fn new(port: u16, launch: &Launch) -> Result<Self, ProcessError> {
        let client = ComfyClient::at(&format!("http://127.0.0.1:{port}"));
        Ok(Self {
            port,
            client: client.map_err(|source| ProcessError::NoClient(source.into()))?,
            temp_dir: launch.temp_dir(),
        })
    }

    /// Whether it answers. Everything else, such as a refused connection, is no.
    pub(super) async fn is_answered(&self) -> bool {
        let answer = tokio::time::timeout(ANSWER_TIME, self.client.system_stats()).await;
        matches!(answer, Ok(Ok(stats)) if !belongs_to_another(&stats, &self.temp_dir))
    }
}

/// Whether this is the ComfyUI of another worker, which took the port between our choosing it and our ComfyUI's
/// listening on it. `/system_stats` tells its arguments, and the folder for temporary files is each one's own.
/// Older versions, and custom nodes that empty `sys.argv`, tell nothing: that is ours then.
fn belongs_to_another(stats: &Value, temp_dir: &Path) -> bool {
    let arguments = stats.pointer("/system/argv").and_then(Value::as_array);
    let arguments: Vec<&str> = arguments.into_iter().flatten().filter_map(Value::as_str).collect();
    value(&arguments, "--temp-directory")
        .map(Path::new)
        .is_some_and(|theirs| {
            // One that a user gives may be relative; it is then below the folder where both run.
            theirs != temp_dir && !(theirs.is_relative() && temp_dir.ends_with(theirs))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tells_our_own_process_from_another_workers() {
        let is_ours = |arguments: &[&str]| {
            let stats = json!({"system": {"argv": arguments}});
            !belongs_to_another(&stats, Path::new("/run/ours"))
        };
        assert!(!belongs_to_another(&json!({}), Path::new("/run/ours")));
        for ours in [
            &[][..],
            &["--temp-directory", "/run/ours"],
            &["--temp-directory=/run/ours"],
            &["--temp-dir=/run/ours"],
            &["--temp-directory=ours"],
        ] {
            assert!(is_ours(ours), "{ours:?}");
        }
        assert!(!is_ours(&["--temp-directory", "/run/theirs"]));
        assert!(!is_ours(&["--temp-directory=/run/theirs"]));
    }
}
