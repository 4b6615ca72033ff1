//! Passes a job's progress on to its owner.

use std::time::{Duration, Instant, SystemTime};

use crate::comfy::Comfy;
use crate::comfy::message::Preview;
use crate::job::Tracker;
use crate::job::progress::{Progress, Stage};
use crate::workflow::Graph;

use super::ledger::Ledger;
use super::{Event, Owner};

/// How long ComfyUI may have been at a prompt, saving files, before that is seen: without a websocket, or on a machine that
/// has too much to do. Files of other jobs of that time are not claimed.
const BEGUN_SEEN_AFTER: Duration = Duration::from_mins(1);

/// Passes a job's progress on to its owner.
pub(super) struct Watcher<'a> {
    tracker: Tracker,
    told: Progress,
    pub(super) owner: &'a Owner,
    /// The files that the job leaves.
    pub(super) ledger: Ledger,
    /// What the user should know of the prompt that ran last.
    pub(super) warnings: Vec<String>,
    /// When the prompt was submitted, where it was by this life of the worker.
    submitted_at: Option<SystemTime>,
    /// When ComfyUI was seen to have begun the prompt.
    begun_at: Option<SystemTime>,
    /// Whether it has begun any prompt of the job.
    pub(super) has_ever_begun: bool,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(owner: &'a Owner, comfy: &Comfy) -> Self {
        Self {
            tracker: Tracker::new([]),
            told: Progress::default(),
            owner,
            ledger: Ledger::new(owner.events.clone(), comfy.folders(), owner.resume.as_deref()),
            warnings: Vec::new(),
            submitted_at: None,
            begun_at: None,
            has_ever_begun: false,
        }
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Tracker)) {
        change(&mut self.tracker);
        let now = self.tracker.progress();
        if *now != self.told {
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
        if !self.has_begun() {
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

    /// Looks for what a prompt saved that did not come to its end; nothing where ComfyUI has not begun it.
    pub(super) fn search_left(&self, graph: &Graph) {
        if let Some(begun) = self.begun_at {
            let begun = begun - BEGUN_SEEN_AFTER;
            let since = self.submitted_at.map_or(begun, |submitted| submitted.max(begun));
            self.ledger.search_in_background(graph, since);
        }
    }

    /// Looks for what the last prompt saved, which ComfyUI has lost, whether it was seen to begin or not.
    pub(super) fn search_lost(&self, graph: &Graph) {
        if let Some(since) = self.submitted_at {
            self.ledger.search_in_background(graph, since);
        }
    }

    /// Another prompt is submitted for the job.
    pub(super) fn anew(&mut self) {
        self.submitted_at = Some(self.ledger.submits());
        self.begun_at = None;
        self.warnings.clear();
    }

    pub(super) fn preview(&mut self, preview: Preview) {
        self.change(|tracker| tracker.preview(&preview.media_type, preview.image, Instant::now()));
    }
}
