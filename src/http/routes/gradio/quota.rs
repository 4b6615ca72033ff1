//! How much GPU time each client has left, as a ZeroGPU Space counts it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::client::Client;
use crate::dialect::gradio::Refusal;

/// A client's count begins with its first job, and anew so much later.
const DAY: Duration = Duration::from_hours(24);
/// What a job is taken to need before one has been measured.
const FIRST_GUESS: Duration = Duration::from_secs(1);
/// The weight of the newest job in what jobs usually take.
const NEWEST: f64 = 0.25;
/// The most clients that are remembered; those whose day is over go first, then those who used least.
const MOST_CLIENTS: usize = 100_000;

/// The GPU time of clients. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Quota {
    limit: Option<Duration>,
    accounts: Arc<Mutex<Accounts>>,
}

#[derive(Debug, Default)]
struct Accounts {
    clients: HashMap<Client, Account>,
    usual: Option<Duration>,
}

#[derive(Debug)]
struct Account {
    since: Instant,
    /// By jobs that ended, and by those that have not, as far as it can be guessed.
    used: Duration,
}

/// The time set aside for one job. Given back when it is dropped unused.
#[derive(Debug)]
pub(super) struct Reserved {
    quota: Quota,
    client: Client,
    time: Duration,
}

impl Quota {
    /// A quota of so much time a day and client; [`None`] counts nothing.
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self {
            limit,
            accounts: Arc::default(),
        }
    }

    /// How long a job usually takes; [`None`] before the first one.
    pub(super) fn usual(&self) -> Option<Duration> {
        self.lock().usual
    }

    /// Sets the time aside that one more job of the client will usually need; fails as a ZeroGPU Space does.
    pub(super) fn reserve(&self, client: Client, now: Instant) -> Result<Reserved, Refusal> {
        let mut accounts = self.lock();
        let Some(limit) = self.limit else {
            drop(accounts);
            let time = Duration::ZERO;
            return Ok(Reserved {
                quota: self.clone(),
                client,
                time,
            });
        };
        let time = accounts.usual.unwrap_or(FIRST_GUESS).min(limit);
        if accounts.clients.len() >= MOST_CLIENTS {
            make_room(&mut accounts.clients, now);
        }
        let account = accounts.clients.entry(client).or_insert(Account {
            since: now,
            used: Duration::ZERO,
        });
        if now.saturating_duration_since(account.since) >= DAY {
            *account = Account {
                since: now,
                used: Duration::ZERO,
            };
        }
        if account.used + time > limit {
            let left = limit.saturating_sub(account.used);
            return Err(exceeded(
                time,
                left,
                (account.since + DAY).saturating_duration_since(now),
            ));
        }
        account.used += time;
        drop(accounts);
        Ok(Reserved {
            quota: self.clone(),
            client,
            time,
        })
    }

    fn charge(&self, client: Client, reserved: Duration, took: Duration) {
        if let Some(account) = self.lock().clients.get_mut(&client) {
            account.used = (account.used + took).saturating_sub(reserved);
        }
    }

    /// A lock whose holder panicked protects numbers, each whole.
    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reserved {
    /// The job took so long. Whether it `counts` for what jobs usually take: one that was called off does not.
    pub(super) fn used(mut self, took: Duration, counts: bool) {
        if counts {
            let mut accounts = self.quota.lock();
            accounts.usual = Some(match accounts.usual {
                None => took,
                Some(usual) => usual.mul_f64(1.0 - NEWEST) + took.mul_f64(NEWEST),
            });
        }
        self.quota.charge(self.client, self.time, took);
        self.time = Duration::ZERO;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.time.is_zero() {
            self.quota.charge(self.client, self.time, Duration::ZERO);
        }
    }
}

