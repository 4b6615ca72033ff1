//! Which engine elsewhere gets a job: those of the first group come first, then the others; none gets it twice, but for one that
//! only had to rest.

use std::sync::Arc;

use futures_util::future::join_all;
use indexmap::IndexMap;
use serde_json::value::RawValue;

use super::pool::{Member, Pool, Waiting};
use super::remote::Remote;
use crate::config::Fallback;
use crate::error::{ErrorKind, JobError, Problem};
use crate::executor::elsewhere::Again;
use crate::job::{JobId, JobRequest, JobView};

/// The engines that a job was tried at, and what each said.
#[derive(Debug, Clone, Default)]
pub struct Tries {
    made: Vec<Try>,
    /// Whether no engine at all gets the job any more.
    are_over: bool,
}

#[derive(Debug, Clone)]
struct Try {
    engine: String,
    error: JobError,
    again: Again,
}

impl Tries {
    /// It was tried at this engine, in vain.
    pub fn add(&mut self, engine: &str, error: JobError, again: Again) {
        let again = match again {
            // That was the second time.
            Again::Once if self.counts_at(engine) => Again::Never,
            // It may be charged twice, and no more.
            Again::Unknown if self.made.iter().any(|before| before.again == Again::Unknown) => {
                self.are_over = true;
                Again::Never
            }
            again => again,
        };
        // Of an engine that rests again and again the last word is enough.
        self.made
            .retain(|before| before.again != Again::Rested || before.engine != engine);
        self.made.push(Try {
            engine: engine.to_owned(),
            error,
            again,
        });
    }

    /// Whether an engine gets the job no more.
    pub fn is_over(&self, engine: &str) -> bool {
        let mut here = self.made.iter().filter(|tried| tried.engine == engine);
        self.are_over || here.any(|tried| tried.again == Again::Never)
    }

    /// Whether an engine had it, and did more than to rest.
    fn counts_at(&self, engine: &str) -> bool {
        let mut here = self.made.iter().filter(|tried| tried.engine == engine);
        here.any(|tried| tried.again != Again::Rested)
    }

    /// Whether any had.
    fn count(&self) -> bool {
        self.made.iter().any(|tried| tried.again != Again::Rested)
    }

    /// What a job ends with that nobody ran: each attempt, with the kind of the last.
    pub fn told(&self) -> JobError {
        let tries = self.made.iter().map(|tried| Problem {
            message: tried.error.full_text(),
            ..Problem::default()
        });
        match &self.made[..] {
            [] => JobError::internal("no engine ran the job"),
            [only] => only.error.clone(),
            [.., last] => JobError {
                hint: last.error.hint.clone(),
                ..JobError::new(last.error.kind, "no engine ran the job").problems(tries.collect())
            },
        }
    }
}

impl Pool {
    /// Whether the engines are elsewhere.
    pub fn is_elsewhere(&self) -> bool {
        self.members()
            .iter()
            .any(|member| member.engine().elsewhere().is_some())
    }

    /// Those elsewhere.
    pub fn remotes(&self) -> impl Iterator<Item = &Remote> {
        self.members().iter().filter_map(|member| member.engine().elsewhere())
    }

    /// Whether a job may be at the engine of this name, so that no other may get it.
    pub fn may_have(&self, name: &str) -> bool {
        self.named(name)
            .is_some_and(|member| member.engine().elsewhere().is_some())
    }

    /// A job that somebody else gave to one of the engines. Fails where it is not known whether there is one.
    pub async fn foreign(&self, id: &JobId) -> Result<Option<JobView>, JobError> {
        let mut unknown = None;
        for remote in self.remotes() {
            match remote.foreign(id).await {
                Ok(None) => {}
                Ok(view) => return Ok(view),
                Err(error) => unknown = Some(error),
            }
        }
        unknown.map_or(Ok(None), Err)
    }

    /// Has such a job cancelled.
    pub async fn cancel_foreign(&self, id: &JobId) {
        for remote in self.remotes() {
            remote.cancel_foreign(id).await;
        }
    }

