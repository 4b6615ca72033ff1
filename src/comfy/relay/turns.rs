//! One prompt of a client after the other: ComfyUI begins with the next one before the end of the last is stored and told. What it says
//! of that one waits until then, since ComfyUI's page takes the end for that of the prompt it shows. Where there are several ComfyUIs, that
//! is so at each of them, and what runs at one does not wait for another.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Ears, Frame, Listener, Relay};

/// Frames of later prompts that wait.
const MOST_HELD: usize = 256;
/// Their bytes.
const MOST_HELD_BYTES: usize = 4 * 1024 * 1024;
/// The longest that they wait.
const LONGEST_HELD: Duration = Duration::from_secs(5);
/// Prompts that have ended of which it is known: what still comes of them is passed over.
const MOST_ENDED: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Turns {
    of: HashMap<At, Turn>,
    /// Where prompts run, by their ids, where there are several ComfyUIs.
    places: HashMap<String, String>,
    ended: VecDeque<String>,
}

/// A client, and the ComfyUI that its prompts run at; empty where there is one.
type At = (Listener, String);

#[derive(Debug)]
struct Turn {
    id: String,
    held: Vec<Held>,
    /// Of what is held.
    bytes: usize,
    since: Instant,
}

/// What waits of a later prompt.
#[derive(Debug)]
struct Held {
    id: String,
    /// [`None`]: it has ended, and nothing more comes.
    frame: Option<Frame>,
}

impl Relay {
    /// Tells a client what becomes of its prompt, once its earlier ones have ended. Never waits.
    pub fn tell_in_turn(&self, who: &Listener, id: &str, frame: &Frame) {
        self.0.lock().tell_in_turn(who, id, frame);
    }

    /// A prompt runs at the ComfyUI of this name, of several.
    pub fn runs_at(&self, who: &Listener, id: &str, name: &str) {
        let mut ears = self.0.lock();
        let before = ears.turns.places.insert(id.to_owned(), name.to_owned());
        // It went from one to another: nobody waits for its end there.
        if let Some(before) = before.filter(|before| before != name) {
            let at = (who.clone(), before);
            if ears.turns.of.get(&at).is_some_and(|turn| turn.id == id) {
                ears.release(&at);
            }
        }
    }

    /// A prompt comes, or comes again under an id that was there.
    pub fn comes(&self, id: &str) {
        let mut ears = self.0.lock();
        // Its former end is no end of this one.
        ears.release_where(|turn| turn.held.iter().any(|held| held.id == id && held.frame.is_none()));
        ears.turns.ended.retain(|ended| ended != id);
    }

    /// Tells a client how its prompt ended and, after `to_all`, which everybody is told, that it is over: its next one has its
    /// turn. Where something of this one waits for the end of another, its end does too. One that is not `due` is told to a
    /// client that knows of the prompt. Says whether `to_all` is told.
    pub fn end_in_turn(
        &self,
        who: &Listener,
        id: &str,
        [result, over]: [&Frame; 2],
        to_all: &Frame,
        due: bool,
    ) -> bool {
        let mut ears = self.0.lock();
        let is_heard = ears.open.contains_key(who);
        let mut is_known = false;
        let at = ears.turns.at(who, id);
        if let Some(turn) = ears.turns.of.get_mut(&at) {
            is_known = turn.id == id;
            if is_heard && turn.holds(id) {
                turn.hold(id, Some(result.clone()));
                turn.hold(id, Some(over.clone()));
                turn.hold(id, None);
                return false;
            }
        }
        let is_told = due || is_known;
        if is_told {
            ears.tell(who, result);
            ears.tell_those(to_all, |_| true);
            ears.tell(who, over);
        }
        ears.has_ended(who, id);
        is_told
    }

    /// Tells what has waited for too long.
    pub fn release_late(&self) {
        self.0.lock().release_where(Turn::is_late);
    }

    /// How long until [`Self::release_late`] has something to tell; [`None`]: nothing waits.
    pub fn late_in(&self) -> Option<Duration> {
        let ears = self.0.lock();
        let waiting = ears.turns.of.values().filter(|turn| !turn.held.is_empty());
        let since = waiting.map(|turn| turn.since).min()?;
        Some(LONGEST_HELD.saturating_sub(since.elapsed()))
    }
}

impl Turns {
    fn at(&self, who: &Listener, id: &str) -> At {
        (who.clone(), self.places.get(id).cloned().unwrap_or_default())
    }
}

