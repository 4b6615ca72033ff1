//! The engines of a worker, and which of them gets which job.
//!
//! A free engine takes the first job whose models it has in its memory, else the oldest. An oldest one that was passed over for
//! that [`MOST_PASSED`] times, or [`LONGEST_PASSED`] ago, is taken whatever it needs. Only when all engines are busy do they take
//! one more, to prepare it; the queue takes it back when another engine becomes free before its turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all, select_all};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Engine, Signature, Standing};
use crate::error::JobError;

/// How often the oldest job may be passed over for others whose models are loaded.
const MOST_PASSED: u32 = 8;
/// For how long.
const LONGEST_PASSED: Duration = Duration::from_secs(10);
/// How far the line is looked through for a job whose models are loaded.
pub const LOOKS: usize = 64;

/// The engines. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(Arc<[Arc<Member>]>);

/// One of them, and what it is at.
#[derive(Debug)]
pub struct Member {
    engine: Arc<dyn Engine>,
    work: Mutex<Work>,
}

#[derive(Debug)]
struct Work {
    /// Jobs that have a place here.
    taken: usize,
    /// What the last job had loaded.
    loaded: Option<Signature>,
    /// When it got its last job.
    used: Option<Instant>,
    /// Cancelled when the last job has been submitted, or is over.
    submitted: CancellationToken,
}

/// A job's place at an engine, which is free again when this is dropped.
#[derive(Debug)]
pub struct Seat {
    member: Arc<Member>,
    freed: Arc<Notify>,
}

/// Keeps the order of jobs that are prepared at the same time: one whose preparation is quicker waits for those before.
#[derive(Debug)]
pub struct Turn {
    /// Cancelled when the job before has been submitted, or is over.
    pub before: CancellationToken,
    /// The same of this job; dropped then.
    pub submitted: DropGuard,
}

/// A job that waits, as far as the choice needs it.
#[derive(Debug, Clone, Copy)]
pub struct Waiting<'a> {
    /// What it loads, where that is known.
    pub signature: Option<Signature>,
    /// It is chosen before jobs with a lower one.
    pub priority: i32,
    /// How often it was passed over.
    pub passed: Passed,
    /// The engine that had it in a previous run of the worker, and may have it still.
    pub had: Option<&'a str>,
}

/// How often a job was passed over by others, and since when.
#[derive(Debug, Clone, Copy, Default)]
pub struct Passed {
    times: u32,
    since: Option<Instant>,
}

impl Passed {
    /// Once more.
    pub fn again(&mut self) {
        self.times += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    fn is_enough(self) -> bool {
        self.times >= MOST_PASSED || self.since.is_some_and(|since| since.elapsed() >= LONGEST_PASSED)
    }
}

impl Member {
    /// The engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// How many jobs have a place here.
    pub fn taken(&self) -> usize {
        self.work.lock().taken
    }

    fn is_ready(&self) -> bool {
        self.engine.standing() == Standing::Ready
    }

    fn has_loaded(&self, waiting: &Waiting<'_>) -> bool {
        waiting.signature.is_some() && self.work.lock().loaded == waiting.signature
    }

    fn has_place(&self) -> bool {
        self.taken() < self.engine.places()
    }
}

impl Seat {
    /// At which engine.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.member.work.lock().taken -= 1;
        self.freed.notify_one();
    }
}

impl Pool {
    /// A pool of these; there is at least one.
    pub fn new(engines: impl IntoIterator<Item = Arc<dyn Engine>>) -> Self {
        let member = |engine| {
            let submitted = CancellationToken::new();
            submitted.cancel();
            let work = Work {
                taken: 0,
                loaded: None,
                used: None,
                submitted,
            };
            Arc::new(Member {
                engine,
                work: Mutex::new(work),
            })
        };
        Self(engines.into_iter().map(member).collect())
    }

    /// All of them.
    pub fn members(&self) -> &[Arc<Member>] {
        &self.0
    }

    /// Whether there is a choice.
    pub fn has_choice(&self) -> bool {
        self.0.len() > 1
    }

    /// How many jobs run at the same time: one at each engine that is ready, at least one.
    pub fn lanes(&self) -> usize {
        self.0.iter().filter(|member| member.is_ready()).count().max(1)
    }

    /// Where each of them stands.
    pub fn standings(&self) -> Vec<Standing> {
        self.0.iter().map(|member| member.engine.standing()).collect()
    }

