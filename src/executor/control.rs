//! What passes between the execution of a job and the job's owner: progress and files one way, the wish to end it the
//! other.

use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::comfy::message::Preview;
use crate::comfy::{Comfy, Made, Relay};
use crate::config::Secret;
use crate::error::{ErrorKind, JobError};
use crate::job::progress::{Progress, Stage};
use crate::job::{Committed, Execution, JobWatch, Tracker};
use crate::telemetry::start::{Phase, StartClock};
use crate::workflow::Graph;

use super::collect::named_files;
use super::commit::Commits;
use super::ledger::{Ledger, LeftFile};
use super::told::Told;

/// How long ComfyUI may have been at a prompt, saving files, before that is seen: without a websocket, or on a machine that
/// has too much to do. Files of other jobs of that time are not claimed.
const BEGUN_SEEN_AFTER: Duration = Duration::from_mins(1);

/// What a job's owner hears while it is executed.
#[derive(Debug)]
pub enum Event {
    /// ComfyUI is about to be given a prompt of this id, or an engine elsewhere a job. It is once the owner has answered: the
    /// owner keeps the id first, or a worker that is killed in between would not know it again. A sender that is dropped says
    /// that it is not kept.
    Submitting(String, oneshot::Sender<()>),
    /// Models are fetched for it; jobs behind it need not wait for that.
    Downloading,
    /// ComfyUI has the prompt.
    Submitted,
    /// ComfyUI has begun with it.
    Begun,
    /// It is so far.
    Progress(Progress),
    /// These are its outputs so far, under ids of their own.
    Outputs(Vec<Committed>),
    /// These files are left, or have another size. Told until the execution is over, also when the job has ended.
    Left(Vec<LeftFile>),
    /// ComfyUI is done with it; the next job may go there.
    ComfyFree,
}

/// A job's owner, as the executor sees it.
#[derive(Debug)]
pub struct JobControl {
    /// The id by which the owner knows the job.
    pub name: String,
    /// Hears what happens.
    pub events: mpsc::UnboundedSender<Event>,
    /// Cancels the job.
    pub stop: CancellationToken,
    /// Cancelled when ComfyUI has the prompts of those before it, or they are over. Until then this one is prepared.
    pub turn: CancellationToken,
    /// The prompt that a previous run of this worker submitted for the job.
    pub resume: Option<String>,
    /// How long it waits for a ComfyUI that is away; [`None`]: as long as the job lives.
    pub patience: Option<Duration>,
    /// Whether another engine elsewhere could do it too, and is not resting.
    pub has_others: bool,
    /// The longest that its execution may take. The owner ends it then.
    pub timeout: Duration,
    /// Who is told of it in ComfyUI's own words, where it came by ComfyUI's own API.
    pub told: Option<Told>,
    /// Whether its outputs are to have ids of their own.
    pub commits: bool,
    /// Measures it.
    pub watch: JobWatch,
}

impl JobControl {
    pub(super) fn tell(&self, event: Event) {
        // An owner that is gone is told nothing.
        let _ = self.events.send(event);
    }

    /// Says whether the id is kept.
    pub(super) async fn submitting(&self, prompt_id: &str) -> bool {
        let (kept, answer) = oneshot::channel();
        self.tell(Event::Submitting(prompt_id.to_owned(), kept));
        answer.await.is_ok()
    }

    /// What comes of the work, unless the job is cancelled before.
    pub(super) async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, JobError>>,
    ) -> Result<T, JobError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(cancelled()),
            done = work => done,
        }
    }
}

/// The error of a job that its owner cancelled.
pub(super) fn cancelled() -> JobError {
    JobError::new(ErrorKind::Cancelled, "The job was cancelled")
}

/// Passes a job's progress on to its owner.
pub(super) struct ProgressSink<'a> {
    tracker: Tracker,
    told: Progress,
    /// Measures its stages.
    execution: Execution,
    pub(super) owner: &'a JobControl,
    /// The files that the job leaves.
    pub(super) ledger: Ledger,
    /// The ids of its outputs, where they have some.
    pub(super) commits: Commits,
    /// What the user should know of the prompt that ran last.
    pub(super) warnings: Vec<String>,
    /// Where the clients of ComfyUI's own API listen.
    pub(super) relay: Relay,
    clock: StartClock,
    /// The name of the ComfyUI, where it is one of several.
    pub(super) name: Option<String>,
    /// Remembers who made what, where each has folders of its own.
    made: Option<Made>,
    /// What went to ComfyUI that nobody is shown.
    pub(super) secrets: Vec<Secret>,
    /// When the prompt was submitted, where it was by this run of the worker.
    submitted_at: Option<SystemTime>,
    /// When ComfyUI was seen to have begun the prompt.
    begun_at: Option<SystemTime>,
    /// Whether it has begun any prompt of the job.
    pub(super) has_ever_begun: bool,
}

