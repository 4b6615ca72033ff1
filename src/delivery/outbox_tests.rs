//! The loop with an outbox in memory and receivers on real sockets.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::testing::{Receiver, Reply};
use super::*;
use crate::config::{PrivateUrls, WebhookConfig};
use crate::net::guard::AddressGuard;

/// The longest that anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug)]
struct Entry {
    pending: Pending,
    due: Instant,
    ended: Option<Tried>,
}

/// As the store does it, in memory.
#[derive(Debug, Default)]
struct Memory {
    entries: Mutex<BTreeMap<String, Entry>>,
    changed: Notify,
    tried: Notify,
    /// So many writes fail first.
    troubles: AtomicU32,
    /// Waits that were asked for, in the order they came.
    waits: Mutex<Vec<Duration>>,
}

impl Memory {
    fn put(&self, id: &str, url: Url) {
        let pending = Pending {
            id: id.to_owned(),
            url,
            attempts: 0,
        };
        let entry = Entry {
            pending,
            due: Instant::now(),
            ended: None,
        };
        self.entries.lock().unwrap().insert(id.to_owned(), entry);
        self.changed.notify_one();
    }

    fn ended(&self, id: &str) -> Option<Tried> {
        self.entries.lock().unwrap()[id].ended.clone()
    }

    async fn end(&self, id: &str) -> (Tried, u32) {
        let ended = async {
            loop {
                if let Some(ended) = self.ended(id) {
                    return (ended, self.entries.lock().unwrap()[id].pending.attempts);
                }
                self.tried.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the message's end")
    }
}

impl Outbox for Memory {
    type Error = &'static str;

    async fn due(&self, busy: &[String], room: usize) -> Result<Due, Self::Error> {
        let now = Instant::now();
        let mut taken = busy.to_vec();
        let mut due = Due::default();
        let entries = self.entries.lock().unwrap();
        let mut open: Vec<_> = entries.values().filter(|entry| entry.ended.is_none()).collect();
        open.sort_by_key(|entry| entry.due);
        for entry in open {
            let host = host(&entry.pending.url);
            if taken.contains(&host) {
                continue;
            }
            if entry.due > now {
                due.next = Some(entry.due - now);
                break;
            }
            if due.now.len() < room {
                taken.push(host);
                due.now.push(entry.pending.clone());
            }
        }
        Ok(due)
    }

    async fn body(&self, id: &str) -> Result<Option<Body>, Self::Error> {
        assert_ne!(id, "panic");
        Ok((id != "gone").then(|| Body {
            json: format!("{{\"id\":\"{id}\"}}").into(),
            traceparent: None,
        }))
    }

    async fn tried(&self, id: &str, outcome: &Tried) -> Result<(), Self::Error> {
        let trouble = self
            .troubles
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if trouble.is_ok() {
            return Err("the disk is full");
        }
        let mut entries = self.entries.lock().unwrap();
        let entry = entries.get_mut(id).unwrap();
        assert_eq!(entry.ended, None, "{id} had ended");
        entry.pending.attempts += 1;
        match outcome {
            Tried::Again { wait, .. } => {
                self.waits.lock().unwrap().push(*wait);
                // What the test need not wait for.
                entry.due = Instant::now() + (*wait).min(Duration::from_millis(20));
            }
            end => entry.ended = Some(end.clone()),
        }
        self.tried.notify_one();
        Ok(())
    }

    async fn wait_for_change(&self) {
        self.changed.notified().await;
    }
}

/// An outbox and the loop on it.
struct Running {
    outbox: Arc<Memory>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(attempts: u32) -> Self {
        Self::with_grace(attempts, PATIENCE)
    }

    fn with_grace(attempts: u32, grace: Duration) -> Self {
        let config = WebhookConfig {
            keys: Vec::new(),
            attempts,
            first_delay: Duration::from_millis(1),
            timeout: PATIENCE,
        };
        let guard = AddressGuard::new(PrivateUrls::parse("127.0.0.1").unwrap());
        let sender = WebhookSender::new(&guard, &config).unwrap();
        let (outbox, stop) = (Arc::new(Memory::default()), CancellationToken::new());
        let task = tokio::spawn(run(Arc::clone(&outbox), sender, schedule(&config), stop.clone(), grace));
        Self { outbox, stop, task }
    }

    async fn stop(self) -> Arc<Memory> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("the loop's end")
            .unwrap();
        self.outbox
    }
}

fn ids(receiver: &Receiver) -> Vec<String> {
    let id = |received: &super::super::testing::Received| received.header("webhook-id").unwrap().to_owned();
    receiver.requests().iter().map(id).collect()
}

async fn until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the condition");
}

