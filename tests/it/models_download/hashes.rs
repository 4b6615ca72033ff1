//! Wrong bytes: from the CDN, and in the header of a safetensors file of which no hash is known.

use super::{Place, REPO, Wanted, fetch, fetch_one, on_hub, says, settings, told};
use crate::support::model_hub::{Content, Fault, Host, ModelHub, Plain, Request, Rule};

const SIZE: u64 = 400_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_byte_anywhere_has_that_file_alone_fetched_once_more() {
    for place_of_it in [0, 1, 65_535, 65_536, SIZE / 2, SIZE - 1] {
        let (hub, place) = (ModelHub::start().await, Place::new());
        let (bad, good) = (on_hub(&hub, "bad", SIZE), on_hub(&hub, "good", SIZE + 1));
        hub.fault(Rule::on(Host::Cdn, Fault::Flip(place_of_it)).file("bad").times(1));
        for result in fetch(settings(&hub), vec![place.hub("bad"), place.hub("good")]).await {
            result.expect("a file");
        }
        place.holds(&[("bad", &bad), ("good", &good)]);
        hub.settled();
        assert!(hub.sent() <= 3 * SIZE + 1, "{}", hub.sent());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_that_stays_wrong_is_an_error_with_both_hashes() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let (bad, good) = (on_hub(&hub, "bad.bin", SIZE), on_hub(&hub, "good.bin", SIZE + 1));
    hub.fault(Rule::on(Host::Cdn, Fault::Flip(SIZE / 2)).file("bad.bin"));
    let mut results = fetch(settings(&hub), vec![place.hub("bad.bin"), place.hub("good.bin")]).await;
    results.remove(1).expect("a file");
    let mut wrong = bad.bytes();
    wrong[usize::try_from(SIZE / 2).expect("an index")] ^= 1;
    let wrong = Content::literal(wrong);
    let text = told(&hub, results.remove(0));
    says(&text, &["bad.bin", &bad.sha256(), &wrong.sha256()]);
    place.holds(&[("good.bin", &good)]);
    // Twice and no more.
    let sent: u64 = hub
        .requests()
        .iter()
        .filter(|request| request.file == "bad.bin")
        .map(Request::sent)
        .sum();
    assert!((2 * SIZE..3 * SIZE).contains(&sent), "{sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_of_the_manifest_guards_a_file_of_any_server() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = Content::noise(1, SIZE);
    let url = hub.put("x.bin", Plain::new(content.clone()));
    let wanted = Wanted {
        sha256: Some(content.sha256()),
        ..place.url(&url, "x.bin", None)
    };
    hub.fault(Rule::on(Host::Files, Fault::Flip(7)).method("GET"));
    says(
        &told(&hub, fetch_one(settings(&hub), wanted.clone()).await),
        &["x.bin", &content.sha256()],
    );
    assert_eq!(place.files(), Vec::<String>::new());
    hub.forgive();
    let fetched = fetch_one(settings(&hub), wanted).await.expect("a file");
    assert_eq!(fetched.sha256, Some(content.sha256()));
    place.holds(&[("x.bin", &content)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_safetensors_header_is_told_by_the_files_name() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let whole = Content::safetensors(1, SIZE);
    let bytes = whole.bytes();
    let mut long = bytes.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut no_json = bytes.clone();
    no_json[8] = b'<';
    let damaged = [
        ("cut", Content::literal(&bytes[..bytes.len() - 1])),
        ("long", Content::literal(long)),
        ("no_json", Content::literal(no_json)),
        ("short", Content::literal(&bytes[..7])),
        ("empty", Content::literal("")),
        ("says_more", Content::safetensors_that_says(1, SIZE, 1)),
        ("says_less", Content::safetensors_that_says(1, SIZE, -1)),
        ("page", Content::literal("<!doctype html><title>Sorry</title>")),
    ];
    for (name, content) in damaged {
        let name = format!("{name}.safetensors");
        let url = hub.put(&name, Plain::new(content));
        let text = told(&hub, fetch_one(settings(&hub), place.url(&url, &name, None)).await);
        says(&text, &[&name, "safetensors"]);
        place.lacks(&name);
    }
    let url = hub.put("whole.safetensors", Plain::new(whole.clone()));
    let wanted = place.url(&url, "whole.safetensors", None);
    fetch_one(settings(&hub), wanted).await.expect("a file");
    assert_eq!(whole.differs(&place.path("whole.safetensors")), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_the_hub_itself_has_damaged_is_told_too() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = Content::safetensors_that_says(1, SIZE, 5);
    hub.push(REPO, "main", [("x.safetensors", &content)]);
    let text = told(&hub, fetch_one(settings(&hub), place.hub("x.safetensors")).await);
    says(&text, &["x.safetensors", "not a whole safetensors file"]);
    place.lacks("x.safetensors");
}
