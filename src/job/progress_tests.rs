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

/// As on an H200: the models are in ComfyUI's cache, and the first step brings them to the GPU.
#[test]
fn eta_follows_the_steps_and_neither_the_cache_nor_the_first_step() {
    let start = Instant::now();
    let mut tracker = Tracker::new([("1", "UNETLoader"), ("3", "KSampler"), ("8", "VAEDecode")]);
    tracker.begin(start);
    tracker.cached(["1"], start);
    tracker.node("3", start);
    let eta = |tracker: &Tracker| tracker.progress().eta.map(|eta| eta.as_secs());
    let mut at = |step: u32, seconds: u64| {
        let now = start + Duration::from_secs(seconds);
        tracker.at("3", step.into(), 200.0, false, now);
        eta(&tracker)
    };
    assert_eq!(at(1, 7), None, "nothing is known yet");
    // The decoder has a tenth of the sampler's weight.
    assert_eq!(at(2, 8), Some(198 + 20));
    assert_eq!(at(101, 107), Some(99 + 20));
    assert_eq!(at(100, 108), Some(99 + 20), "a late message takes nothing back");
    tracker.at("3", 200.0, 200.0, true, start + Duration::from_secs(206));
    assert_eq!(eta(&tracker), Some(20));
    tracker.begin(start + Duration::from_mins(5));
    assert_eq!(eta(&tracker), None);
}

#[test]
fn of_two_nodes_that_count_steps_the_one_at_work_is_the_measure() {
    let start = Instant::now();
    let mut tracker = Tracker::new([("1", "ImageUpscaleWithModel"), ("3", "KSampler"), ("8", "VAEDecode")]);
    let after = |seconds: u64| start + Duration::from_secs(seconds);
    tracker.begin(start);
    tracker.at("1", 1.0, 100.0, false, after(1));
    tracker.at("1", 50.0, 100.0, false, after(50));
    // The sampler has sixty times its weight; its steps say nothing of that, nor do 50 s for half a sixtieth.
    assert_eq!(tracker.progress().eta, None);
    tracker.at("1", 100.0, 100.0, true, after(100));
    for step in 1..=5_u32 {
        let now = after(100 + 10 * u64::from(step));
        tracker.at("3", step.into(), 10.0, false, now);
        tracker.at("1", 100.0, 100.0, true, now);
    }
    assert_eq!(tracker.progress().eta, Some(Duration::from_mins(1)));
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