#[tokio::test]
async fn a_message_is_tried_until_it_is_delivered_with_one_id() {
    let script = [
        Reply::Status(500),
        Reply::Reset,
        Reply::Status(404),
        Reply::Status(429),
        Reply::Status(200),
    ];
    let receiver = Receiver::start(script).await;
    let running = Running::start(12);
    running.outbox.put("msg_1", receiver.url("/hook"));
    assert_eq!(running.outbox.end("msg_1").await, (Tried::Delivered, 5));
    running.stop().await;
    assert_eq!(ids(&receiver), ["msg_1"; 5]);
    assert!(
        receiver
            .requests()
            .iter()
            .all(|received| received.body == "{\"id\":\"msg_1\"}")
    );
}

#[tokio::test]
async fn retry_after_is_heeded() {
    let script = [
        Reply::Header(429, "retry-after", "100".to_owned()),
        Reply::Header(503, "retry-after", "86400".to_owned()),
    ];
    let receiver = Receiver::start(script).await;
    let running = Running::start(12);
    running.outbox.put("msg_1", receiver.url("/hook"));
    assert_eq!(running.outbox.end("msg_1").await, (Tried::Delivered, 3));
    let outbox = running.stop().await;
    assert_eq!(
        *outbox.waits.lock().unwrap(),
        [Duration::from_secs(100), Duration::from_hours(1)]
    );
}

#[tokio::test]
async fn what_is_hopeless_is_given_up_and_the_rest_after_its_attempts() {
    let running = Running::start(7);
    for (id, reply, attempts) in [
        ("gone for good", Reply::Status(410), 1),
        ("moved", Reply::Header(302, "location", "/login".to_owned()), 5),
        ("broken", Reply::Status(502), 7),
    ] {
        let receiver = Receiver::start(std::iter::repeat_n(reply, 20)).await;
        running.outbox.put(id, receiver.url("/hook"));
        let (ended, made) = running.outbox.end(id).await;
        assert!(matches!(ended, Tried::GivenUp(_)), "{id}: {ended:?}");
        assert_eq!((made, ids(&receiver).len()), (attempts, attempts as usize), "{id}");
    }
    running.outbox.put("refused", "http://10.0.0.1/".parse().unwrap());
    let (ended, made) = running.outbox.end("refused").await;
    assert_eq!(made, 1);
    assert!(matches!(ended, Tried::GivenUp(reason) if reason.contains("10.0.0.1 is refused")));
    running.stop().await;
}

#[tokio::test]
async fn a_receiver_that_hangs_delays_no_other() {
    let hanging = Receiver::start(std::iter::repeat_n(Reply::Hang, 20)).await;
    let good = Receiver::start([]).await;
    let running = Running::with_grace(12, Duration::from_millis(10));
    for number in 0..10 {
        running.outbox.put(&format!("hanging_{number}"), hanging.url("/"));
    }
    for number in 0..10 {
        running.outbox.put(&format!("good_{number}"), good.url("/"));
    }
    for number in 0..10 {
        assert_eq!(running.outbox.end(&format!("good_{number}")).await.0, Tried::Delivered);
    }
    until(|| !hanging.requests().is_empty()).await;
    // The grace ends before the receiver does; its messages stay.
    let outbox = running.stop().await;
    assert_eq!(hanging.requests().len(), 1, "one at a time for one host");
    assert_eq!(outbox.entries.lock().unwrap()["hanging_0"].pending.attempts, 0);
    assert_eq!(outbox.ended("hanging_9"), None);
    let mut seen = ids(&good);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 10, "each once");
    assert_eq!(good.requests().len(), 10, "each once");
}

