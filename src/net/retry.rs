//! How long to wait before the next try.
//!
//! A [`RetryPolicy`] says how the waits grow and how many there are; [`RetryPolicy::delays`] hands them out one by one.
//! What is worth another try is for the caller to decide: this file knows only about time.
//!
//! The waits come from the `backoff` crate's `next_backoff`. Its own deadline is switched off (`max_elapsed_time` is
//! [`None`]) because we bound by attempts, and its runners are not used: we sleep with tokio.

use std::time::{Duration, SystemTime};

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// How the waits between tries grow, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// The first wait.
    pub initial: Duration,
    /// Each wait is the one before it times this; 1 keeps them equal.
    pub factor: f64,
    /// No wait is longer, jitter apart.
    pub longest: Duration,
    /// The share, 0 to 1, by which a wait is made longer or shorter at random, so that many workers do not try at the
    /// same moment. 0 switches it off.
    pub jitter: f64,
    /// How many waits there are; [`None`] is without end.
    pub attempts: Option<u32>,
}

impl RetryPolicy {
    /// Twice more within seconds, while somebody waits.
    pub const BRIEF: Self = Self {
        initial: Duration::from_millis(300),
        factor: 3.0,
        longest: Duration::from_secs(3),
        jitter: 0.25,
        attempts: Some(2),
    };

    /// Three times more within some ten seconds, for what the worker cannot start without.
    pub const AT_START: Self = Self {
        initial: Duration::from_millis(500),
        factor: 2.0,
        longest: Duration::from_secs(5),
        jitter: 0.25,
        attempts: Some(3),
    };

    /// Waits that double, with a quarter of jitter, without end.
    pub const fn doubling(initial: Duration, longest: Duration) -> Self {
        Self {
            initial,
            factor: 2.0,
            longest,
            jitter: 0.25,
            attempts: None,
        }
    }

    /// The same wait each time, as often as `attempts`.
    pub const fn fixed(delay: Duration, attempts: u32) -> Self {
        Self {
            initial: delay,
            factor: 1.0,
            longest: delay,
            jitter: 0.0,
            attempts: Some(attempts),
        }
    }

    /// The waits, from the first one.
    pub fn delays(&self) -> Delays {
        let backoff = ExponentialBackoff {
            current_interval: self.initial,
            initial_interval: self.initial,
            randomization_factor: self.jitter.clamp(0.0, 1.0),
            multiplier: self.factor.max(1.0),
            max_interval: self.longest.max(self.initial),
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Delays {
            backoff,
            attempts: self.attempts,
            taken: 0,
        }
    }
}

impl Default for RetryPolicy {
    /// 250 ms, doubled up to 30 s.
    fn default() -> Self {
        Self::doubling(Duration::from_millis(250), Duration::from_secs(30))
    }
}

/// The waits of one piece of work; made by [`RetryPolicy::delays`]. As an [`Iterator`] it yields the next wait, and
/// ends when the attempts are used up.
#[derive(Debug)]
pub struct Delays {
    backoff: ExponentialBackoff,
    attempts: Option<u32>,
    taken: u32,
}

impl Delays {
    /// How many waits were handed out since the start or the last [`Delays::reset`].
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// Begins again, after a success.
    pub fn reset(&mut self) {
        self.backoff.reset();
        self.taken = 0;
    }

    /// Sleeps until the next try; `false`, at once, when the attempts are used up.
    pub async fn wait(&mut self) -> bool {
        let Some(delay) = self.next() else { return false };
        tokio::time::sleep(delay).await;
        true
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.attempts.is_some_and(|attempts| self.taken >= attempts) {
            return None;
        }
        let delay = self.backoff.next_backoff()?;
        self.taken = self.taken.saturating_add(1);
        Some(delay)
    }
}

/// What a server asks for with `Retry-After`, in either of its forms (RFC 9110, section 10.2.3).
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(SystemTime::now())
            .ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: RetryPolicy = RetryPolicy {
        initial: Duration::from_millis(100),
        factor: 2.0,
        longest: Duration::from_millis(300),
        jitter: 0.0,
        attempts: Some(4),
    };

    /// The crate adds a nanosecond to make its range inclusive.
    fn milliseconds(delays: impl Iterator<Item = Duration>) -> Vec<u128> {
        delays.map(|delay| delay.as_millis()).collect()
    }

    #[test]
    fn grows_to_the_longest_and_ends_with_the_attempts() {
        let mut delays = PLAIN.delays();
        assert_eq!(milliseconds(&mut delays), [100, 200, 300, 300]);
        assert_eq!(delays.taken(), 4);
        delays.reset();
        assert_eq!(milliseconds(&mut delays), [100, 200, 300, 300]);
    }

    #[test]
    fn fixed_waits_are_equal() {
        let delays = RetryPolicy::fixed(Duration::from_secs(3), 2).delays();
        assert_eq!(milliseconds(delays), [3000, 3000]);
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let policy = RetryPolicy {
            jitter: 0.25,
            factor: 1.0,
            attempts: Some(200),
            ..PLAIN
        };
        for delay in policy.delays() {
            assert!((75..=125).contains(&delay.as_millis()), "{delay:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_as_often_as_there_are_attempts() {
        let mut delays = RetryPolicy::fixed(Duration::from_mins(1), 2).delays();
        assert!(delays.wait().await);
        assert!(delays.wait().await);
        assert!(!delays.wait().await);
    }
}
