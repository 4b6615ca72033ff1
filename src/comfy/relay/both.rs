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

    /// Tells a listener whose prompt `id` runs, when it is that one's turn, a frame without a prompt's id that came on the
    /// executor's websocket: `own` is what it is told of `frame`. Never waits.
    pub fn tell_of_running(&self, who: &Listener, id: &str, frame: &Frame, own: &Frame) {
        let mut ears = self.0.lock();
        if ears.has_told_end(id) {
            // It would not be told: one that goes to everybody comes on the other websocket.
            return;
        }
        let both = &mut ears.both;
        // Of what came: the other websocket brings the same.
        let hash = both.hash(frame);
        if both.running.get_mut(who).is_none_or(|counts| counts.is_news(hash, 1)) {
            ears.tell_in_turn(who, id, own);
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

    fn of_running(relay: &Relay, frame: &Frame) {
        relay.tell_of_running(&who("runs"), "1", frame, frame);
    }

    #[tokio::test]
    async fn a_frame_that_comes_on_both_is_told_once_whichever_is_first_and_one_for_the_prompt_each_time() {
        let relay = Relay::default();
        let (mut runs, mut idle) = (relay.listen(who("runs")), relay.listen(who("idle")));
        let running = relay.runs(who("runs"));
        // To all, heard on the executor's first, then on the other one first.
        of_running(&relay, &frame("a"));
        relay.tell_broadcast(&frame("a"));
        relay.tell_broadcast(&frame("b"));
        of_running(&relay, &frame("b"));
        // The same one twice, and one to the prompt's websocket alone, twice.
        relay.tell_broadcast(&frame("b"));
        relay.tell_broadcast(&frame("b"));
        of_running(&relay, &frame("b"));
        of_running(&relay, &frame("b"));
        of_running(&relay, &frame("own"));
        of_running(&relay, &frame("own"));
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

    #[tokio::test]
    async fn frames_of_a_prompt_that_runs_wait_for_its_turn_and_are_known_by_what_came() {
        let relay = Relay::default();
        let who = who("runs");
        let mut ear = relay.listen(who.clone());
        let _running = relay.runs(who.clone());
        relay.tell_in_turn(&who, "1", &frame("1 begins"));
        relay.tell_of_running(&who, "2", &frame("id of comfyui"), &frame("id of job"));
        relay.tell_broadcast(&frame("id of comfyui"));
        let end = [&frame("1 ends"), &frame("1 is over")];
        relay.end_in_turn(&who, "1", end, &frame("status"), true);
        // What comes of one that is over is for everybody or for nobody.
        relay.tell_of_running(&who, "1", &frame("late"), &frame("late"));
        relay.tell_broadcast(&frame("late"));
        relay.tell_all(&frame("last"));
        for text in ["1 begins", "1 ends", "status", "1 is over", "id of job", "late", "last"] {
            assert_eq!(ear.next().await, Some(frame(text)));
        }
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let relay = Relay::default();
        let _running = relay.runs(who("runs"));
        for number in 0..3 * MOST_COUNTED {
            of_running(&relay, &frame(&number.to_string()));
        }
        assert!(relay.0.lock().both.running[&who("runs")].frames.len() <= MOST_COUNTED);
    }
}