impl<'a> ProgressSink<'a> {
    pub(super) fn new(owner: &'a JobControl, comfy: &Comfy) -> Self {
        Self {
            tracker: Tracker::new([]),
            told: Progress::default(),
            execution: owner.watch.execution(),
            owner,
            ledger: Ledger::new(owner.events.clone(), comfy.folders(), owner.resume.as_deref()),
            commits: Commits::new(owner, comfy),
            warnings: Vec::new(),
            relay: comfy.relay().clone(),
            clock: comfy.clock().clone(),
            name: comfy.name_among_others().map(str::to_owned),
            made: comfy.folders().is_none().then(|| comfy.made().clone()),
            secrets: Vec::new(),
            submitted_at: None,
            begun_at: None,
            has_ever_begun: false,
        }
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Tracker)) {
        change(&mut self.tracker);
        let now = self.tracker.progress();
        self.execution.at(now.stage);
        if *now != self.told {
            if now.step.is_some_and(|(done, _)| done > 0) {
                self.clock.reach(Phase::FirstStep);
            }
            self.told.clone_from(now);
            self.owner.tell(Event::Progress(now.clone()));
        }
    }

    pub(super) fn stage(&mut self, stage: Stage) {
        self.change(|tracker| tracker.stage(stage));
    }

    pub(super) fn graph(&mut self, graph: &Graph) {
        let nodes = graph.nodes.iter();
        self.tracker = Tracker::new(nodes.map(|(id, node)| (id.as_str(), node.class_type.as_str())));
    }

    /// ComfyUI works on the prompt; called as often as that is seen.
    pub(super) fn begun(&mut self) {
        if self.has_begun() {
            // It may go on after ComfyUI could not be asked for a while.
            self.execution.at(self.tracker.progress().stage);
        } else {
            self.begun_at = Some(SystemTime::now());
            self.has_ever_begun = true;
            self.owner.tell(Event::Begun);
            self.change(|tracker| tracker.begin(Instant::now()));
        }
    }

    /// Whether ComfyUI has begun the prompt.
    pub(super) fn has_begun(&self) -> bool {
        self.begun_at.is_some()
    }

    /// A node has made this.
    pub(super) fn executed(&self, node: &String, output: &Value) {
        self.commits.executed(node, output);
        if let (Some(name), Some(made)) = (&self.name, &self.made) {
            made.by(name, &named_files([(node, output)]));
        }
    }

    /// Looks for what a prompt saved that did not come to its end; nothing where ComfyUI has not begun it.
    pub(super) fn search_left(&self, graph: &Graph) {
        if let Some(begun) = self.begun_at {
            let begun = begun - BEGUN_SEEN_AFTER;
            let since = self.submitted_at.map_or(begun, |submitted| submitted.max(begun));
            self.ledger.search_in_background(graph, since, None);
        }
    }

    /// Looks for what the last prompt saved, which ComfyUI has lost, whether it was seen to begin or not.
    pub(super) fn search_lost(&self, graph: &Graph) {
        if let Some(since) = self.submitted_at {
            self.ledger.search_in_background(graph, since, None);
        }
    }

    /// Its prompt is lost, and another one is submitted once ComfyUI can be had: nothing is at work meanwhile.
    pub(super) fn waits(&mut self) {
        self.execution.at(Stage::Waiting);
    }

    /// Another prompt is submitted for the job.
    pub(super) fn another_prompt(&mut self) {
        self.submitted_at = Some(self.ledger.submits());
        self.begun_at = None;
        self.warnings.clear();
        self.commits.begin_again();
        if let Some(told) = &self.owner.told {
            told.another_prompt();
        }
    }

    pub(super) fn preview(&mut self, preview: Preview) {
        self.change(|tracker| tracker.preview(&preview.media_type, preview.image, Instant::now()));
    }
}
