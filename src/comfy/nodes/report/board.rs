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

    /// The report of this start or of a later one, which is waited for no longer than so; then the last one that there is.
    pub(in crate::comfy::nodes) async fn report_of(
        &self,
        generation: u64,
        at_most: Duration,
    ) -> Option<Arc<NodesReport>> {
        let mut reports = self.report.subscribe();
        let is_there =
            |report: &Option<Arc<NodesReport>>| report.as_ref().is_some_and(|report| report.generation >= generation);
        let _ = tokio::time::timeout(at_most, reports.wait_for(is_there)).await;
        self.report()
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

    #[tokio::test(start_paused = true)]
    async fn the_report_of_a_start_is_waited_for_and_not_for_ever() {
        let board = NodesBoard::default();
        let of = |generation| NodesReport {
            generation,
            ..NodesReport::default()
        };
        let told = async |generation| {
            let since = tokio::time::Instant::now();
            let report = board.report_of(generation, Duration::from_secs(2)).await;
            (report.map(|report| report.generation), since.elapsed().as_millis())
        };
        assert_eq!(told(1).await, (None, 2000));
        board.hang_up(of(1));
        assert_eq!(told(1).await, (Some(1), 0));
        let later = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            board.hang_up(of(2));
        };
        assert_eq!(tokio::join!(told(2), later).0, (Some(2), 300));
        // A start that nobody reports on.
        assert_eq!(told(3).await, (Some(2), 2000));
    }
}
