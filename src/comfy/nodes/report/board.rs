//! Where the report of the last start hangs for all who ask, and where those at work say that they are.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::NodesReport;

/// The report of the last start. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct NodesBoard {
    report: watch::Sender<Option<Arc<NodesReport>>>,
    jobs: watch::Sender<usize>,
}

/// A job is at work on ComfyUI for as long as this lives.
#[derive(Debug)]
pub struct AtWork(watch::Sender<usize>);

impl NodesBoard {
    /// The report of the last start; [`None`] before the first, and of an attached ComfyUI.
    pub fn report(&self) -> Option<Arc<NodesReport>> {
        self.report.borrow().clone()
    }

    /// Hangs up a report in place of the one before, which is given back.
    pub(in crate::comfy::nodes) fn hang_up(&self, report: NodesReport) -> Option<Arc<NodesReport>> {
        self.report.send_replace(Some(Arc::new(report)))
    }

    /// Says that a job is at work.
    pub fn at_work(&self) -> AtWork {
        self.jobs.send_modify(|jobs| *jobs += 1);
        AtWork(self.jobs.clone())
    }

    /// Waits until no job is at work, and no longer than so.
    pub(super) async fn idle(&self, at_most: Duration) {
        let mut jobs = self.jobs.subscribe();
        // Under a load that never ends it is asked all the same; it takes ComfyUI a fraction of a second.
        let _ = tokio::time::timeout(at_most, jobs.wait_for(|jobs| *jobs == 0)).await;
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.send_modify(|jobs| *jobs -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_patient_waits_for_all_jobs_and_not_for_ever() {
        let board = NodesBoard::default();
        let (one, two) = (board.at_work(), board.at_work());
        let idle = |seconds| {
            let board = board.clone();
            async move {
                let since = tokio::time::Instant::now();
                board.idle(Duration::from_secs(seconds)).await;
                since.elapsed().as_secs()
            }
        };
        assert_eq!(idle(7).await, 7);
        drop(one);
        assert_eq!(idle(7).await, 7);
        drop(two);
        assert_eq!(idle(7).await, 0);
    }
}
