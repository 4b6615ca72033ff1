//! What waits to be sent to one client: bounded, for one that does not read. Previews are left out first, since the next one
//! makes each old; then the client is given up.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Frame;

/// Frames that may wait.
const MOST_FRAMES: usize = 1_024;
/// Bytes that may wait, where there is more than one frame.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// The same of previews. One has some 70 kB.
const MOST_PREVIEW_BYTES: usize = 2 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    frames: Mutex<Frames>,
    news: Notify,
    lost: CancellationToken,
}

#[derive(Debug, Default)]
struct Frames {
    queue: VecDeque<Frame>,
    bytes: usize,
    preview_bytes: usize,
}

impl Frames {
    fn has_room(&self, more: usize) -> bool {
        self.queue.is_empty() || (self.queue.len() < MOST_FRAMES && self.bytes + more <= MOST_BYTES)
    }

    fn leave_previews_out(&mut self) {
        self.queue.retain(|frame| !frame.is_preview());
        self.bytes -= self.preview_bytes;
        self.preview_bytes = 0;
    }
}

impl Waiting {
    /// Adds a frame, unless the client is lost.
    pub(super) fn push(&self, frame: &Frame) {
        let mut frames = self.frames.lock();
        if self.lost.is_cancelled() {
            return;
        }
        let (length, is_preview) = (frame.length(), frame.is_preview());
        if !frames.has_room(length) || (is_preview && frames.preview_bytes + length > MOST_PREVIEW_BYTES) {
            frames.leave_previews_out();
        }
        if frames.has_room(length) {
            frames.queue.push_back(frame.clone());
            frames.bytes += length;
            frames.preview_bytes += if is_preview { length } else { 0 };
        } else if !is_preview {
            *frames = Frames::default();
            self.lost.cancel();
        }
        drop(frames);
        self.news.notify_one();
    }

    /// The next frame; [`None`]: it did not keep up.
    pub(super) async fn next(&self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            if self.lost.is_cancelled() {
                return None;
            }
            self.news.notified().await;
        }
    }

    fn take(&self) -> Option<Frame> {
        let mut frames = self.frames.lock();
        let Some(frame) = frames.queue.pop_front() else {
            // What many frames took is not kept for the few that come usually.
            frames.queue.shrink_to(8);
            return None;
        };
        frames.bytes -= frame.length();
        if frame.is_preview() {
            frames.preview_bytes -= frame.length();
        }
        Some(frame)
    }

    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preview(length: usize) -> Frame {
        Frame::Binary([&[0, 0, 0, 4][..], &vec![0; length - 4]].concat().into())
    }

    #[tokio::test]
    async fn previews_make_way_for_newer_ones_and_for_everything_else() {
        let waiting = Waiting::default();
        let text = Frame::Text("text".into());
        waiting.push(&text);
        for _ in 0..100 {
            waiting.push(&preview(1024 * 1024));
        }
        assert!(waiting.frames.lock().bytes <= MOST_PREVIEW_BYTES + 4);
        assert_eq!(waiting.next().await, Some(text.clone()));
        assert_eq!(waiting.next().await, Some(preview(1024 * 1024)));
        while waiting.take().is_some() {}
        for _ in 0..MOST_FRAMES {
            waiting.push(&preview(100));
        }
        waiting.push(&text);
        assert_eq!(waiting.next().await, Some(text));
        let frames = waiting.frames.lock();
        assert_eq!((frames.queue.len(), frames.bytes, frames.preview_bytes), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_lost_and_holds_no_memory() {
        let waiting = Waiting::default();
        for _ in 0..MOST_FRAMES {
            waiting.push(&Frame::Text("text".into()));
        }
        // There is no room for it, which ends nobody.
        waiting.push(&preview(100));
        assert!(!waiting.lost.is_cancelled());
        waiting.push(&Frame::Binary(vec![0, 0, 0, 3].into()));
        waiting.lost().await;
        waiting.push(&Frame::Text("text".into()));
        assert_eq!(waiting.next().await, None);
        assert_eq!(waiting.frames.lock().queue.capacity(), 0);
        // One large frame is taken, however large it is; a second is not.
        let waiting = Waiting::default();
        let large = Frame::Text("x".repeat(MOST_BYTES + 1).into());
        waiting.push(&large);
        assert_eq!(waiting.next().await, Some(large.clone()));
        waiting.push(&large);
        waiting.push(&large);
        assert_eq!(waiting.next().await, None);
    }
}
