//! What reaches us twice: a frame without a prompt's id that ComfyUI sends to every websocket comes on the executor's and on
//! the one of ours that hears for all clients. A client whose prompt runs is told once. Frames that ComfyUI sends to the
//! prompt's own websocket alone come on the executor's only, and look the same.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use super::{Frame, Listener, Relay};

/// Different frames that are remembered for one listener. With more they are forgotten: one may be told twice then.
const MOST_COUNTED: usize = 4_096;

/// The listeners whose prompts run.
#[derive(Debug, Default)]
pub(super) struct Both {
    running: HashMap<Listener, Counts>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Counts {
    /// Its prompts that run.
    prompts: usize,
    /// By frame: how often it came on the executor's websocket, less how often on the other one.
    frames: HashMap<u64, i64>,
}

/// A listener's prompt that runs, until it is dropped.
#[derive(Debug)]
pub struct Running {
    relay: Relay,
    who: Listener,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut ears = self.relay.0.lock();
        let running = &mut ears.both.running;
        if let Some(counts) = running.get_mut(&self.who) {
            counts.prompts -= 1;
            if counts.prompts == 0 {
                running.remove(&self.who);
            }
        }
    }
}

impl Counts {
    /// Counts a frame; says whether it is the first of the two.
    fn is_news(&mut self, frame: u64, by: i64) -> bool {
        if self.frames.len() >= MOST_COUNTED {
            self.frames.clear();
        }
        let count = self.frames.entry(frame).or_default();
        *count += by;
        let is_news = count.signum() == by;
        if *count == 0 {
            self.frames.remove(&frame);
        }
        is_news
    }
}

impl Both {
    fn hash(&self, frame: &Frame) -> u64 {
        match frame {
            Frame::Text(text) => self.hasher.hash_one(text.as_str()),
            Frame::Binary(bytes) => self.hasher.hash_one(bytes),
        }
    }
}

impl Relay {
    /// A prompt of this listener runs from now on.
    pub fn runs(&self, who: Listener) -> Running {
        self.0.lock().both.running.entry(who.clone()).or_default().prompts += 1;
        Running {
            relay: self.clone(),
            who,
        }
    }

    /// Tells a listener whose prompt runs a frame without a prompt's id that came on the executor's websocket. Never waits.
    pub fn tell_of_running(&self, who: &Listener, frame: &Frame) {
        let is_news = {
            let mut ears = self.0.lock();
            let both = &mut ears.both;
            let hash = both.hash(frame);
            both.running.get_mut(who).is_none_or(|counts| counts.is_news(hash, 1))
        };
        if is_news {
            self.tell(who, frame);
        }
    }

    /// Tells everybody a frame without a prompt's id that came on the websocket which hears for all. Never waits.
    pub fn tell_broadcast(&self, frame: &Frame) {
        let known: Vec<Listener> = {
            let mut ears = self.0.lock();
            let both = &mut ears.both;
            let hash = both.hash(frame);
            let known = both.running.iter_mut().filter_map(|(who, counts)| {
                let is_known = !counts.is_news(hash, -1);
                is_known.then(|| who.clone())
            });
            known.collect()
        };
        self.tell_those(frame, |listener| !known.contains(listener));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(client_id: &str) -> Listener {
        Listener {
            key: None,
            client_id: client_id.to_owned(),
        }
    }

    fn frame(text: &str) -> Frame {
        Frame::Text(text.into())
    }

    #[tokio::test]
    async fn a_frame_that_comes_on_both_is_told_once_whichever_is_first_and_one_for_the_prompt_each_time() {
        let relay = Relay::default();
        let (mut runs, mut idle) = (relay.listen(who("runs")), relay.listen(who("idle")));
        let running = relay.runs(who("runs"));
        // To all, heard on the executor's first, then on the other one first.
        relay.tell_of_running(&who("runs"), &frame("a"));
        relay.tell_broadcast(&frame("a"));
        relay.tell_broadcast(&frame("b"));
        relay.tell_of_running(&who("runs"), &frame("b"));
        // The same one twice, and one to the prompt's websocket alone, twice.
        relay.tell_broadcast(&frame("b"));
        relay.tell_broadcast(&frame("b"));
        relay.tell_of_running(&who("runs"), &frame("b"));
        relay.tell_of_running(&who("runs"), &frame("b"));
        relay.tell_of_running(&who("runs"), &frame("own"));
        relay.tell_of_running(&who("runs"), &frame("own"));
        drop(running);
        assert!(relay.0.lock().both.running.is_empty());
        relay.tell_broadcast(&frame("own"));
        for text in ["a", "b", "b", "b", "own", "own", "own"] {
            assert_eq!(runs.next().await, Some(frame(text)));
        }
        for text in ["a", "b", "b", "b", "own"] {
            assert_eq!(idle.next().await, Some(frame(text)));
        }
        relay.tell_all(&frame("last"));
        assert_eq!(
            (runs.next().await, idle.next().await),
            (Some(frame("last")), Some(frame("last")))
        );
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let relay = Relay::default();
        let _running = relay.runs(who("runs"));
        for number in 0..3 * MOST_COUNTED {
            relay.tell_of_running(&who("runs"), &frame(&number.to_string()));
        }
        assert!(relay.0.lock().both.running[&who("runs")].frames.len() <= MOST_COUNTED);
    }
}