    /// The engines that can do what a request asks for, by name. Fails, saying why each cannot, where there is none.
    pub async fn able(&self, request: &JobRequest) -> Result<Vec<String>, JobError> {
        let able = self.able_by_list(request)?;
        let members = able.iter().filter_map(|name| self.named(name)?.engine().elsewhere());
        let refusals = join_all(members.map(|remote| remote.refuses(request))).await;
        if let Some(Some(error)) = refusals.first()
            && refusals.iter().all(Option::is_some)
        {
            return Err(error.clone());
        }
        let taking = able.into_iter().zip(refusals).filter(|(_, refusal)| refusal.is_none());
        Ok(taking.map(|(name, _)| name).collect())
    }

    /// What all engines that could run a graph would tell of it; [`None`]: one of them may take it.
    pub async fn refuses(&self, request: &JobRequest) -> Option<JobError> {
        let error = self.able(request).await.err()?;
        (error.kind == ErrorKind::InvalidWorkflow).then_some(error)
    }

    /// The node classes of the engines that tell them, as ComfyUI's `/object_info` does, each as the first one has it; [`None`]: none
    /// tells any. With a `class`: that one alone.
    pub async fn object_info(&self, class: Option<&str>) -> Option<Vec<u8>> {
        let mut remotes: Vec<_> = self.remotes().collect();
        remotes.sort_by_key(|remote| remote.spec().group);
        let described = join_all(remotes.iter().map(|remote| remote.described())).await;
        let described: Vec<_> = described.into_iter().flatten().collect();
        if described.is_empty() {
            return None;
        }
        let mut all: IndexMap<&str, &RawValue> = IndexMap::new();
        for (name, text) in described.iter().flat_map(|described| described.classes()) {
            if class.is_none_or(|class| class == name) {
                all.entry(name).or_insert(text);
            }
        }
        serde_json::to_vec(&all).ok()
    }

    fn able_by_list(&self, request: &JobRequest) -> Result<Vec<String>, JobError> {
        let (mut able, mut problems) = (Vec::new(), Vec::new());
        for remote in self.remotes() {
            let name = &remote.spec().name;
            match remote.cannot(request) {
                None => able.push(name.clone()),
                Some(why) => problems.push(Problem {
                    message: format!("engine `{name}`: {why}"),
                    ..Problem::default()
                }),
            }
        }
        if able.is_empty() && !problems.is_empty() {
            let error = JobError::new(ErrorKind::InvalidRequest, "No engine can do what the request asks for");
            return Err(error
                .problems(problems)
                .hint("Ask for what one of them can do, or have an engine added to ENGINES."));
        }
        Ok(able)
    }

    /// Whether an engine is left that may run a job.
    pub fn is_left(&self, waiting: &Waiting<'_>) -> bool {
        self.candidates(waiting).next().is_some()
    }

    /// Whether one beside this would take a job now.
    pub fn has_others(&self, waiting: &Waiting<'_>, member: &Member) -> bool {
        let mut candidates = self.candidates(waiting);
        candidates.any(|(_, other)| !std::ptr::eq(Arc::as_ptr(other), member) && other.is_ready() && other.has_place())
    }

