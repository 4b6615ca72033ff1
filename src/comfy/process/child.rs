//! One process and everything that belongs to it: its group, its standard input, the readers of its output.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use process_wrap::tokio::ChildWrapper;
use tokio::process::ChildStdin;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::command::Launch;
use super::error::ProcessError;
use super::output::{Output, Ring};

/// How long we wait for what follows SIGKILL. Only a process that hangs in the kernel, such as on a dead network
/// volume, takes longer; we go on without it.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// What ComfyUI says when SIGINT has ended its server (`main.py`). What follows is the end of Python with PyTorch in it,
/// which takes seconds and does nothing for us.
const STOPPED: &str = "Stopped server";
/// The time left to ComfyUI after that, for the threads and files it still tidies up.
const AFTER_STOPPED: Duration = Duration::from_millis(150);

pub(super) struct Child {
    process: Box<dyn ChildWrapper>,
    pid: u32,
    /// The watchdog kills the group when this is closed.
    _lifeline: Option<ChildStdin>,
    readers: JoinSet<()>,
}

impl Child {
    /// Spawns ComfyUI on `port`.
    pub(super) fn spawn(launch: &Launch, port: u16, output: &Output, generation: u64) -> Result<Self, ProcessError> {
        std::fs::create_dir_all(&launch.run_dir).map_err(|source| ProcessError::RunDirectory {
            path: launch.run_dir.clone(),
            source: Arc::new(source),
        })?;
        let spawned = launch.command(port).spawn();
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
