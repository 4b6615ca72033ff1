//! What ComfyUI writes becomes events of our log, and a ring of last lines for error messages.
//!
//! ```text
//!                                ┌─► NodeLog (what is said of custom nodes)
//! stdout ─► reader ─┐            ├─► Ring (last lines)
//!                   ├─► Output ──┤
//! stderr ─► reader ─┘            └─► bounded channel ─► thread "comfyui-log" ─► tracing
//! ```
//!
//! A reader never waits for the log. If the log is slower than ComfyUI writes, lines are left out of it and counted;
//! the child goes on, and the ring has them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::sync::{oneshot, watch};
use tracing::Level;

use super::log_line::{LevelTracker, read_lines};
use super::node_log::NodeLog;

/// Lines that wait for a slow log.
const WAITING_LINES: usize = 2048;

/// Lines kept for error messages.
const LAST_LINES: usize = 60;

/// How long the end of the log is waited for.
const FLUSH_TIME: Duration = Duration::from_millis(500);

/// The last lines of the process that runs, or ran last. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Ring(watch::Sender<VecDeque<String>>);

impl Ring {
    fn push(&self, line: String) {
        self.0.send_modify(|lines| {
            if lines.len() == LAST_LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        });
    }

    /// Forgets the lines of the process before.
    pub(super) fn clear(&self) {
        self.0.send_modify(VecDeque::clear);
    }

    /// The lines, oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.borrow().iter().cloned().collect()
    }

    pub(super) fn last(&self) -> Option<String> {
        self.0.borrow().back().cloned()
    }

    /// Resolves when one of the lines holds `text`.
    pub(super) async fn holds(&self, text: &str) {
        let mut lines = self.0.subscribe();
        // It cannot fail: the sender is here.
        let _ = lines
            .wait_for(|lines| lines.iter().any(|line| line.contains(text)))
            .await;
    }
}

/// A line with its level, and the generation that wrote it.
type Event = (u64, Level, String);

/// Where the readers bring their lines.
#[derive(Debug, Clone)]
pub(super) struct Output {
    ring: Ring,
    nodes: NodeLog,
    events: SyncSender<Event>,
    dropped: Arc<AtomicU64>,
}

/// The end of the log thread, to be waited for.
#[derive(Debug)]
pub(super) struct LogEnd(oneshot::Receiver<()>);

impl LogEnd {
    /// Waits, for a moment, until all lines are in the log. Drop every [`Output`] before.
    pub(super) async fn flushed(self) {
        // Nothing is ever sent: the thread drops its end. A log that hangs must not hang us.
        let _ = tokio::time::timeout(FLUSH_TIME, self.0).await;
    }
}

impl Output {
    /// Starts the log thread; it ends when the last clone is gone. Its events go to the caller's subscriber.
    pub(super) fn start(ring: Ring, nodes: NodeLog) -> (Self, LogEnd) {
        let (events, lines) = sync_channel(WAITING_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let (ended, end) = oneshot::channel();
        let counter = Arc::clone(&dropped);
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        let thread = std::thread::Builder::new().name("comfyui-log".to_owned());
        let started = thread.spawn(move || {
            let _ended = ended;
            tracing::dispatcher::with_default(&dispatch, || log(&lines, &counter));
        });
        if let Err(error) = started {
            tracing::error!(%error, "Cannot start the log thread: ComfyUI's output will not be in the log");
        }
        let output = Self {
            ring,
            nodes,
            events,
            dropped,
        };
        (output, LogEnd(end))
    }

    fn line(&self, generation: u64, level: Level, text: &str) {
        if text.is_empty() {
            return;
        }
        self.nodes.line(generation, text, || self.ring.last());
        self.ring.push(text.to_owned());
        if self.events.try_send((generation, level, text.to_owned())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads one stream of the process to its end.
    pub(super) async fn read(self, stream: impl AsyncRead + Unpin, generation: u64) {
        let mut levels = LevelTracker::default();
        let read = read_lines(stream, |line| {
            let (level, text) = levels.classify(&line);
            self.line(generation, level, text);
        });
        if let Err(error) = read.await {
            tracing::warn!(%error, "Cannot read ComfyUI's output any more");
        }
    }
}

/// The log thread.
fn log(lines: &Receiver<Event>, dropped: &AtomicU64) {
    for (generation, level, text) in lines {
        let left_out = dropped.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            tracing::warn!(target: "comfyui", lines = left_out, "{left_out} lines left out: the log is too slow");
        }
        // The level of an event is fixed where it is written.
        match level {
            Level::ERROR => tracing::error!(target: "comfyui", generation, "{text}"),
            Level::WARN => tracing::warn!(target: "comfyui", generation, "{text}"),
            Level::INFO => tracing::info!(target: "comfyui", generation, "{text}"),
            _ => tracing::debug!(target: "comfyui", generation, "{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_ring_keeps_the_last_lines_in_order() {
        let ring = Ring::default();
        let (output, end) = Output::start(ring.clone(), NodeLog::default());
        let lines: Vec<String> = (0..200).map(|n| format!("[INFO] line {n}\n")).collect();
        output.read(lines.join("\n").as_bytes(), 1).await;
        end.flushed().await;
        let lines = ring.lines();
        assert_eq!(lines.len(), LAST_LINES);
        assert_eq!(lines[0], "line 140");
        assert_eq!(ring.last().as_deref(), Some("line 199"));
    }
}