fn make_room(clients: &mut HashMap<Client, Account>, now: Instant) {
    clients.retain(|_, account| now.saturating_duration_since(account.since) < DAY);
    if clients.len() >= MOST_CLIENTS {
        let mut used: Vec<_> = clients.values().map(|account| account.used).collect();
        let (_, median, _) = used.select_nth_unstable(MOST_CLIENTS / 2);
        let median = *median;
        clients.retain(|_, account| account.used > median);
    }
}

/// The error of a ZeroGPU Space, word for word.
fn exceeded(requested: Duration, left: Duration, wait: Duration) -> Refusal {
    let wait = wait.as_secs();
    Refusal {
        title: "ZeroGPU quota exceeded",
        message: format!(
            "You have exceeded your GPU quota ({}s requested vs. {}s left). Try again in {}:{:02}:{:02}",
            requested.as_secs_f64().ceil(),
            left.as_secs(),
            wait / 3600,
            wait / 60 % 60,
            wait % 60
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(seconds: u64) -> Quota {
        Quota::new(Some(Duration::from_secs(seconds)))
    }

    fn client_at(address: &str) -> Client {
        Client::Address(address.parse().unwrap())
    }

    #[test]
    fn what_is_used_up_is_told_as_a_space_does_until_the_day_is_over() {
        let (quota, begin) = (quota(120), Instant::now());
        let reserve = |client: &str, after: u64| quota.reserve(client_at(client), begin + Duration::from_secs(after));
        reserve("10.0.0.1", 0).unwrap().used(Duration::from_secs(73), true);
        let refusal = reserve("10.0.0.1", 24_000 + 47).unwrap_err();
        assert_eq!(refusal.title, "ZeroGPU quota exceeded");
        assert_eq!(
            refusal.message,
            "You have exceeded your GPU quota (73s requested vs. 47s left). Try again in 17:19:13"
        );
        assert!(reserve("10.0.0.2", 24_000).is_ok(), "another client");
        assert!(reserve("10.0.0.1", 86_400).is_ok(), "another day");
    }

    #[test]
    fn jobs_in_hand_count_and_those_that_came_to_nothing_do_not() {
        let (quota, now) = (quota(2), Instant::now());
        let first = quota.reserve(client_at("10.0.0.1"), now).unwrap();
        let second = quota.reserve(client_at("10.0.0.1"), now).unwrap();
        assert!(quota.reserve(client_at("10.0.0.1"), now).is_err());
        drop(first);
        second.used(Duration::ZERO, false);
        assert_eq!(quota.usual(), None);
        assert!(quota.reserve(client_at("10.0.0.1"), now).is_ok());
    }

    #[test]
    fn the_first_job_of_a_day_is_always_let_in() {
        let (quota, now) = (quota(1), Instant::now());
        quota
            .reserve(client_at("10.0.0.1"), now)
            .unwrap()
            .used(Duration::from_secs(30), true);
        assert!(quota.reserve(client_at("10.0.0.2"), now).is_ok());
    }

    #[test]
    fn without_a_quota_only_the_usual_time_is_kept() {
        let quota = Quota::new(None);
        for _ in 0..3 {
            let reserved = quota.reserve(client_at("10.0.0.1"), Instant::now()).unwrap();
            reserved.used(Duration::from_secs(1000), true);
        }
        assert_eq!(quota.usual(), Some(Duration::from_secs(1000)));
        assert!(quota.lock().clients.is_empty());
    }

    #[test]
    fn room_is_made_for_new_clients() {
        let now = Instant::now();
        let account = |used| Account {
            since: now,
            used: Duration::from_secs(used),
        };
        let numbered = |number: u32| Client::Address(std::net::Ipv4Addr::from(number).into());
        let most = u32::try_from(MOST_CLIENTS).unwrap();
        let mut clients: HashMap<_, _> = (0..most)
            .map(|number| (numbered(number), account(u64::from(number))))
            .collect();
        make_room(&mut clients, now);
        assert!(clients.len() < MOST_CLIENTS && clients.contains_key(&numbered(most - 1)));
    }
}