    /// The engines that may get a job, those of the first group first; within one in the order of the list. One that failed it
    /// comes after all others.
    fn candidates<'a>(&'a self, waiting: &'a Waiting<'_>) -> impl Iterator<Item = ((bool, u32), &'a Arc<Member>)> {
        let group = |member: &Arc<Member>| member.engine().elsewhere().map_or(0, |remote| remote.spec().group);
        let is_able = |member: &&Arc<Member>| {
            let name = member.engine().name();
            waiting.able.is_none_or(|able| able.iter().any(|able| able == name))
        };
        let first = self
            .members()
            .iter()
            .filter(is_able)
            .map(group)
            .min()
            .unwrap_or_default();
        let never = waiting.fallback == Fallback::Never;
        let may_go_on = !never || waiting.tries.is_none_or(|tries| !tries.count());
        let mut all: Vec<_> = self
            .members()
            .iter()
            .filter(|_| may_go_on)
            .filter(is_able)
            .filter(|member| waiting.tries.is_none_or(|tries| !tries.is_over(member.engine().name())))
            .filter(|member| !never || group(member) == first)
            .map(|member| {
                let name = member.engine().name();
                let has_failed = waiting.tries.is_some_and(|tries| tries.counts_at(name));
                ((has_failed, group(member)), member)
            })
            .collect();
        all.sort_by_key(|(group, _)| *group);
        all.into_iter()
    }

    /// Which job of the line goes where, as [`Self::choose`] says it for engines elsewhere.
    pub(super) fn choose_elsewhere(&self, line: &[Waiting<'_>]) -> Option<(Arc<Member>, usize)> {
        line.iter()
            .enumerate()
            .find_map(|(index, waiting)| Some((self.place_for(waiting)?, index)))
    }

    /// Whether an engine elsewhere would take a job now.
    pub fn has_place_for(&self, waiting: &Waiting<'_>) -> bool {
        let mut members = self.members().iter();
        members.any(|member| member.has_place()) && self.place_for(waiting).is_some()
    }

    fn place_for(&self, waiting: &Waiting<'_>) -> Option<Arc<Member>> {
        // It may have it, however it stands and however much it has to do.
        if let Some(had) = waiting.had.and_then(|name| self.named(name)) {
            return Some(Arc::clone(had));
        }
        let candidates: Vec<_> = self.candidates(waiting).collect();
        let mut rest = &candidates[..];
        while let Some((group, _)) = rest.first() {
            let (this, others) = rest.split_at(rest.partition_point(|(other, _)| other == group));
            let ready = this.iter().map(|(_, member)| member).filter(|member| member.is_ready());
            let free = ready.clone().filter(|member| member.has_place());
            // The one with the least to do, of those the first of the list.
            if let Some(best) = free.min_by_key(|member| member.taken()) {
                return Some(Arc::clone(best));
            }
            // All that could take it are full: one of them will have room. One that is tried after a rest may not.
            let mut full = ready.filter(|member| !member.engine().elsewhere().is_some_and(Remote::is_tried));
            if full.next().is_some() && waiting.fallback != Fallback::Busy {
                return None;
            }
            rest = others;
        }
        if candidates.iter().any(|(_, member)| member.is_ready()) {
            return None;
        }
        let lacks_workers = |member: &&Arc<Member>| member.engine().elsewhere().is_some_and(Remote::lacks_workers);
        let mut lacking = candidates.iter().map(|(_, member)| *member).filter(lacks_workers);
        lacking.find(|member| member.has_place()).map(Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> JobError {
        JobError::new(ErrorKind::Busy, text)
    }

    #[test]
    fn what_nobody_knows_is_sent_again_once() {
        let mut tries = Tries::default();
        tries.add("a", error("who knows"), Again::Unknown);
        assert!(!tries.is_over("a") && !tries.is_over("b"));
        tries.add("b", error("who knows"), Again::Unknown);
        assert!(tries.is_over("a") && tries.is_over("b") && tries.is_over("c"));
    }

    #[test]
    fn every_attempt_is_told() {
        let mut tries = Tries::default();
        tries.add("a", error("engine `a` rests"), Again::Rested);
        tries.add("a", error("engine `a` rests again"), Again::Rested);
        assert_eq!(tries.told().message, "engine `a` rests again");
        assert!(!tries.is_over("a") && !tries.count());
        tries.add("b", error("engine `b` fails"), Again::Once);
        assert!(!tries.is_over("b") && tries.count());
        tries.add("a", error("engine `a` fails"), Again::Never);
        tries.add("b", error("engine `b` fails again"), Again::Once);
        assert!(tries.is_over("a") && tries.is_over("b") && !tries.is_over("c"));
        let told = tries.told().full_text();
        assert_eq!(
            told,
            "no engine ran the job\n- engine `b` fails\n- engine `a` fails\n- engine `b` fails again"
        );
    }
}
