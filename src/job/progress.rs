//! How far a job is: percent over the whole graph, the node at work, steps, and the time still needed, by the events of its
//! prompt.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It waits for ComfyUI or for its turn.
    #[default]
    Waiting,
    /// Its images are uploaded and its graph is checked.
    Preparing,
    /// Models that its graph names are fetched.
    Downloading,
    /// Its graph runs.
    Running,
    /// What it left is looked for.
    Collecting,
    /// Its files are made ready for the answer, or uploaded.
    Delivering,
    /// It is over, well or not.
    Done,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// Percent of the whole graph, 0 to 100; never falls, and is 100 only at the end.
    pub percent: u8,
    /// The node at work.
    pub node_id: Option<String>,
    /// Its class.
    pub class_type: Option<String>,
    /// Steps of that node that are done, and in all.
    pub step: Option<(u32, u32)>,
    /// The time still needed, by the pace so far.
    pub eta: Option<Duration>,
    /// The models that are fetched for it.
    pub download: Option<Download>,
    /// Nodes of the graph that are done, and all of them.
    #[serde(skip)]
    pub nodes: (u32, u32),
    /// The last preview picture.
    #[serde(skip)]
    pub preview: Option<Arc<PreviewImage>>,
}

/// How far the models are that are being fetched.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Download {
    /// The file at work, as `folder/name`; the first one if there are several.
    pub file: String,
    /// Bytes of all files that are there.
    pub bytes: u64,
    /// Bytes of all files, once every size is known.
    pub total_bytes: Option<u64>,
    /// The time still needed, by the pace so far.
    pub eta: Option<Duration>,
}

impl Download {
    /// Percent of the bytes, 0 to 100, where their sum is known.
    pub fn percent(&self) -> Option<u8> {
        let total = self.total_bytes.filter(|total| *total > 0)?;
        u8::try_from(self.bytes.min(total).saturating_mul(100) / total).ok()
    }
}

impl Progress {
    /// The job is over. Only one that completed is at 100 percent; another stays where it came to.
    pub fn end(&mut self, completed: bool) {
        let percent = if completed { 100 } else { self.percent };
        *self = Self {
            stage: Stage::Done,
            percent,
            ..Self::default()
        };
    }
}

/// A picture of the work in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewImage {
    /// Counts up from 1 within a job.
    pub number: u32,
    /// `image/jpeg` or `image/png`.
    pub media_type: String,
    /// The encoded picture.
    pub image: Bytes,
}

/// The shortest time between two previews of one job.
const PREVIEW_EVERY: Duration = Duration::from_millis(250);

/// How far an engine elsewhere is, in its own words.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// 0 to 100.
    pub percent: Option<u8>,
    /// Steps done, and all.
    pub step: Option<(u32, u32)>,
    /// The node at work.
    pub node_id: Option<String>,
    /// Its class.
    pub class_type: Option<String>,
    /// The time left.
    pub eta: Option<Duration>,
    /// A preview: its media type, and the encoded picture.
    pub preview: Option<(String, Bytes)>,
}

/// Follows the events of one prompt and turns them into [`Progress`].
#[derive(Debug)]
pub struct Tracker {
    nodes: HashMap<String, Node>,
    total: f64,
    begun: Option<Instant>,
    /// What took no time, since it came from ComfyUI's cache, as a share of the whole.
    free: f64,
    pace: Option<Pace>,
    previewed: Option<Instant>,
    current: Progress,
}

#[derive(Debug)]
struct Node {
    class: String,
    weight: f64,
    done: f64,
}

/// A node that counts steps. What it does before the first one is done, such as loading its model, tells nothing of the
/// others.
#[derive(Debug)]
struct Pace {
    node: String,
    first: (f64, Instant),
    last: (f64, Instant),
    max: f64,
}