impl Turn {
    fn holds(&self, id: &str) -> bool {
        self.held.iter().any(|held| held.id == id)
    }

    fn hold(&mut self, id: &str, frame: Option<Frame>) {
        if self.held.is_empty() {
            self.since = Instant::now();
        }
        self.bytes += frame.as_ref().map_or(0, Frame::length);
        let id = id.to_owned();
        self.held.push(Held { id, frame });
    }

    fn is_late(&self) -> bool {
        !self.held.is_empty() && self.since.elapsed() >= LONGEST_HELD
    }
}

impl Ears {
    pub(super) fn tell_in_turn(&mut self, who: &Listener, id: &str, frame: &Frame) {
        if self.has_told_end(id) {
            return;
        }
        let at = self.turns.at(who, id);
        let turn = self.turns.of.entry(at.clone()).or_insert_with(|| Turn {
            id: id.to_owned(),
            held: Vec::new(),
            bytes: 0,
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
        turn.hold(id, Some(frame.clone()));
        if turn.held.len() > MOST_HELD || turn.bytes > MOST_HELD_BYTES || turn.is_late() {
            self.release(&at);
        }
    }

    /// Whether a prompt has ended, and its client was told.
    pub(super) fn has_told_end(&self, id: &str) -> bool {
        self.turns.ended.iter().any(|ended| ended == id)
    }

    /// A prompt has ended, and its client was told: its next one has its turn.
    fn has_ended(&mut self, who: &Listener, id: &str) {
        if self.turns.ended.len() == MOST_ENDED {
            self.turns.ended.pop_front();
        }
        self.turns.ended.push_back(id.to_owned());
        let at = self.turns.at(who, id);
        self.turns.places.remove(id);
        if self.turns.of.get(&at).is_some_and(|turn| turn.id == id) {
            self.release(&at);
        }
    }

    fn release_where(&mut self, is_meant: impl Fn(&Turn) -> bool) {
        let meant = self.turns.of.iter().filter(|(_, turn)| is_meant(turn));
        let meant: Vec<At> = meant.map(|(at, _)| at.clone()).collect();
        for at in meant {
            self.release(&at);
        }
    }

    /// The turn is over: what waits is told. Of several prompts the first has the turn now, and the others wait on.
    fn release(&mut self, at: &At) {
        let Some(turn) = self.turns.of.remove(at) else { return };
        let who = &at.0;
        for Held { id, frame } in turn.held {
            match frame {
                Some(frame) => self.tell_in_turn(who, &id, &frame),
                None => self.has_ended(who, &id),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who() -> Listener {
        Listener {
            key: None,
            client_id: "a".to_owned(),
        }
    }

    fn frame(text: &str) -> Frame {
        Frame::Text(text.into())
    }

    fn tell(relay: &Relay, id: &str, text: &str) {
        relay.tell_in_turn(&who(), id, &frame(&format!("{id} {text}")));
    }

    fn end(relay: &Relay, id: &str) -> bool {
        let (result, over) = (frame(&format!("{id} ends")), frame(&format!("{id} is over")));
        relay.end_in_turn(&who(), id, [&result, &over], &frame("status"), true)
    }

    #[tokio::test]
    async fn the_next_prompt_waits_for_the_end_of_the_last() {
        let relay = Relay::default();
        let mut ear = relay.listen(who());
        tell(&relay, "1", "begins");
        tell(&relay, "2", "begins");
        relay.tell_in_turn(&who(), "2", &Frame::Binary(vec![0, 0, 0, 1].into()));
        tell(&relay, "3", "begins");
        assert!(end(&relay, "1"));
        // Too late.
        tell(&relay, "1", "again");
        tell(&relay, "2", "goes on");
        assert!(end(&relay, "2"));
        assert!(end(&relay, "3"));
        relay.comes("1");
        tell(&relay, "1", "comes again");
        for text in [
            "1 begins",
            "1 ends",
            "status",
            "1 is over",
            "2 begins",
            "2 goes on",
            "2 ends",
            "status",
            "2 is over",
            "3 begins",
            "3 ends",
            "status",
            "3 is over",
            "1 comes again",
        ] {
            assert_eq!(ear.next().await, Some(frame(text)));
        }
        assert!(end(&relay, "1"));
        assert!(relay.0.lock().turns.of.is_empty());
    }

    #[tokio::test]
    async fn what_runs_at_one_comfyui_does_not_wait_for_another() {
        let relay = Relay::default();
        let mut ear = relay.listen(who());
        for (id, name) in [("1", "gpu0"), ("2", "gpu1"), ("3", "gpu0")] {
            relay.runs_at(&who(), id, name);
            tell(&relay, id, "begins");
        }
        assert_eq!([end(&relay, "2"), end(&relay, "3")], [true, false]);
        // The first is run again at the other one.
        relay.runs_at(&who(), "1", "gpu1");
        tell(&relay, "1", "begins again");
        assert!(end(&relay, "1"));
        for text in [
            "1 begins",
            "2 begins",
            "2 ends",
            "status",
            "2 is over",
            "3 begins",
            "3 ends",
            "3 is over",
            "1 begins again",
            "1 ends",
            "status",
            "1 is over",
        ] {
            assert_eq!(ear.next().await, Some(frame(text)));
        }
        let ears = relay.0.lock();
        assert!(ears.turns.of.is_empty() && ears.turns.places.is_empty());
    }

    #[tokio::test]
    async fn an_end_waits_behind_the_frames_of_its_prompt() {
        let relay = Relay::default();
        let mut ear = relay.listen(who());
        tell(&relay, "1", "begins");
        tell(&relay, "2", "begins");
        tell(&relay, "3", "begins");
        assert_eq!([end(&relay, "2"), end(&relay, "1")], [false, true]);
        // One of which nothing was told waits for nobody.
        assert!(end(&relay, "4"));
        for text in [
            "1 begins",
            "1 ends",
            "status",
            "1 is over",
            "2 begins",
            "2 ends",
            "2 is over",
            "3 begins",
            "4 ends",
            "status",
            "4 is over",
        ] {
            assert_eq!(ear.next().await, Some(frame(text)));
        }
        tell(&relay, "2", "again");
        // A former end is no end of one that comes again under the id.
        tell(&relay, "5", "begins");
        end(&relay, "5");
        relay.comes("5");
        tell(&relay, "5", "begins anew");
        for text in ["5 begins", "5 ends", "5 is over", "5 begins anew"] {
            assert_eq!(ear.next().await, Some(frame(text)));
        }
    }

    #[tokio::test]
    async fn an_end_that_comfyui_would_not_tell_is_told_to_who_knows_of_the_prompt() {
        let relay = Relay::default();
        let mut ear = relay.listen(who());
        let end = |id: &str| {
            let frames = [&frame("ends"), &frame("is over")];
            relay.end_in_turn(&who(), id, frames, &frame("status"), false)
        };
        assert!(!end("1"));
        tell(&relay, "2", "begins");
        assert!(end("2"));
        // Told too late to be known.
        tell(&relay, "1", "begins");
        relay.tell_all(&frame("last"));
        for text in ["2 begins", "ends", "status", "is over", "last"] {
            assert_eq!(ear.next().await, Some(frame(text)));
        }
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let relay = Relay::default();
        let mut ear = relay.listen(who());
        let small = frame("x");
        let large = Frame::Text("x".repeat(MOST_HELD_BYTES / 2).into());
        relay.tell_in_turn(&who(), "1", &small);
        for _ in 0..=MOST_HELD {
            relay.tell_in_turn(&who(), "2", &small);
        }
        for _ in 0..MOST_HELD + 2 {
            assert_eq!(ear.next().await, Some(small.clone()));
        }
        for _ in 0..3 {
            relay.tell_in_turn(&who(), "3", &large);
        }
        for _ in 0..3 {
            assert_eq!(ear.next().await, Some(large.clone()));
        }
        for number in 0..2 * MOST_ENDED {
            end(&relay, &number.to_string());
        }
        assert_eq!(relay.0.lock().turns.ended.len(), MOST_ENDED);
    }

    #[tokio::test]
    async fn what_waits_for_too_long_is_told() {
        let relay = Relay::default();
        let mut ear = relay.listen(who());
        tell(&relay, "1", "begins");
        assert_eq!(relay.late_in(), None);
        tell(&relay, "2", "begins");
        assert!(!end(&relay, "2"));
        relay.release_late();
        assert!(relay.late_in().is_some_and(|left| left > Duration::ZERO));
        if let Some(turn) = relay.0.lock().turns.of.get_mut(&(who(), String::new())) {
            turn.since = turn.since.checked_sub(LONGEST_HELD).unwrap();
        }
        assert_eq!(relay.late_in(), Some(Duration::ZERO));
        relay.release_late();
        assert_eq!(relay.late_in(), None);
        for text in ["1 begins", "2 begins", "2 ends", "2 is over"] {
            assert_eq!(ear.next().await, Some(frame(text)));
        }
    }
}
