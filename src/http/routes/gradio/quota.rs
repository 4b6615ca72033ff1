//! Who a client is, and how much GPU time it has left, as a ZeroGPU Space counts it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap};
use parking_lot::Mutex;

use crate::dialect::gradio::Refusal;
use crate::http::auth::Admitted;
use crate::net::address::not_public;

/// A client's count begins with its first job, and again so much later.
const DAY: Duration = Duration::from_hours(24);
/// What a job is taken to need before one has been measured.
const FIRST_GUESS: Duration = Duration::from_secs(1);
/// The weight of the newest job in what jobs usually take.
const NEWEST: f64 = 0.25;
/// The most clients that are remembered; those whose day is over go first, then those who used least.
const MOST_CLIENTS: usize = 100_000;

/// What a client is known by: its key, else its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// The digest of its key.
    Key([u8; 32]),
    /// Its address.
    Address(IpAddr),
    /// Nothing is known of it.
    Unknown,
}

impl Client {
    /// The client that sent a request, by the key that let it in where requests must bring one.
    ///
    /// Where the connection comes from an address that is not public, a proxy of ours stands in front, and the client
    /// is the last address that it put into `X-Forwarded-For`; what stands before that, anybody could have written.
    pub(super) fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        if let Some(Admitted(digest)) = extensions.get() {
            return Self::Key(*digest);
        }
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let behind_proxy = peer.is_none_or(|peer| not_public(peer).is_some());
        let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
        let forwarded = forwarded
            .and_then(|value| value.to_str().ok())
            .and_then(|list| list.rsplit(',').next())
            .and_then(|address| address.trim().parse().ok())
            .filter(|_| behind_proxy);
        forwarded.or(peer).map_or(Self::Unknown, Self::Address)
    }
}

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

#[derive(Debug, Clone, Copy)]
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
        self.accounts.lock().usual
    }

    /// Sets the time aside that one more job of the client will usually need; fails as a ZeroGPU Space does.
    pub(super) fn reserve(&self, client: Client, now: Instant) -> Result<Reserved, Refusal> {
        let reserved = |time| Reserved {
            quota: self.clone(),
            client,
            time,
        };
        let Some(limit) = self.limit else {
            return Ok(reserved(Duration::ZERO));
        };
        let mut accounts = self.accounts.lock();
        let time = accounts.usual.unwrap_or(FIRST_GUESS).min(limit);
        if accounts.clients.len() >= MOST_CLIENTS {
            make_room(&mut accounts.clients, now);
        }
        let fresh = Account {
            since: now,
            used: Duration::ZERO,
        };
        let account = accounts.clients.entry(client).or_insert(fresh);
        if now.saturating_duration_since(account.since) >= DAY {
            *account = fresh;
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
        Ok(reserved(time))
    }

    fn charge(&self, client: Client, reserved: Duration, took: Duration) {
        if let Some(account) = self.accounts.lock().clients.get_mut(&client) {
            account.used = (account.used + took).saturating_sub(reserved);
        }
    }
}

impl Reserved {
    /// The job took so long. Whether it `counts` for what jobs usually take: one that was cancelled does not.
    pub(super) fn used(mut self, took: Duration, counts: bool) {
        if counts {
            let mut accounts = self.quota.accounts.lock();
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
        assert!(quota.accounts.lock().clients.is_empty());
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

    fn client(peer: &str, headers: &[(&'static str, &str)], admitted: Option<Admitted>) -> Client {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 4711)));
        if let Some(admitted) = admitted {
            extensions.insert(admitted);
        }
        Client::of(&map, &extensions)
    }

    fn address(text: &str) -> Client {
        Client::Address(text.parse().unwrap())
    }

    #[test]
    fn a_proxy_of_ours_is_believed_and_nobody_else() {
        let forwarded = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2, 9.9.9.9")];
        assert_eq!(client("10.0.0.1", &forwarded, None), address("9.9.9.9"));
        assert_eq!(client("8.8.8.8", &forwarded, None), address("8.8.8.8"));
        assert_eq!(
            client("10.0.0.1", &[("x-forwarded-for", "nobody")], None),
            address("10.0.0.1")
        );
        assert_eq!(Client::of(&HeaderMap::new(), &Extensions::new()), Client::Unknown);
    }

    #[test]
    fn the_key_that_let_it_in_names_a_client_and_no_other() {
        let key = [("authorization", "Bearer 4711")];
        assert_eq!(client("8.8.8.8", &key, Some(Admitted([7; 32]))), Client::Key([7; 32]));
        // Anybody could send any.
        assert_eq!(client("8.8.8.8", &key, None), address("8.8.8.8"));
    }
}