impl Pace {
    /// The time of one step.
    fn step(&self) -> Option<Duration> {
        let steps = self.last.0 - self.first.0;
        let time = self.last.1.saturating_duration_since(self.first.1);
        (steps >= 1.0).then(|| time.div_f64(steps))
    }
}

/// What one node of a graph costs, as a share: measured on the Qwen graphs, sampling is most of the time on a GPU,
/// decoding and loading come next, the rest is bookkeeping.
fn weight_of(class: &str) -> f64 {
    if class.contains("Sampler") {
        60.0
    } else if class.contains("VAE") && (class.contains("Decode") || class.contains("Encode")) {
        6.0
    } else if class.contains("UNETLoader") || class.contains("Checkpoint") || class.contains("CLIPLoader") {
        5.0
    } else if class.contains("TextEncode") {
        3.0
    } else {
        1.0
    }
}

impl Tracker {
    /// A tracker for the given nodes: id and class.
    pub fn new<'a>(nodes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let node = |class: &str| Node {
            class: class.to_owned(),
            weight: weight_of(class),
            done: 0.0,
        };
        let nodes: HashMap<_, _> = nodes
            .into_iter()
            .map(|(id, class)| (id.to_owned(), node(class)))
            .collect();
        let total = nodes.values().map(|node| node.weight).sum::<f64>().max(1.0);
        let current = Progress {
            nodes: (0, u32::try_from(nodes.len()).unwrap_or(u32::MAX)),
            ..Progress::default()
        };
        Self {
            nodes,
            total,
            begun: None,
            free: 0.0,
            pace: None,
            previewed: None,
            current,
        }
    }

    /// How far the job is now.
    pub fn progress(&self) -> &Progress {
        &self.current
    }

    /// A preview came; those that follow another too soon are passed over.
    pub fn preview(&mut self, media_type: &str, image: Bytes, now: Instant) {
        let is_soon = |before| now.saturating_duration_since(before) < PREVIEW_EVERY;
        if self.previewed.is_some_and(is_soon) {
            return;
        }
        self.previewed = Some(now);
        let number = self.current.preview.as_ref().map_or(0, |before| before.number) + 1;
        let media_type = media_type.to_owned();
        self.current.preview = Some(Arc::new(PreviewImage {
            number,
            media_type,
            image,
        }));
    }

    /// The job enters a stage.
    pub fn stage(&mut self, stage: Stage) {
        self.current.stage = stage;
        if stage != Stage::Running {
            self.current.node_id = None;
            self.current.class_type = None;
            self.current.step = None;
            self.current.eta = None;
        }
        if stage != Stage::Downloading {
            self.current.download = None;
        }
    }

    /// The models that the job waits for are so far.
    pub fn download(&mut self, download: Download) {
        self.stage(Stage::Downloading);
        self.current.download = Some(download);
    }

    /// An engine elsewhere tells how far it is. A word that comes late takes nothing back.
    pub fn told(&mut self, told: Report) {
        let percent = told.percent.unwrap_or_default().min(99);
        self.current.percent = self.current.percent.max(percent);
        self.current.step = told.step;
        self.current.eta = told.eta;
        let class = told.node_id.as_ref().and_then(|id| self.nodes.get(id));
        self.current.class_type = told.class_type.or_else(|| class.map(|node| node.class.clone()));
        self.current.node_id = told.node_id;
    }

    /// ComfyUI begins a prompt again: what an earlier attempt did no longer counts for the pace.
    pub fn begin(&mut self, now: Instant) {
        self.begun = Some(now);
        self.free = 0.0;
        self.pace = None;
        self.nodes.values_mut().for_each(|node| node.done = 0.0);
        self.stage(Stage::Running);
        self.update(now);
    }

    /// These nodes need not run.
    pub fn cached<'a>(&mut self, ids: impl IntoIterator<Item = &'a str>, now: Instant) {
        for id in ids {
            self.set(id, 1.0);
        }
        self.free = self.done();
        self.update(now);
    }

    /// A node begins.
    pub fn node(&mut self, id: &str, now: Instant) {
        self.current.node_id = Some(id.to_owned());
        self.current.class_type = self.nodes.get(id).map(|node| node.class.clone());
        self.current.step = None;
        self.update(now);
    }

    /// A node stands at `value` of `max`; `finished` says so even where the numbers do not.
    pub fn at(&mut self, id: &str, value: f64, max: f64, finished: bool, now: Instant) {
        let share = if finished {
            1.0
        } else if max > 0.0 {
            (value / max).clamp(0.0, 0.99)
        } else {
            0.0
        };
        self.set(id, share);
        if !finished && max > 1.0 && self.current.node_id.as_deref() == Some(id) {
            self.current.step = Some((to_count(value), to_count(max)));
        }
        let paces = self.pace.as_ref().is_some_and(|pace| pace.node == id);
        // Each message tells of all that have begun, so of those that are finished again and again.
        if !finished || paces {
            self.pace_of(id, if finished { max } else { value }, max, now);
        }
        self.update(now);
    }

    /// Takes down when a node that counts steps had done how many.
    fn pace_of(&mut self, id: &str, value: f64, max: f64, now: Instant) {
        if !(max > 1.0 && (0.0..=max).contains(&value)) {
            return;
        }
        match &mut self.pace {
            // A late message takes nothing back.
            Some(pace) if pace.node == id && pace.max.total_cmp(&max).is_eq() => {
                if value > pace.last.0 {
                    pace.last = (value, now);
                }
            }
            _ => {
                self.pace = Some(Pace {
                    node: id.to_owned(),
                    first: (value, now),
                    last: (value, now),
                    max,
                });
            }
        }
    }

    fn set(&mut self, id: &str, share: f64) {
        // Nodes that a node makes while it runs are called `parent.0.0.child`; they are part of their parent.
        if let Some(node) = self.nodes.get_mut(id) {
            node.done = node.done.max(share);
        }
    }

    fn update(&mut self, now: Instant) {
        let percent = to_percent(self.done());
        self.current.percent = self.current.percent.max(percent);
        let done = self.nodes.values().filter(|node| node.done >= 1.0).count();
        self.current.nodes.0 = u32::try_from(done).unwrap_or(u32::MAX);
        self.current.eta = self.by_steps().or_else(|| self.by_share(now));
    }

    /// The share of the whole that is done.
    fn done(&self) -> f64 {
        self.nodes.values().map(|node| node.done * node.weight).sum::<f64>() / self.total
    }

    /// The time still needed, by the steps of the node that counts them; what follows it is in proportion to it.
    fn by_steps(&self) -> Option<Duration> {
        let pace = self.pace.as_ref()?;
        let (node, step) = (self.nodes.get(&pace.node)?, pace.step()?);
        let others = (1.0 - self.done()) * self.total - (1.0 - node.done) * node.weight;
        if node.weight < others {
            // A light one is no measure for heavier ones.
            return None;
        }
        let steps = pace.max - pace.last.0 + pace.max * (others / node.weight).max(0.0);
        Duration::try_from_secs_f64(step.as_secs_f64() * steps).ok()
    }

    /// The same by the share of the whole that took the time so far, as long as no steps tell.
    fn by_share(&self, now: Instant) -> Option<Duration> {
        let (time, done) = (now.saturating_duration_since(self.begun?), self.done());
        let timed = done - self.free;
        (timed > 0.02).then(|| time.mul_f64((1.0 - done).max(0.0) / timed))
    }
}

/// Whole percent, at most 99: the last one belongs to the end of the job.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped to 0..=99 first"
)]
fn to_percent(share: f64) -> u8 {
    (share * 100.0).clamp(0.0, 99.0) as u8
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is clamped to the range first"
)]
fn to_count(value: f64) -> u32 {
    value.clamp(0.0, f64::from(u32::MAX)) as u32
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
