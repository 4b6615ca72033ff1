//! A live job: what is known of it in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{Fallback, Secret};
use crate::engine::remote::is_ticket;
use crate::engine::{Member, Passed, Signature, Tries};
use crate::error::JobError;
use crate::executor::LeftFile;
use crate::executor::elsewhere::Again;
use crate::job::progress::Progress;
use crate::job::{Committed, JobId, JobRequest, JobState, JobView, JobWatch, Outcome, Policy};

use super::chunks::Chunks;

/// What a job ended with.
pub(super) type Ending = Result<Arc<Outcome>, Arc<JobError>>;

/// A job that has not ended, or one that ended a short while ago.
#[derive(Debug)]
pub(super) struct LiveJob {
    pub(super) id: JobId,
    pub(super) policy: Arc<Policy>,
    pub(super) created: SystemTime,
    /// Cancels its execution.
    pub(super) stop: CancellationToken,
    /// Measures it.
    pub(super) watch: JobWatch,
    /// The prompt that carried it in a previous run of the worker.
    pub(super) resume: Option<String>,
    /// The engine that had that prompt.
    pub(super) engine_before: Option<String>,
    /// What it loads, where that is known and counts.
    signature: OnceLock<Signature>,
    /// How often others were preferred.
    passed: Mutex<Passed>,
    /// The engines elsewhere that can do it, once that is known.
    able: OnceLock<Vec<String>>,
    /// Where it was tried in vain.
    tries: Mutex<Tries>,
    /// The engine that has it, and what takes it back from there.
    attempt: Mutex<Option<Attempt>>,
    /// Whether an engine that had begun with it went away, and it went to another.
    has_moved: AtomicBool,
    /// Whether an engine has had it, and has not any more.
    has_come_back: AtomicBool,
    /// Whether it is on its way back from an engine that it was taken from.
    is_recalled: AtomicBool,
    /// How often it was begun in previous runs of the worker.
    pub(super) attempts: u32,
    view: watch::Sender<JobView>,
    request: Mutex<Option<JobRequest>>,
    /// comfy.org's key for API nodes, of a request whose key is not stored.
    org_api_key: Mutex<Option<Secret>>,
    chunks: Mutex<Chunks>,
    place: Mutex<Option<OwnedSemaphorePermit>>,
    came: Instant,
    /// How long it had waited when it came into this run of the worker.
    waited: Duration,
    begun: Mutex<Option<Instant>>,
    ended: AtomicBool,
    /// The files that it left so far.
    left: Mutex<Vec<LeftFile>>,
    entry: Mutex<Entry>,
}

/// ComfyUI's history entry.
#[derive(Debug)]
struct Entry {
    /// There once the execution has told it.
    told: watch::Receiver<Option<Arc<str>>>,
    /// For the execution to tell it by.
    sender: Option<watch::Sender<Option<Arc<str>>>>,
}

impl Default for Entry {
    fn default() -> Self {
        let (sender, told) = watch::channel(None);
        let sender = Some(sender);
        Self { told, sender }
    }
}

/// An execution of a job, until ComfyUI begins.
#[derive(Debug)]
struct Attempt {
    member: Arc<Member>,
    recall: CancellationToken,
}

impl LiveJob {
    pub(super) fn new(id: JobId, policy: Policy, created: SystemTime) -> Self {
        let policy = Arc::new(policy);
        let view = JobView {
            id: id.clone(),
            policy: Arc::clone(&policy),
            state: JobState::Queued,
            progress: Progress::default(),
            position: None,
            created,
            delay: Duration::ZERO,
            execution: Duration::ZERO,
            outputs: Arc::default(),
            result: None,
            entry: None,
        };
        Self {
            watch: JobWatch::of(&id, &policy, created),
            id,
            policy,
            created,
            stop: CancellationToken::new(),
            resume: None,
            engine_before: None,
            signature: OnceLock::new(),
            passed: Mutex::default(),
            able: OnceLock::new(),
            tries: Mutex::default(),
            attempt: Mutex::default(),
            has_moved: AtomicBool::new(false),
            has_come_back: AtomicBool::new(false),
            is_recalled: AtomicBool::new(false),
            attempts: 0,
            view: watch::Sender::new(view),
            request: Mutex::default(),
            org_api_key: Mutex::default(),
            chunks: Mutex::default(),
            place: Mutex::default(),
            came: Instant::now(),
            waited: SystemTime::now().duration_since(created).unwrap_or_default(),
            begun: Mutex::default(),
            ended: AtomicBool::new(false),
            left: Mutex::default(),
            entry: Mutex::default(),
        }
    }

    /// The job was taken in by a previous run of the worker.
    pub(super) fn resuming(mut self, prompt_id: Option<String>, engine: Option<String>, attempts: u32) -> Self {
        self.resume = prompt_id;
        self.engine_before = engine;
        self.attempts = attempts;
        self
    }

    /// This is its request.
    pub(super) fn asked(self, request: &JobRequest) -> Self {
        self.watch.works(&request.work);
        self
    }