    /// Which job of the line, which begins with the oldest of the highest priority, goes where; [`None`]: all wait. While all
    /// engines are away the line has only jobs that are to fail there.
    pub fn choose(&self, line: &[Waiting<'_>]) -> Option<(Arc<Member>, usize)> {
        let first = line.first()?;
        let with_place = || self.0.iter().filter(|member| member.has_place());
        if !self.has_choice() || self.is_away() {
            return with_place().next().map(|member| (Arc::clone(member), 0));
        }
        let mut free: Vec<_> = with_place().filter(|member| member.is_ready()).collect();
        if free.iter().any(|member| member.taken() == 0) {
            free.retain(|member| member.taken() == 0);
        }
        let may_go = |member: &Member, waiting: &Waiting<'_>| {
            let mut kept = waiting.had.into_iter().filter(|name| self.is_there(name));
            kept.all(|name| name == member.engine.name())
        };
        let same = line.iter().take_while(|waiting| waiting.priority == first.priority);
        for (index, waiting) in same.enumerate() {
            let has_it = |member: &&&Arc<Member>| member.has_loaded(waiting) && may_go(member, waiting);
            if let Some(member) = free.iter().find(has_it) {
                return Some((Arc::clone(member), index));
            }
            if waiting.passed.is_enough() {
                break;
            }
        }
        line.iter().enumerate().find_map(|(index, waiting)| {
            let free = free.iter().filter(|member| may_go(member, waiting));
            // What has nothing loaded loses nothing; else what was used least recently.
            let best = free.min_by_key(|member| {
                let work = member.work.lock();
                (work.taken, work.loaded.is_some(), work.used)
            });
            Some((Arc::clone(best?), index))
        })
    }

    /// Whether there is an engine of this name, which is not away.
    fn is_there(&self, name: &str) -> bool {
        let mut named = self.0.iter().filter(|member| member.engine.name() == name);
        named.any(|member| member.engine.standing() != Standing::Away)
    }

    /// Takes a place; `freed` is told when it is free again.
    pub fn take(member: &Arc<Member>, signature: Option<Signature>, freed: &Arc<Notify>) -> (Seat, Turn) {
        let submitted = CancellationToken::new();
        let mut work = member.work.lock();
        work.taken += 1;
        // One that tells nothing may have loaded anything.
        work.loaded = signature;
        work.used = Some(Instant::now());
        let turn = Turn {
            before: std::mem::replace(&mut work.submitted, submitted.clone()),
            submitted: submitted.drop_guard(),
        };
        drop(work);
        let seat = Seat {
            member: Arc::clone(member),
            freed: Arc::clone(freed),
        };
        (seat, turn)
    }

    /// Whether an engine is ready and has nothing to do.
    pub fn has_idle(&self) -> bool {
        self.0.iter().any(|member| member.taken() == 0 && member.is_ready())
    }

    /// Whether a job that is at this engine, and has not begun, would begin sooner elsewhere: another one is idle, and this one is
    /// at work, or not there.
    pub fn begins_sooner_elsewhere(&self, member: &Member) -> bool {
        (member.taken() > 1 || !member.is_ready()) && self.has_idle()
    }

    /// Whether an engine other than this one may still run jobs.
    pub fn has_another(&self, member: &Member) -> bool {
        let others = self.0.iter().filter(|other| !std::ptr::eq(Arc::as_ptr(other), member));
        let mut standings = others.map(|other| other.engine.standing());
        standings.any(|standing| standing != Standing::Away)
    }

    /// Whether all are away.
    pub fn is_away(&self) -> bool {
        self.standings().iter().all(|standing| *standing == Standing::Away)
    }

    /// Resolves when all are away, with the reason of the first.
    pub async fn until_away(&self) -> JobError {
        loop {
            let mut reasons = Vec::new();
            for member in &*self.0 {
                reasons.push(member.engine.until_away().await);
            }
            // Those that were asked first may be back.
            if self.is_away() || !self.has_choice() {
                return reasons.swap_remove(0);
            }
        }
    }

    /// Resolves when not all are away.
    pub async fn until_back(&self) {
        let back = |member: &'_ Arc<Member>| {
            let engine = Arc::clone(&member.engine);
            async move { engine.until_not(Standing::Away).await }.boxed()
        };
        select_all(self.0.iter().map(back)).await;
    }

    /// Ends prompts that a previous run of the worker submitted for jobs which are over.
    pub async fn cancel_earlier(&self, prompt_ids: &[String]) {
        join_all(self.0.iter().map(|member| member.engine.cancel_earlier(prompt_ids))).await;
    }

    /// Resolves when one stands otherwise than in `seen`. With `is_wanted`, those that are away are called.
    pub async fn until_other(&self, seen: &[Standing], is_wanted: bool) {
        let each = self.0.iter().zip(seen).map(|(member, standing)| -> BoxFuture<'_, ()> {
            if *standing == Standing::Away && is_wanted {
                member.engine.called()
            } else {
                member.engine.until_not(*standing)
            }
        });
        select_all(each).await;
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
