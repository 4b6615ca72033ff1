//! Passes what ComfyUI tells of a prompt on to the clients of its own API, whose websockets are ours.
//!
//! ComfyUI sends a prompt's events to one websocket, which is the executor's ([`super::socket`]). A client listens here under
//! its own `clientId`, and gets the frames as they came.

mod both;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;

pub use both::Running;

/// Frames that may wait for one client. One that takes nothing for so long is ended.
const MOST_WAITING: usize = 1_024;

/// A frame of ComfyUI's websocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// JSON: `{"type", "data"}`.
    Text(Utf8Bytes),
    /// A picture or a text of a node, after a number that says which.
    Binary(Bytes),
}

/// Who listens: two clients may have chosen the same id, under different keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Listener {
    /// The mark of the key that let it in; [`None`]: none was asked for.
    pub key: Option<String>,
    /// The `clientId` of its websocket.
    pub client_id: String,
}

/// Passes frames on. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Relay(Arc<Mutex<Ears>>);

#[derive(Debug, Default)]
struct Ears {
    next: u64,
    open: HashMap<u64, (Listener, mpsc::Sender<Frame>)>,
    both: both::Both,
}

/// One open websocket's end of the relay; dropped, it hears no more.
#[derive(Debug)]
pub struct Ear {
    relay: Relay,
    number: u64,
    frames: mpsc::Receiver<Frame>,
}

impl Relay {
    /// Listens from now on.
    pub fn listen(&self, who: Listener) -> Ear {
        let (sender, frames) = mpsc::channel(MOST_WAITING);
        let mut ears = self.0.lock();
        ears.next += 1;
        let number = ears.next;
        ears.open.insert(number, (who, sender));
        Ear {
            relay: self.clone(),
            number,
            frames,
        }
    }

    /// Tells those who listen under this name. Never waits.
    pub fn tell(&self, who: &Listener, frame: &Frame) {
        self.tell_those(frame, |listener| listener == who);
    }

    /// Tells everybody. Never waits.
    pub fn tell_all(&self, frame: &Frame) {
        self.tell_those(frame, |_| true);
    }

    fn tell_those(&self, frame: &Frame, wanted: impl Fn(&Listener) -> bool) {
        // One that is full is ended by what closes its channel.
        self.0
            .lock()
            .open
            .retain(|_, (listener, sender)| !wanted(listener) || sender.try_send(frame.clone()).is_ok());
    }
}

impl Ear {
    /// The next frame; [`None`]: it did not keep up, and is ended.
    pub async fn next(&mut self) -> Option<Frame> {
        self.frames.recv().await
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.relay.0.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(key: Option<&str>, client_id: &str) -> Listener {
        Listener {
            key: key.map(str::to_owned),
            client_id: client_id.to_owned(),
        }
    }

    #[tokio::test]
    async fn each_hears_what_is_its_own_and_who_does_not_keep_up_is_ended() {
        let relay = Relay::default();
        let (a, b) = (listener(None, "a"), listener(Some("k"), "a"));
        let (mut ear_a, mut ear_b) = (relay.listen(a.clone()), relay.listen(b));
        let (own, all) = (Frame::Text("own".into()), Frame::Text("all".into()));
        relay.tell(&a, &own);
        relay.tell_all(&all);
        assert_eq!(
            (ear_a.next().await, ear_b.next().await),
            (Some(own.clone()), Some(all.clone()))
        );
        assert_eq!(ear_a.next().await, Some(all));
        for _ in 0..=MOST_WAITING {
            relay.tell(&a, &own);
        }
        for _ in 0..MOST_WAITING {
            assert_eq!(ear_a.next().await, Some(own.clone()));
        }
        assert_eq!(ear_a.next().await, None);
        drop((ear_a, ear_b));
        assert!(relay.0.lock().open.is_empty());
    }
}