    /// Keeps the request in memory, and the job's place in the queue.
    pub(super) fn with(self, request: Option<JobRequest>, place: Option<OwnedSemaphorePermit>) -> Self {
        *self.request.lock() = request;
        *self.place.lock() = place;
        self
    }

    /// Keeps a key that is stored nowhere. After a restart the job has none.
    pub(super) fn with_key(self, key: Option<Secret>) -> Self {
        *self.org_api_key.lock() = key;
        self
    }

    /// The key that is stored nowhere.
    pub(super) fn org_api_key(&self) -> Option<Secret> {
        self.org_api_key.lock().clone()
    }

    /// The request, if it was kept in memory.
    pub(super) fn take_request(&self) -> Option<JobRequest> {
        self.request.lock().take()
    }

    /// Keeps the request in memory until it is taken, unless the job is over.
    pub(super) fn keep_request(&self, request: JobRequest) {
        let mut kept = self.request.lock();
        if !self.has_ended() {
            *kept = Some(request);
        }
    }

    /// What its execution tells ComfyUI's history entry by. Until it is dropped, an entry may come.
    pub(super) fn entry_sender(&self) -> Option<watch::Sender<Option<Arc<str>>>> {
        self.entry.lock().sender.take()
    }

    /// ComfyUI's history entry, as soon as it is here or will not come any more.
    pub(super) async fn entry(&self) -> Option<Arc<str>> {
        // One that has not been taken from here has told nothing, and will not now.
        drop(self.entry_sender());
        let mut entry = self.entry.lock().told.clone();
        let came = entry.wait_for(Option::is_some).await;
        came.ok().and_then(|entry| entry.clone())
    }

    /// Remembers files that it left until its end is stored, which holds them too.
    pub(super) fn leaves(&self, files: &[LeftFile]) {
        self.left.lock().extend_from_slice(files);
    }

    /// The files that it left so far.
    pub(super) fn left(&self) -> Vec<LeftFile> {
        self.left.lock().clone()
    }

    /// The id by which its owner knows it: the platform's own, where the job came from there.
    pub(super) fn name(&self) -> &str {
        self.policy.platform.as_ref().map_or(self.id.as_str(), |job| &job.id)
    }

    pub(super) fn state(&self) -> JobState {
        self.view.borrow().state
    }

    /// The job as it is now.
    pub(super) fn view(&self) -> JobView {
        let mut view = self.view.borrow().clone();
        if view.result.is_none() {
            (view.delay, view.execution) = self.times();
        }
        view
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<JobView> {
        self.view.subscribe()
    }

    /// Time of waiting and time of execution, until now.
    pub(super) fn times(&self) -> (Duration, Duration) {
        match *self.begun.lock() {
            Some(begun) => (self.waited + (begun - self.came), begun.elapsed()),
            None => (self.waited + self.came.elapsed(), Duration::ZERO),
        }
    }

    /// Whether ComfyUI has begun with it.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.lock().is_some()
    }

    /// When ComfyUI began with it.
    pub(super) fn begun(&self) -> Option<Instant> {
        *self.begun.lock()
    }

    /// How often it was begun.
    pub(super) fn attempts_made(&self) -> u32 {
        self.attempts + u32::from(self.begun.lock().is_some())
    }

    /// ComfyUI has begun with it. Says whether that is news.
    pub(super) fn begin(&self) -> bool {
        let mut begun = self.begun.lock();
        if begun.is_some() || self.ended.load(Ordering::Acquire) {
            return false;
        }
        *begun = Some(Instant::now());
        drop(begun);
        self.view.send_if_modified(|view| {
            let legal = view.state.may_become(JobState::Running);
            if legal {
                view.state = JobState::Running;
                view.position = None;
            }
            legal
        })
    }

    /// These are its outputs so far. Nothing changes after the end.
    pub(super) fn outputs(&self, outputs: Vec<Committed>) {
        if self.has_ended() {
            return;
        }
        self.view.send_if_modified(|view| {
            let news = view.result.is_none() && *view.outputs != outputs;
            if news {
                view.outputs = Arc::new(outputs);
            }
            news
        });
    }

    /// What it loads; for the choice of its engine.
    pub(super) fn loads(&self, signature: Option<Signature>) {
        if let Some(signature) = signature {
            // It stays what it is.
            let _ = self.signature.set(signature);
        }
    }

    /// What it loads, where that is known.
    pub(super) fn signature(&self) -> Option<Signature> {
        self.signature.get().copied()
    }

    /// The engine that had it in a previous run of the worker, and may have it still.
    pub(super) fn had(&self) -> Option<&str> {
        self.engine_before.as_deref().filter(|_| !self.has_come_back())
    }

    /// Whether an engine elsewhere may have it from a previous run of the worker.
    pub(super) fn is_held(&self) -> bool {
        self.resume.as_deref().is_some_and(is_ticket)
    }

    /// The engines elsewhere that can do it.
    pub(super) fn is_able_at(&self, able: Vec<String>) {
        // They stay the same.
        let _ = self.able.set(able);
    }

