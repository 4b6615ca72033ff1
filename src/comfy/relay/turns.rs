//! One prompt of a client after the other: ComfyUI begins with the next one before the end of the last is stored and told. What it says
//! of that one waits until then, since ComfyUI's page takes the end for that of the prompt it shows.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Ears, Frame, Listener, Relay};

/// Frames of later prompts that wait.
const MOST_HELD: usize = 256;
/// The longest that they wait.
const LONGEST_HELD: Duration = Duration::from_secs(5);
/// Prompts that have ended of which it is known: what still comes of them is passed over.
const MOST_ENDED: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Turns {
    of: HashMap<Listener, Turn>,
    ended: VecDeque<String>,
}

#[derive(Debug)]
struct Turn {
    id: String,
    held: Vec<(String, Frame)>,
    since: Instant,
}

impl Relay {
    /// Tells a client what becomes of its prompt, once its earlier ones have ended. Never waits.
    pub fn tell_in_turn(&self, who: &Listener, id: &str, frame: &Frame) {
        self.0.lock().tell_in_turn(who, id, frame);
    }

    /// A prompt comes, or comes again under an id that was there.
    pub fn comes(&self, id: &str) {
        self.0.lock().turns.ended.retain(|ended| ended != id);
    }

    /// A prompt has ended, and its client was told: its next one has its turn.
    pub fn has_ended(&self, who: &Listener, id: &str) {
        let mut ears = self.0.lock();
        if ears.turns.ended.len() == MOST_ENDED {
            ears.turns.ended.pop_front();
        }
        ears.turns.ended.push_back(id.to_owned());
        if ears.turns.of.get(who).is_some_and(|turn| turn.id == id)
            && let Some(turn) = ears.turns.of.remove(who)
        {
            for (id, frame) in turn.held {
                ears.tell_in_turn(who, &id, &frame);
            }
        }
    }
}

impl Ears {
    fn tell_in_turn(&mut self, who: &Listener, id: &str, frame: &Frame) {
        if self.turns.ended.iter().any(|ended| ended == id) {
            return;
        }
        let turn = self.turns.of.entry(who.clone()).or_insert_with(|| Turn {
            id: id.to_owned(),
            held: Vec::new(),
            since: Instant::now(),
        });
        if turn.id == id {
            self.tell(who, frame);
            return;
        }
        // Where nobody hears nothing is kept.
        if frame.is_preview() || !self.open.contains_key(who) {
            return;
        }
        if turn.held.is_empty() {
            turn.since = Instant::now();
        }
        turn.held.push((id.to_owned(), frame.clone()));
        if turn.held.len() > MOST_HELD || turn.since.elapsed() > LONGEST_HELD {
            id.clone_into(&mut turn.id);
            for (_, frame) in std::mem::take(&mut turn.held) {
                self.tell(who, &frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_prompt_waits_for_the_end_of_the_last() {
        let relay = Relay::default();
        let who = Listener {
            key: None,
            client_id: "a".to_owned(),
        };
        let mut ear = relay.listen(who.clone());
        let frame = |text: &str| Frame::Text(text.into());
        relay.tell_in_turn(&who, "1", &frame("1 begins"));
        relay.tell_in_turn(&who, "2", &frame("2 begins"));
        relay.tell_in_turn(&who, "2", &Frame::Binary(vec![0, 0, 0, 1].into()));
        relay.tell_in_turn(&who, "3", &frame("3 begins"));
        relay.tell(&who, &frame("1 ends"));
        relay.has_ended(&who, "1");
        // Too late.
        relay.tell_in_turn(&who, "1", &frame("1 again"));
        relay.tell_in_turn(&who, "2", &frame("2 goes on"));
        relay.tell(&who, &frame("2 ends"));
        relay.has_ended(&who, "2");
        relay.has_ended(&who, "3");
        relay.comes("1");
        relay.tell_in_turn(&who, "1", &frame("1 comes again"));
        for text in [
            "1 begins",
            "1 ends",
            "2 begins",
            "2 goes on",
            "2 ends",
            "3 begins",
            "1 comes again",
        ] {
            assert_eq!(ear.next().await, Some(frame(text)));
        }
        relay.has_ended(&who, "1");
        assert!(relay.0.lock().turns.of.is_empty());
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let relay = Relay::default();
        let who = Listener {
            key: None,
            client_id: "a".to_owned(),
        };
        let mut ear = relay.listen(who.clone());
        let frame = Frame::Text("x".into());
        relay.tell_in_turn(&who, "1", &frame);
        for _ in 0..=MOST_HELD {
            relay.tell_in_turn(&who, "2", &frame);
        }
        for _ in 0..MOST_HELD + 2 {
            assert_eq!(ear.next().await, Some(frame.clone()));
        }
        for number in 0..2 * MOST_ENDED {
            relay.has_ended(&who, &number.to_string());
        }
        assert_eq!(relay.0.lock().turns.ended.len(), MOST_ENDED);
    }
}
