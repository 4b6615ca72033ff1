//! What a job loses when ComfyUI dies, forgets its prompt or goes away, and how often it is tried again for that.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use super::Executor;
use super::follow::AttemptError;
use super::quiet::Unanswered;
use crate::comfy::Connection;
use crate::error::JobError;

/// How often a job is prepared again since ComfyUI went away meanwhile: it may be its images or its graph that it dies of.
const MOST_PREPARATIONS: u32 = 5;

/// How often a graph is submitted again after losses that are not its fault.
const MOST_INNOCENT: u32 = 10;

/// What a job lost before its prompt was submitted.
#[derive(Default)]
pub(super) struct Preparations {
    lost: u32,
    unanswered: Unanswered,
}

impl Preparations {
    /// Whether ComfyUI went away under something that a job did there before its prompt was submitted, so that it is done
    /// again.
    pub(super) async fn is_lost(&mut self, executor: &Executor, connection: &Connection, error: &JobError) -> bool {
        let Executor { comfy, settings, .. } = executor;
        if self.lost == MOST_PREPARATIONS || !comfy.is_lost(connection, error).await {
            return false;
        }
        self.lost += 1;
        let reason = &error.message;
        tracing::warn!("ComfyUI went away before it had the job's prompt, and is waited for: {reason}");
        if !connection.is_over() && self.unanswered.for_longer_than(settings.jobs.stall_timeout, connection) {
            comfy.replace(connection, reason).await;
        }
        true
    }
}

/// The attempts at a graph, and what became of them.
#[derive(Default)]
pub(super) struct Tries {
    /// The prompt that may be on its way, or over.
    pub(super) prompt_id: Option<String>,
    /// What the last one was lost by, and whether it was at fault, or may have been.
    pub(super) lost: Option<(JobError, bool)>,
    /// Attempts that were lost.
    attempts: u32,
    /// Submissions that were lost without an attempt.
    innocent: u32,
    pub(super) unanswered: Unanswered,
}

impl Tries {
    pub(super) fn new(prompt_id: Option<String>) -> Self {
        Self {
            prompt_id,
            ..Self::default()
        }
    }

    /// The prompt is gone and another one takes its place, unless there were enough.
    pub(super) fn another(&mut self, retries: u32) -> Result<(), AttemptError> {
        self.prompt_id = None;
        let Some((error, at_fault)) = self.lost.take() else {
            return Ok(());
        };
        let (count, most) = if at_fault {
            (&mut self.attempts, retries)
        } else {
            (&mut self.innocent, MOST_INNOCENT)
        };
        if *count >= most {
            return Err(AttemptError::Final(error));
        }
        *count += 1;
        tracing::warn!(attempt = self.attempts, "the job is run again: {}", error.message);
        Ok(())
    }
}

/// Starts of ComfyUI whose crash is remembered.
const REMEMBERED: u64 = 8;

/// Our prompts in ComfyUI, in their order. It runs one after the other, so of those that were there when it crashed only the
/// first can be at fault; the last events of that one are lost, perhaps.
#[derive(Debug, Default)]
pub(super) struct Order(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    next: u64,
    /// Those that are there, each with the start of ComfyUI that has it.
    present: BTreeMap<u64, u64>,
    /// The first one at the crash of a start.
    first: HashMap<u64, u64>,
}

/// A prompt's place; it leaves when this is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    order: &'a Order,
    number: u64,
    generation: u64,
}

impl Order {
    /// A prompt goes to a start of ComfyUI.
    pub(super) fn enter(&self, generation: u64) -> Place<'_> {
        let mut known = self.0.lock();
        known.next += 1;
        let number = known.next;
        known.present.insert(number, generation);
        Place {
            order: self,
            number,
            generation,
        }
    }
}

impl Place<'_> {
    /// Whether this was the first prompt of its ComfyUI when that crashed. Asked by each of them before it leaves.
    pub(super) fn was_first(&self) -> bool {
        let mut known = self.order.0.lock();
        let generation = self.generation;
        let first = known.present.iter().find(|(_, of)| **of == generation);
        let first = first.map_or(self.number, |(number, _)| *number);
        known.first.retain(|of, _| of + REMEMBERED > generation);
        *known.first.entry(generation).or_insert(first) == self.number
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.order.0.lock().present.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_prompt_of_a_start_can_have_crashed_it() {
        let order = Order::default();
        let before = order.enter(1);
        let (guilty, behind) = (order.enter(1), order.enter(1));
        // It was over before the crash.
        drop(before);
        let elsewhere = order.enter(2);
        assert!(!behind.was_first() && guilty.was_first());
        // Who asks later is not the first for that.
        drop(guilty);
        assert!(!behind.was_first());
        assert!(elsewhere.was_first());
        drop(behind);
        assert!(order.enter(3).was_first());
    }
}
