//! The engines of a worker, and which of them gets which job.
//!
//! A free engine takes the first job whose models it has in its memory, else the oldest. An oldest one that was passed over for
//! that [`MOST_PASSED`] times, or [`LONGEST_PASSED`] ago, is taken whatever it needs. Only when all engines are busy do they take
//! one more, to prepare it; the queue takes it back when another engine becomes free before its turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{join_all, select_all};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::groups::Tries;
use super::remote::Remote;
use super::{Engine, Signature, Standing};
use crate::comfy::LOCAL;
use crate::config::Fallback;
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
    /// What the last job that began had loaded.
    loaded: Option<Signature>,
    /// What the last job that has a place loads, while there is one.
    expected: Option<Signature>,
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
#[derive(Debug, Clone, Copy, Default)]
pub struct Waiting<'a> {
    /// What it loads, where that is known.
    pub signature: Option<Signature>,
    /// It is chosen before jobs with a lower one.
    pub priority: i32,
    /// How often it was passed over.
    pub passed: Passed,
    /// The engine that had it in a previous run of the worker, and may have it still.
    pub had: Option<&'a str>,
    /// The engines elsewhere that can do it; [`None`]: that is not known.
    pub able: Option<&'a [String]>,
    /// Where it was tried in vain.
    pub tries: Option<&'a Tries>,
    /// What becomes of it where an engine elsewhere does not run it.
    pub fallback: Fallback,
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

    pub(super) fn is_ready(&self) -> bool {
        self.engine.standing() == Standing::Ready
    }

    fn has_loaded(&self, waiting: &Waiting<'_>) -> bool {
        waiting.signature.is_some() && self.work.lock().will_have() == waiting.signature
    }

    /// A job of this signature began here. One that tells nothing may have loaded anything.
    pub fn has_begun(&self, signature: Option<Signature>) {
        self.work.lock().loaded = signature;
    }

    pub(super) fn has_place(&self) -> bool {
        self.taken() < self.engine.places()
    }
}

impl Work {
    fn will_have(&self) -> Option<Signature> {
        if self.taken > 0 { self.expected } else { self.loaded }
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
                expected: None,
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

    /// How many jobs run at the same time: one at each engine that is ready, or as many as one elsewhere takes; at least one.
    pub fn lanes(&self) -> usize {
        let lanes = |member: &Arc<Member>| {
            let engine = member.engine();
            if engine.elsewhere().is_some() {
                engine.places()
            } else {
                1
            }
        };
        let ready = self.0.iter().filter(|member| member.is_ready());
        ready.map(lanes).sum::<usize>().max(1)
    }

    /// Where each of them stands. One that is not ready has nothing loaded when it is back.
    pub fn standings(&self) -> Vec<Standing> {
        let standing = |member: &Arc<Member>| {
            let standing = member.engine.standing();
            if standing != Standing::Ready {
                member.work.lock().loaded = None;
            }
            standing
        };
        self.0.iter().map(standing).collect()
    }

    /// The engine of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Member>> {
        self.0.iter().find(|member| member.engine.name() == name)
    }

    /// How many are ready and have nothing to do.
    pub fn idle(&self) -> usize {
        self.0
            .iter()
            .filter(|member| member.taken() == 0 && member.is_ready())
            .count()
    }

    /// Which job of the line, which begins with the oldest of the highest priority, goes where; [`None`]: all wait. While all
    /// engines are away the line has only jobs that are to fail there.
    pub fn choose(&self, line: &[Waiting<'_>]) -> Option<(Arc<Member>, usize)> {
        let first = line.first()?;
        if self.is_elsewhere() {
            return self.choose_elsewhere(line);
        }
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
                (work.taken, work.will_have().is_some(), work.used)
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
        work.expected = signature;
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

    /// Whether a job that is at this engine, and has not begun, would begin sooner elsewhere: another one is idle, and this one is
    /// at work, or not there.
    pub fn begins_sooner_elsewhere(&self, member: &Member) -> bool {
        // What one elsewhere has may be charged for.
        member.engine.elsewhere().is_none() && (member.taken() > 1 || !member.is_ready()) && self.idle() > 0
    }

    /// Whether all are away. One that only lacks workers takes a job that no other could do.
    pub fn is_away(&self) -> bool {
        let lacks_workers = |member: &Member| member.engine.elsewhere().is_some_and(Remote::lacks_workers);
        let mut all = self.standings().into_iter().zip(self.members());
        all.all(|(standing, member)| standing == Standing::Away && !lacks_workers(member))
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

    /// The engine that a previous run of the worker gave a prompt to, by the name that it kept: the first, where it had but one. [`None`]:
    /// the prompt ended with that run, or is nobody's any more.
    pub fn keeper(&self, name: Option<&str>) -> Option<&Arc<Member>> {
        let named = name.and_then(|name| self.named(name));
        let had_one = name.is_none_or(|name| name == LOCAL);
        let keeper = named.or_else(|| self.0.first().filter(|_| had_one))?;
        keeper.engine.keeps_jobs().then_some(keeper)
    }

    /// Ends prompts that a previous run of the worker submitted for jobs which are over, each with the engine that had it.
    pub async fn cancel_earlier(&self, prompts: &[(Option<String>, String)]) {
        let at = |member: &Arc<Member>| -> Vec<String> {
            let its = prompts.iter().filter(|(name, _)| {
                let keeper = self.keeper(name.as_deref());
                keeper.is_some_and(|keeper| Arc::ptr_eq(keeper, member))
            });
            its.map(|(_, prompt_id)| prompt_id.clone()).collect()
        };
        let each = self.0.iter().map(|member| async move {
            let its = at(member);
            if !its.is_empty() {
                member.engine.cancel_earlier(&its).await;
            }
        });
        join_all(each).await;
    }

    /// Resolves when one stands otherwise than in `seen`.
    pub async fn until_other(&self, seen: &[Standing]) {
        let each = self.0.iter().zip(seen);
        select_all(each.map(|(member, standing)| member.engine.until_not(*standing))).await;
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