    /// The engines elsewhere that can do it, once that is known.
    pub(super) fn able(&self) -> Option<&[String]> {
        self.able.get().map(Vec::as_slice)
    }

    /// An engine elsewhere did not run it.
    pub(super) fn tried(&self, engine: &str, error: JobError, again: Again) {
        self.tries.lock().add(engine, error, again);
    }

    /// Where it was tried in vain.
    pub(super) fn tries(&self) -> Tries {
        self.tries.lock().clone()
    }

    /// What becomes of it where an engine elsewhere does not run it.
    pub(super) fn fallback(&self, usual: Fallback) -> Fallback {
        self.policy.fallback.unwrap_or(usual)
    }

    /// How often others were preferred.
    pub(super) fn passed(&self) -> Passed {
        *self.passed.lock()
    }

    /// Another one is preferred.
    pub(super) fn pass_over(&self) {
        self.passed.lock().again();
    }

    /// An engine has it now. What is given back takes it from there again, until it begins.
    pub(super) fn begins_at(&self, member: &Arc<Member>) -> CancellationToken {
        let recall = self.stop.child_token();
        *self.attempt.lock() = Some(Attempt {
            member: Arc::clone(member),
            recall: recall.clone(),
        });
        recall
    }

    /// It stays where it is.
    pub(super) fn stays(&self) {
        *self.attempt.lock() = None;
    }

    /// Takes it from its engine, if that can be and would be wise. Says whether it is on its way back.
    pub(super) fn recall_if(&self, is_wise: impl FnOnce(&Member) -> bool) -> bool {
        // What a previous run of the worker submitted is looked for where it was.
        if self.has_ended() || self.engine_before.is_some() || self.has_begun() {
            return false;
        }
        let mut attempt = self.attempt.lock();
        let Some(known) = attempt.as_ref().filter(|attempt| is_wise(&attempt.member)) else {
            return false;
        };
        self.is_recalled.store(true, Ordering::Relaxed);
        known.recall.cancel();
        *attempt = None;
        true
    }

    /// Whether it was taken from its engine; asked when it is back.
    pub(super) fn was_recalled(&self) -> bool {
        self.is_recalled.swap(false, Ordering::Relaxed)
    }

    /// Whether it may go to another engine since this one is away. What had begun may be what that one died of, and goes once.
    pub(super) fn may_move(&self) -> bool {
        !self.has_begun() || !self.has_moved.swap(true, Ordering::Relaxed)
    }

    /// Whether an engine has had it in this run of the worker, and has not any more.
    pub(super) fn has_come_back(&self) -> bool {
        self.has_come_back.load(Ordering::Relaxed)
    }

    /// It waits again, unless its owner has ended it meanwhile.
    pub(super) fn go_back(&self) {
        self.has_come_back.store(true, Ordering::Relaxed);
        *self.entry.lock() = Entry::default();
        *self.attempt.lock() = None;
        self.view.send_if_modified(|view| {
            let waits_again = view.result.is_none();
            if waits_again {
                view.state = JobState::Queued;
                view.progress = Progress::default();
                view.outputs = Arc::default();
                *self.begun.lock() = None;
            }
            waits_again
        });
    }

    /// It is so far. Nothing changes after the end.
    pub(super) fn progress(&self, progress: Progress) {
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        self.chunks.lock().add(&progress);
        self.view.send_if_modified(|view| {
            let news = view.result.is_none() && view.progress != progress;
            if news {
                view.progress = progress;
            }
            news
        });
    }

    /// The progress that `/stream` has not handed out yet.
    pub(super) fn take_chunks(&self) -> Vec<Progress> {
        self.chunks.lock().take()
    }

    /// Its place in the queue, for those who watch it.
    pub(super) fn place_in_line(&self, position: usize, eta: Option<Duration>) {
        if self.view.receiver_count() == 0 {
            return;
        }
        self.view.send_if_modified(|view| {
            let news = view.state == JobState::Queued && view.position != Some(position);
            if news {
                view.position = Some(position);
                view.progress.eta = eta;
            }
            news
        });
    }

    /// Takes the right to end the job. Only the first caller gets it.
    pub(super) fn claim_end(&self) -> bool {
        !self.ended.swap(true, Ordering::AcqRel)
    }

    /// [`Self::claim_end`] of a job that ComfyUI has not begun.
    pub(super) fn claim_end_of_waiting(&self) -> bool {
        // Held, so that it does not begin meanwhile.
        let begun = self.begun.lock();
        begun.is_none() && self.claim_end()
    }

    /// Whether its end is decided.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Shows the end, once it is stored.
    pub(super) fn show_end(
        &self,
        state: JobState,
        (delay, execution): (Duration, Duration),
        ending: Ending,
        entry: Option<Arc<str>>,
    ) {
        self.request.lock().take();
        // Before it is shown: who learns of the end may send the next job at once.
        self.place.lock().take();
        self.view.send_modify(|view| {
            view.progress.end(state == JobState::Completed);
            view.state = state;
            view.position = None;
            view.delay = delay;
            view.execution = execution;
            view.result = Some(ending);
            view.entry = entry;
        });
    }
}
