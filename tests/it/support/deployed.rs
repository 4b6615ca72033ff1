//! A worker as the platform runs it: the binary in a process of its own, with the platform's environment.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::Child;

use super::PATIENCE;
use super::binary::binary;
use super::platform::Platform;

/// The worker's process. It is killed when this is dropped.
pub(crate) struct Deployed {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Deployed {
    /// Starts the binary as an image starts it: without a command.
    pub(crate) fn start(platform: &Platform, data: &Path, more: &[(&str, &str)]) -> Self {
        Self::start_as(&[], platform, data, more)
    }

    /// Starts the binary with a command.
    pub(crate) fn start_as(command: &[&str], platform: &Platform, data: &Path, more: &[(&str, &str)]) -> Self {
        let mut vars = platform.vars();
        vars.insert("DATA_DIR".to_owned(), data.display().to_string());
        let more: BTreeMap<String, String> = more
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        vars.extend(more);
        let mut child = binary(&vars).args(command).spawn().expect("the binary runs");
        let log: Arc<Mutex<String>> = Arc::default();
        keep_lines(child.stdout.take().expect("piped"), Arc::clone(&log));
        keep_lines(child.stderr.take().expect("piped"), Arc::clone(&log));
        Self { child, log }
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it runs").cast_signed();
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    /// `kill -9`; it is gone when this returns.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// Whether the process runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Waits for its end.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(end) => end.expect("a child of ours").code(),
            Err(late) => panic!("it does not end ({late}):\n{}", self.log()),
        }
    }
}

fn keep_lines(from: impl AsyncRead + Unpin + Send + 'static, log: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(from).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&line);
            log.push('\n');
        }
    });
}
