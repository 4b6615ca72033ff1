//! How far a job is: percent over the whole graph, the node at work, steps, and the time still needed.

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

/// Follows the events of one prompt and turns them into [`Progress`].
#[derive(Debug)]
pub struct Tracker {
    nodes: HashMap<String, Node>,
    total: f64,
    begun: Option<Instant>,
    previewed: Option<Instant>,
    current: Progress,
}

#[derive(Debug)]
struct Node {
    class: String,
    weight: f64,
    done: f64,
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
        let nodes: HashMap<String, Node> = nodes
            .into_iter()
            .map(|(id, class)| {
                (
                    id.to_owned(),
                    Node {
                        class: class.to_owned(),
                        weight: weight_of(class),
                        done: 0.0,
                    },
                )
            })
            .collect();
        let total = nodes.values().map(|node| node.weight).sum::<f64>().max(1.0);
        Self {
            nodes,
            total,
            begun: None,
            previewed: None,
            current: Progress::default(),
        }
    }

    /// How far the job is now.
    pub fn progress(&self) -> &Progress {
        &self.current
    }

    /// A preview came; those that follow another too soon are passed over.
    pub fn preview(&mut self, media_type: &str, image: Bytes, now: Instant) {
        if self
            .previewed
            .is_some_and(|before| now.saturating_duration_since(before) < PREVIEW_EVERY)
        {
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

    /// ComfyUI begins a prompt anew: what an earlier attempt did no longer counts for the pace.
    pub fn begin(&mut self, now: Instant) {
        self.begun = Some(now);
        self.nodes.values_mut().for_each(|node| node.done = 0.0);
        self.stage(Stage::Running);
    }

    /// These nodes need not run.
    pub fn cached<'a>(&mut self, ids: impl IntoIterator<Item = &'a str>, now: Instant) {
        for id in ids {
            self.set(id, 1.0);
        }
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
        self.update(now);
    }

    fn set(&mut self, id: &str, share: f64) {
        // Nodes that a node makes while it runs are called `parent.0.0.child`; they are part of their parent.
        if let Some(node) = self.nodes.get_mut(id) {
            node.done = node.done.max(share);
        }
    }

    fn update(&mut self, now: Instant) {
        let done = self.nodes.values().map(|node| node.done * node.weight).sum::<f64>() / self.total;
        let percent = to_percent(done);
        self.current.percent = self.current.percent.max(percent);
        self.current.eta = match self.begun {
            Some(begun) if done > 0.02 => Some(
                now.saturating_duration_since(begun)
                    .mul_f64((1.0 - done).max(0.0) / done),
            ),
            _ => None,
        };
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tracker() -> Tracker {
        Tracker::new([("3", "KSampler"), ("8", "VAEDecode"), ("60", "SaveImage")])
    }

    #[test]
    fn percent_covers_the_graph_and_never_falls() {
        let start = Instant::now();
        let mut tracker = tracker();
        tracker.begin(start);
        tracker.node("3", start);
        let mut last = 0;
        for step in 0..=8_u8 {
            tracker.at(
                "3",
                f64::from(step),
                8.0,
                false,
                start + Duration::from_secs(step.into()),
            );
            assert!(tracker.progress().percent >= last);
            last = tracker.progress().percent;
        }
        assert_eq!(tracker.progress().step, Some((8, 8)));
        assert!((80..95).contains(&last), "{last}");
        tracker.at("3", 0.0, 8.0, false, start);
        assert_eq!(tracker.progress().percent, last, "a late message takes nothing back");
        tracker.at("8", 1.0, 1.0, true, start);
        tracker.at("60", 1.0, 1.0, true, start);
        assert_eq!(tracker.progress().percent, 99, "100 belongs to the end");
        let mut end = tracker.progress().clone();
        end.end(true);
        assert_eq!((end.stage, end.percent), (Stage::Done, 100));
    }

    /// What ComfyUI may tell, in any order, sense or not.
    #[derive(Debug, Clone)]
    enum Told {
        Begin,
        Cached(usize),
        Node(usize),
        At(usize, f64, f64, bool),
        Stage(usize),
        Preview,
    }

    fn told() -> impl Strategy<Value = Told> {
        let number = || prop_oneof![any::<f64>(), 0.0..30.0_f64];
        prop_oneof![
            Just(Told::Begin),
            (0..5_usize).prop_map(Told::Cached),
            (0..5_usize).prop_map(Told::Node),
            (0..5_usize, number(), number(), any::<bool>())
                .prop_map(|(node, value, max, finished)| Told::At(node, value, max, finished)),
            (0..5_usize).prop_map(Told::Stage),
            Just(Told::Preview),
        ]
    }

    proptest! {
        #[test]
        fn percent_never_falls_and_is_100_exactly_when_completed(
            events in proptest::collection::vec((told(), 0..600_u64), 0..60),
            completed: bool,
        ) {
            const IDS: [&str; 5] = ["3", "8", "60", "3.0.1", "none"];
            const STAGES: [Stage; 5] =
                [Stage::Waiting, Stage::Preparing, Stage::Running, Stage::Collecting, Stage::Delivering];
            let mut tracker = tracker();
            let mut now = Instant::now();
            let mut before = tracker.progress().clone();
            let mut shown = None;
            for (event, milliseconds) in events {
                now += Duration::from_millis(milliseconds);
                match event {
                    Told::Begin => tracker.begin(now),
                    Told::Cached(node) => tracker.cached([IDS[node]], now),
                    Told::Node(node) => tracker.node(IDS[node], now),
                    Told::At(node, value, max, finished) => tracker.at(IDS[node], value, max, finished, now),
                    Told::Stage(stage) => tracker.stage(STAGES[stage]),
                    Told::Preview => tracker.preview("image/jpeg", Bytes::new(), now),
                }
                let progress = tracker.progress().clone();
                prop_assert!(before.percent <= progress.percent && progress.percent < 100);
                let number = |progress: &Progress| progress.preview.as_ref().map_or(0, |preview| preview.number);
                prop_assert!(number(&progress) - number(&before) <= 1);
                if number(&progress) > number(&before) {
                    prop_assert!(shown.is_none_or(|shown| now - shown >= PREVIEW_EVERY));
                    shown = Some(now);
                }
                before = progress;
            }
            let mut end = before.clone();
            end.end(completed);
            prop_assert_eq!(end.percent, if completed { 100 } else { before.percent });
            prop_assert_eq!(end, Progress { stage: Stage::Done, percent: if completed { 100 } else { before.percent }, ..Progress::default() });
        }
    }

    #[test]
    fn eta_follows_the_pace() {
        let start = Instant::now();
        let mut tracker = Tracker::new([("1", "KSampler")]);
        tracker.begin(start);
        assert_eq!(tracker.progress().eta, None);
        tracker.at("1", 1.0, 4.0, false, start + Duration::from_secs(2));
        assert_eq!(tracker.progress().eta, Some(Duration::from_secs(6)));
    }

    #[test]
    fn cached_nodes_count_and_unknown_ones_do_not() {
        let start = Instant::now();
        let mut tracker = tracker();
        tracker.begin(start);
        tracker.cached(["3", "8"], start);
        assert!(tracker.progress().percent > 90);
        tracker.node("60.0.1", start);
        assert_eq!(tracker.progress().class_type, None);
    }
}
