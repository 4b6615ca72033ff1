//! The order of our prompts in ComfyUI. It runs one after the other, so of those that were there when it crashed only the
//! first can be at fault; the last events of that one are lost, perhaps.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Starts of ComfyUI whose crash is remembered.
const REMEMBERED: u64 = 8;

/// Our prompts in ComfyUI, in their order.
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
    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A prompt goes to a start of ComfyUI.
    pub(super) fn enter(&self, generation: u64) -> Place<'_> {
        let mut known = self.known();
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
        let mut known = self.order.known();
        let generation = self.generation;
        let first = known.present.iter().find(|(_, of)| **of == generation);
        let first = first.map_or(self.number, |(number, _)| *number);
        known.first.retain(|of, _| of + REMEMBERED > generation);
        *known.first.entry(generation).or_insert(first) == self.number
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.order.known().present.remove(&self.number);
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
