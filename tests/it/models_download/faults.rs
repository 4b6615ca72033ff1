//! What the CDN does wrong.

use std::time::Duration;

use super::{Place, RANGE, Settings, fetch, fetch_one, on_hub, patient, says, settings, told};
use crate::support::model_hub::{Fault, Host, ModelHub, Rule};

const SIZE: u64 = 5 * RANGE + 100;

/// Fetches a file while the rules are in force; it must be right.
async fn comes_right(what: &str, rules: impl IntoIterator<Item = Rule>) -> ModelHub {
    comes_right_by(settings, what, rules).await
}

/// The same with other settings.
async fn comes_right_by(
    settings: fn(&ModelHub) -> Settings,
    what: &str,
    rules: impl IntoIterator<Item = Rule>,
) -> ModelHub {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, "a.bin", SIZE);
    rules.into_iter().for_each(|rule| hub.fault(rule));
    let result = fetch_one(settings(&hub), place.hub("a.bin")).await;
    result.unwrap_or_else(|error| panic!("{what}: {error}\n{:#?}", hub.requests()));
    place.holds(&[("a.bin", &content)]);
    hub.settled();
    hub
}

/// Fetches a file while the rules are in force; it must fail. Gives what is told.
async fn comes_to_nothing(what: &str, rules: impl IntoIterator<Item = Rule>) -> String {
    let (hub, place) = (ModelHub::start().await, Place::new());
    on_hub(&hub, "a.bin", SIZE);
    let good = on_hub(&hub, "good.bin", SIZE);
    rules.into_iter().for_each(|rule| hub.fault(rule.file("a.bin")));
    let mut results = fetch(settings(&hub), vec![place.hub("a.bin"), place.hub("good.bin")]).await;
    results.remove(1).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(good.differs(&place.path("good.bin")), None);
    place.lacks("a.bin");
    hub.settled();
    let text = told(&hub, results.remove(0));
    says(&text, &["a.bin"]);
    assert!(hub.requests().len() < 300, "{what}: {}", hub.requests().len());
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_may_end_at_any_byte() {
    let mut at = 0;
    while at < SIZE {
        comes_right("closed", [Rule::on(Host::Cdn, Fault::Cut(at)).times(2)]).await;
        comes_right("reset", [Rule::on(Host::Cdn, Fault::Reset(at)).after(1).times(2)]).await;
        at = at * 2 + 1 + at % 7;
    }
    comes_right("before its answer", [Rule::on(Host::Cdn, Fault::HangUp).times(3)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_always_end_early_bring_the_file_piece_by_piece() {
    let hub = comes_right("closed", [Rule::on(Host::Cdn, Fault::Cut(30_000))]).await;
    // What came is kept.
    assert!(hub.sent() < 2 * SIZE, "{}", hub.sent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_brings_nothing_more_is_left() {
    for after in [0, 1, 1000, RANGE - 1] {
        comes_right("stall", [Rule::on(Host::Cdn, Fault::Stall(after)).times(3)]).await;
    }
    comes_right("silence", [Rule::on(Host::Cdn, Fault::Silence).after(1).times(2)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_connection_does_not_hold_the_others_up() {
    // Its range would take half an hour.
    comes_right(
        "drip",
        [Rule::on(Host::Cdn, Fault::Drip(10, Duration::from_millis(30))).times(1)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cdn_that_is_busy_is_asked_again() {
    for status in [408, 429, 500, 502, 503, 504] {
        comes_right(
            "busy",
            [Rule::on(Host::Cdn, Fault::Answer(status, Vec::new())).times(3)],
        )
        .await;
        let headers = vec![("Retry-After", "0".to_owned())];
        comes_right(
            "busy",
            [Rule::on(Host::Cdn, Fault::Answer(status, headers)).after(1).times(2)],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_that_is_too_old_is_replaced() {
    for serves in [8, 11, 16] {
        let (hub, place) = (ModelHub::start().await, Place::new());
        let content = on_hub(&hub, "a.bin", 60 * RANGE);
        hub.signatures_serve(serves);
        hub.fault(Rule::on(Host::Cdn, Fault::Cut(RANGE)));
        fetch_one(settings(&hub), place.hub("a.bin")).await.expect("a file");
        place.holds(&[("a.bin", &content)]);
        // One question for all the ranges that were refused together.
        let (asked, ranges) = (hub.count(Host::Hub, "HEAD"), hub.count(Host::Cdn, "GET"));
        assert!(ranges >= 60);
        assert!(
            asked > 60 / serves && asked <= 2 + ranges / serves,
            "{asked} for {ranges}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_that_expires_in_the_midst_of_it_is_replaced() {
    for status in [401, 403, 404, 410] {
        let hub = comes_right_by(
            patient,
            "expired",
            [Rule::on(Host::Cdn, Fault::Answer(status, Vec::new())).after(1).times(1)],
        )
        .await;
        assert_eq!(hub.count(Host::Hub, "HEAD"), 2, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_that_are_never_good_are_told_without_them() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    on_hub(&hub, "a.bin", SIZE);
    hub.signatures_serve(0);
    let text = told(&hub, fetch_one(settings(&hub), place.hub("a.bin")).await);
    says(&text, &["a.bin", "403"]);
    assert!(hub.count(Host::Hub, "HEAD") < 50, "{}", hub.count(Host::Hub, "HEAD"));
    place.lacks("a.bin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_is_ignored_still_brings_the_file() {
    let whole = || Rule::on(Host::Cdn, Fault::Whole);
    let hub = comes_right("always", [whole()]).await;
    assert!(hub.sent() <= 20 * SIZE, "{}", hub.sent());
    comes_right("the first", [whole().times(1)]).await;
    comes_right("a later one", [whole().after(2).times(1)]).await;
    // And is cut besides.
    comes_right(
        "cut",
        [
            Rule::on(Host::Cdn, Fault::Whole).times(1),
            Rule::on(Host::Cdn, Fault::Cut(100)).times(2),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_or_a_range_that_lies_is_noticed() {
    for fault in [
        Fault::Length(-1),
        Fault::Length(-1000),
        Fault::Length(1),
        Fault::Length(100_000),
        Fault::Misplaced(1),
        Fault::Misplaced(-1),
        Fault::Misplaced(5000),
        Fault::Total(1),
        Fault::Total(-1),
    ] {
        let what = format!("{fault:?}");
        // The range at the beginning cannot come from before it, nor can one at the end from behind it.
        comes_right(&what, [Rule::on(Host::Cdn, fault).after(1).times(2)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_beyond_the_file_is_looked_into() {
    comes_right(
        "416",
        [Rule::on(Host::Cdn, Fault::Answer(416, Vec::new())).after(1).times(1)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_never_taken_for_a_file() {
    comes_right("once", [Rule::on(Host::Cdn, Fault::Page).times(1)]).await;
    comes_to_nothing("always", [Rule::on(Host::Cdn, Fault::Page)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_ends_well_is_a_clear_error() {
    let cases: [(Fault, &str); 14] = [
        (Fault::Answer(500, Vec::new()), "500"),
        (Fault::Answer(503, Vec::new()), "503"),
        (Fault::Answer(429, vec![("Retry-After", "0".to_owned())]), "429"),
        (Fault::Answer(416, Vec::new()), "416"),
        (Fault::Answer(400, Vec::new()), "400"),
        (Fault::HangUp, ""),
        (Fault::Silence, ""),
        (Fault::Stall(0), ""),
        (Fault::Cut(0), ""),
        (Fault::Total(1), ""),
        (Fault::Length(-1), ""),
        (Fault::Length(1), ""),
        (Fault::Misplaced(1), ""),
        (Fault::Redirect("{}".to_owned()), ""),
    ];
    for (fault, part) in cases {
        let text = comes_to_nothing(&format!("{fault:?}"), [Rule::on(Host::Cdn, fault)]).await;
        says(&text, &[part]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_at_once_still_ends_right() {
    for round in 0..4 {
        let rules = [
            Rule::on(Host::Cdn, Fault::Answer(503, Vec::new()))
                .after(round)
                .times(1),
            Rule::on(Host::Cdn, Fault::Stall(2000)).after(round + 1).times(1),
            Rule::on(Host::Cdn, Fault::Cut(7777)).after(round + 1).times(1),
            Rule::on(Host::Cdn, Fault::Answer(403, Vec::new()))
                .after(round)
                .times(1),
            Rule::on(Host::Hub, Fault::Answer(429, Vec::new())).times(1),
        ];
        comes_right("everything", rules).await;
    }
}
