//! Passes what ComfyUI tells of a prompt on to the clients of its own API, whose websockets are ours.
//!
//! ComfyUI sends a prompt's events to one websocket, which is the executor's ([`super::socket`]). A client listens here under
//! its own `clientId`, and gets the frames as they came. Two may listen under one id: both hear.

mod both;
mod turns;
mod waiting;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Utf8Bytes;

pub use both::Running;
use waiting::Waiting;

/// A frame of ComfyUI's websocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// JSON: `{"type", "data"}`.
    Text(Utf8Bytes),
    /// A picture or a text of a node, after a number that says which.
    Binary(Bytes),
}

impl Frame {
    /// Whether it is a picture of the work in progress, which the next one makes old.
    fn is_preview(&self) -> bool {
        matches!(self, Self::Binary(bytes) if matches!(bytes.first_chunk(), Some([0, 0, 0, 1 | 4])))
    }

    fn length(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
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
    open: HashMap<Listener, Vec<(u64, Arc<Waiting>)>>,
    /// How many there are.
    count: watch::Sender<usize>,
    both: both::Both,
    turns: turns::Turns,
}

/// One open websocket's end of the relay; dropped, it hears no more.
#[derive(Debug)]
pub struct Ear {
    relay: Relay,
    who: Listener,
    number: u64,
    waiting: Arc<Waiting>,
}

impl Relay {
    /// Listens from now on.
    pub fn listen(&self, who: Listener) -> Ear {
        let waiting = Arc::<Waiting>::default();
        let mut ears = self.0.lock();
        ears.next += 1;
        let number = ears.next;
        let same = ears.open.entry(who.clone()).or_default();
        same.push((number, Arc::clone(&waiting)));
        ears.count.send_modify(|count| *count += 1);
        Ear {
            relay: self.clone(),
            who,
            number,
            waiting,
        }
    }

    /// How many websockets listen.
    pub fn count(&self) -> watch::Receiver<usize> {
        self.0.lock().count.subscribe()
    }

    /// Whether anybody listens under this name.
    pub fn is_open(&self, who: &Listener) -> bool {
        self.0.lock().open.contains_key(who)
    }

    /// Tells those who listen under this name. Never waits.
    pub fn tell(&self, who: &Listener, frame: &Frame) {
        self.0.lock().tell(who, frame);
    }

    /// Tells everybody. Never waits.
    pub fn tell_all(&self, frame: &Frame) {
        self.tell_those(frame, |_| true);
    }

    fn tell_those(&self, frame: &Frame, wanted: impl Fn(&Listener) -> bool) {
        self.0.lock().tell_those(frame, wanted);
    }
}

impl Ears {
    fn tell(&self, who: &Listener, frame: &Frame) {
        for (_, waiting) in self.open.get(who).into_iter().flatten() {
            waiting.push(frame);
        }
    }

    fn tell_those(&self, frame: &Frame, wanted: impl Fn(&Listener) -> bool) {
        for (_, same) in self.open.iter().filter(|(who, _)| wanted(who)) {
            for (_, waiting) in same {
                waiting.push(frame);
            }
        }
    }
}

impl Ear {
    /// The next frame; [`None`]: it did not keep up, and is ended. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Frame> {
        self.waiting.next().await
    }

    /// Resolves when it did not keep up.
    pub async fn lost(&self) {
        self.waiting.lost().await;
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut ears = self.relay.0.lock();
        if let Some(same) = ears.open.get_mut(&self.who) {
            same.retain(|(number, _)| *number != self.number);
            if same.is_empty() {
                ears.open.remove(&self.who);
            }
        }
        ears.count.send_modify(|count| *count -= 1);
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
    async fn each_hears_what_is_its_own_and_two_of_one_name_hear_both() {
        let relay = Relay::default();
        let (a, b) = (listener(None, "a"), listener(Some("k"), "a"));
        let (mut ear, mut again) = (relay.listen(a.clone()), relay.listen(a.clone()));
        let mut other = relay.listen(b.clone());
        assert_eq!(*relay.count().borrow(), 3);
        let (own, all) = (Frame::Text("own".into()), Frame::Text("all".into()));
        relay.tell(&a, &own);
        relay.tell_all(&all);
        for ear in [&mut ear, &mut again] {
            assert_eq!(ear.next().await, Some(own.clone()));
            assert_eq!(ear.next().await, Some(all.clone()));
        }
        assert_eq!(other.next().await, Some(all.clone()));
        // The older one ends: the newer goes on, unlike ComfyUI's.
        drop(ear);
        relay.tell(&a, &own);
        assert_eq!(again.next().await, Some(own));
        assert!(relay.is_open(&a));
        drop((again, other));
        assert!(!relay.is_open(&a) && !relay.is_open(&b));
        assert!(relay.0.lock().open.is_empty());
        assert_eq!(*relay.count().borrow(), 0);
    }

    #[tokio::test]
    async fn who_does_not_keep_up_is_ended_and_nobody_else() {
        let relay = Relay::default();
        let (mut slow, mut quick) = (relay.listen(listener(None, "a")), relay.listen(listener(None, "b")));
        let frame = Frame::Text("x".into());
        for _ in 0..10_000 {
            relay.tell_all(&frame);
            assert_eq!(quick.next().await, Some(frame.clone()));
        }
        slow.lost().await;
        assert_eq!(slow.next().await, None);
    }
}
