//! Passes a job's progress on to its owner.

use std::time::Instant;

use crate::comfy::message::Preview;
use crate::job::Tracker;
use crate::job::progress::{Progress, Stage};
use crate::workflow::Graph;

use super::{Event, Owner};

/// Passes a job's progress on to its owner.
pub(super) struct Watcher<'a> {
    tracker: Tracker,
    told: Progress,
    pub(super) owner: &'a Owner,
    /// Whether ComfyUI has begun the prompt.
    pub(super) has_begun: bool,
    /// Whether it has begun any prompt of the job.
    pub(super) has_ever_begun: bool,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(owner: &'a Owner) -> Self {
        Self {
            tracker: Tracker::new([]),
            told: Progress::default(),
            owner,
            has_begun: false,
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
        if !self.has_begun {
            self.has_begun = true;
            self.has_ever_begun = true;
            self.owner.tell(Event::Begun);
            self.change(|tracker| tracker.begin(Instant::now()));
        }
    }

    /// Another prompt is submitted for the job.
    pub(super) fn anew(&mut self) {
        self.has_begun = false;
    }

    pub(super) fn preview(&mut self, preview: Preview) {
        self.change(|tracker| tracker.preview(&preview.media_type, preview.image, Instant::now()));
    }
}
