//! When a webhook is tried again.

use std::time::Duration;

use crate::config::WebhookConfig;
use crate::net::retry::RetryPolicy;

/// Each wait is the one before times this: from 15 s, twelve attempts take about 22 hours.
const FACTOR: f64 = 2.5;
/// No wait of ours is longer, jitter apart.
const LONGEST: Duration = Duration::from_hours(6);
/// The share by which a wait is made longer or shorter at random.
const JITTER: f64 = 0.2;
/// The longest that a receiver's `Retry-After` is heeded; it may slow us down and not put us off for good.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);
/// The most attempts where the answer is one that seldom changes, see [`Attempts::Few`]; about ten minutes of them.
const FEW: u32 = 5;

/// How many attempts a failure is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempts {
    /// As many as are configured: the receiver is down or busy.
    All,
    /// Five: the receiver is up and does not want us, which a deployment in progress explains, but only for minutes.
    Few,
}

/// When a webhook is tried again, as data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    waits: RetryPolicy,
}

impl Schedule {
    /// The schedule of a configuration.
    pub fn new(config: &WebhookConfig) -> Self {
        Self {
            waits: RetryPolicy {
                initial: config.first_delay,
                factor: FACTOR,
                longest: LONGEST,
                jitter: JITTER,
                attempts: Some(config.attempts.saturating_sub(1)),
            },
        }
    }

    /// The wait after attempt number `attempt` (1 is the first) has failed; [`None`]: that was the last one.
    /// `retry_after` is what the receiver asked for: it makes the wait longer, never shorter.
    pub fn next_attempt(&self, attempt: u32, attempts: Attempts, retry_after: Option<Duration>) -> Option<Duration> {
        if attempts == Attempts::Few && attempt >= FEW {
            return None;
        }
        let before = usize::try_from(attempt.saturating_sub(1)).ok()?;
        let wait = self.waits.delays().nth(before)?;
        Some(wait.max(retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(attempts: u32) -> Schedule {
        let mut schedule = Schedule::new(&WebhookConfig {
            keys: Vec::new(),
            attempts,
            first_delay: Duration::from_secs(15),
            timeout: Duration::from_secs(30),
        });
        schedule.waits.jitter = 0.0;
        schedule
    }

    #[test]
    fn twelve_attempts_take_about_a_day() {
        let schedule = schedule(12);
        let waits: Vec<_> = (1..)
            .map_while(|attempt| schedule.next_attempt(attempt, Attempts::All, None))
            .collect();
        assert_eq!(waits.len(), 11);
        let seconds: Vec<_> = waits.iter().map(Duration::as_secs).collect();
        assert_eq!(seconds, [15, 37, 93, 234, 585, 1464, 3662, 9155, 21600, 21600, 21600]);
        let hours = seconds.iter().sum::<u64>() / 3600;
        assert_eq!(hours, 22);
    }

    #[test]
    fn one_attempt_is_the_last_one() {
        assert_eq!(schedule(1).next_attempt(1, Attempts::All, None), None);
    }

    #[test]
    fn a_refusal_ends_sooner() {
        let schedule = schedule(12);
        assert!(schedule.next_attempt(4, Attempts::Few, None).is_some());
        assert_eq!(schedule.next_attempt(5, Attempts::Few, None), None);
        assert!(schedule.next_attempt(5, Attempts::All, None).is_some());
    }

    #[test]
    fn retry_after_makes_waits_longer_within_an_hour() {
        let wait = |seconds| {
            let after = Some(Duration::from_secs(seconds));
            schedule(12).next_attempt(1, Attempts::All, after).unwrap().as_secs()
        };
        assert_eq!([wait(0), wait(120), wait(1_000_000)], [15, 120, 3600]);
    }

    #[test]
    fn jitter_spreads_the_waits() {
        let mut schedule = schedule(12);
        schedule.waits.jitter = JITTER;
        for _ in 0..100 {
            let wait = schedule.next_attempt(1, Attempts::All, None).unwrap().as_secs_f64();
            assert!((11.9..18.1).contains(&wait), "{wait}");
        }
    }
}