#[tokio::test]
async fn at_most_eight_are_in_flight() {
    let mut receivers = Vec::new();
    let running = Running::with_grace(12, Duration::ZERO);
    for number in 0..12 {
        let receiver = Receiver::start([Reply::Hang]).await;
        running.outbox.put(&format!("msg_{number}"), receiver.url("/"));
        receivers.push(receiver);
    }
    let reached = || {
        receivers
            .iter()
            .filter(|receiver| !receiver.requests().is_empty())
            .count()
    };
    until(|| reached() == PLACES).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(reached(), PLACES);
    running.stop().await;
}

#[tokio::test]
async fn the_grace_lets_a_delivery_end() {
    let receiver = Receiver::start([]).await;
    let running = Running::start(12);
    running.outbox.put("msg_1", receiver.url("/"));
    until(|| !receiver.requests().is_empty()).await;
    let outbox = running.stop().await;
    assert_eq!(outbox.ended("msg_1"), Some(Tried::Delivered));
}

#[tokio::test]
async fn an_outcome_that_cannot_be_kept_is_no_reason_to_send_again() {
    let receiver = Receiver::start([]).await;
    let running = Running::start(12);
    running.outbox.troubles.store(2, Ordering::Relaxed);
    running.outbox.put("msg_1", receiver.url("/"));
    assert_eq!(running.outbox.end("msg_1").await, (Tried::Delivered, 1));
    running.stop().await;
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn a_message_that_cannot_be_sent_does_not_stop_the_others() {
    let receiver = Receiver::start([]).await;
    let running = Running::start(12);
    for id in ["gone", "panic", "msg_1"] {
        running.outbox.put(id, receiver.url("/"));
    }
    assert_eq!(running.outbox.end("msg_1").await, (Tried::Delivered, 1));
    assert!(matches!(running.outbox.end("gone").await.0, Tried::GivenUp(_)));
    assert!(matches!(running.outbox.end("panic").await.0, Tried::GivenUp(_)));
    running.stop().await;
    assert_eq!(ids(&receiver), ["msg_1"]);
}

fn steady(attempts: u32) -> RetryPolicy {
    let mut schedule = schedule(&WebhookConfig {
        keys: Vec::new(),
        attempts,
        first_delay: Duration::from_secs(15),
        timeout: Duration::from_secs(30),
    });
    schedule.jitter = 0.0;
    schedule
}

#[test]
fn twelve_attempts_take_about_a_day() {
    let schedule = steady(12);
    let waits: Vec<_> = (1..)
        .map_while(|attempt| next_attempt(schedule, attempt, Attempts::All, None))
        .collect();
    assert_eq!(waits.len(), 11);
    let seconds: Vec<_> = waits.iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [15, 37, 93, 234, 585, 1464, 3662, 9155, 21600, 21600, 21600]);
    let hours = seconds.iter().sum::<u64>() / 3600;
    assert_eq!(hours, 22);
}

#[test]
fn one_attempt_is_the_last_one() {
    assert_eq!(next_attempt(steady(1), 1, Attempts::All, None), None);
}

#[test]
fn a_refusal_ends_sooner() {
    let schedule = steady(12);
    assert!(next_attempt(schedule, 4, Attempts::Few, None).is_some());
    assert_eq!(next_attempt(schedule, 5, Attempts::Few, None), None);
    assert!(next_attempt(schedule, 5, Attempts::All, None).is_some());
}

#[test]
fn retry_after_makes_waits_longer_within_an_hour() {
    let wait = |seconds| {
        let after = Some(Duration::from_secs(seconds));
        next_attempt(steady(12), 1, Attempts::All, after).unwrap().as_secs()
    };
    assert_eq!([wait(0), wait(120), wait(1_000_000)], [15, 120, 3600]);
}

#[test]
fn jitter_spreads_the_waits() {
    let mut schedule = steady(12);
    schedule.jitter = JITTER;
    for _ in 0..100 {
        let wait = next_attempt(schedule, 1, Attempts::All, None).unwrap().as_secs_f64();
        assert!((11.9..18.1).contains(&wait), "{wait}");
    }
}
