//! The platform's jobs that this worker has: from their taking to the delivery of their results.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The jobs in hand. In memory alone: what must outlive the process is in the store.
#[derive(Debug, Default)]
pub(super) struct Hand(Mutex<BTreeMap<String, CancellationToken>>);

/// A job in hand, until it is dropped.
#[derive(Debug)]
pub(super) struct InHand {
    /// Its id on the platform.
    pub(super) id: String,
    /// Cancelled when the platform wants it stopped.
    pub(super) stop: CancellationToken,
    hand: Arc<Hand>,
}

impl Hand {
    fn jobs(&self) -> MutexGuard<'_, BTreeMap<String, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a job in hand; [`None`] when it is there already.
    pub(super) fn take(self: &Arc<Self>, id: &str) -> Option<InHand> {
        let mut jobs = self.jobs();
        if jobs.contains_key(id) {
            return None;
        }
        let stop = CancellationToken::new();
        jobs.insert(id.to_owned(), stop.clone());
        Some(InHand {
            id: id.to_owned(),
            stop,
            hand: Arc::clone(self),
        })
    }

    /// Has a job stopped. Says whether it is in hand.
    pub(super) fn stop(&self, id: &str) -> bool {
        let jobs = self.jobs();
        let stop = jobs.get(id);
        if let Some(stop) = stop {
            stop.cancel();
        }
        stop.is_some()
    }

    /// Their ids.
    pub(super) fn ids(&self) -> Vec<String> {
        self.jobs().keys().cloned().collect()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.jobs().len()
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.hand.jobs().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_in_hand_once_until_it_is_dropped() {
        let hand = Arc::new(Hand::default());
        let job = hand.take("a").unwrap();
        assert!(hand.take("a").is_none());
        assert_eq!(hand.ids(), ["a"]);
        assert!(hand.stop("a") && !hand.stop("b"));
        assert!(job.stop.is_cancelled());
        drop(job);
        assert_eq!(hand.count(), 0);
        assert!(!hand.take("a").unwrap().stop.is_cancelled());
    }
}
