//! The transfer when nothing goes wrong: ranges, connections, sizes, progress, disk.

use std::sync::Mutex;

use tokio_util::sync::CancellationToken;

use super::{
    Place, RANGE, REPO, Settings, Wanted, fetch, fetch_one, fetch_until, on_hub, patient, says, settings, told,
};
use crate::support::model_hub::{Content, Fault, Host, Link, ModelHub, Rule};

/// A link on which connections are open at once for a while.
const SLOW: Link = Link {
    connection: Some(4_000_000),
    total: None,
    round_trip: std::time::Duration::from_millis(2),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_of_several_files_come_at_once_over_no_more_connections_than_allowed() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let names = ["diffusion_models/a", "text_encoders/b", "vae/c"];
    let contents = [2_000_000, 1_000_000, 30_000].map(|size| Content::noise(size, size));
    hub.push(REPO, "main", names.into_iter().zip(&contents));
    hub.link(SLOW);
    let settings = Settings {
        connections: 5,
        ..settings(&hub)
    };
    let wanted = names.iter().map(|name| place.hub(name)).collect();
    for result in fetch(settings, wanted).await {
        result.expect("a file");
    }
    place.holds(&[
        (names[0], &contents[0]),
        (names[1], &contents[1]),
        (names[2], &contents[2]),
    ]);
    assert!((2..=5).contains(&hub.busiest(Host::Cdn)), "{}", hub.busiest(Host::Cdn));
    let large = hub.requests();
    let ranges = large
        .iter()
        .filter(|request| request.host == Host::Cdn && request.file == names[0]);
    assert!(ranges.count() > 1);
    // Half a range given up here and there, because another connection took it over.
    let size: u64 = contents.iter().map(Content::size).sum();
    assert!(
        hub.sent() >= size && hub.sent() < size + size / 4,
        "{} of {size}",
        hub.sent()
    );
    assert_eq!(hub.count(Host::Hub, "HEAD"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_file_and_one_connection_at_a_time_when_told_so() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let names = ["a", "b", "c"];
    let contents = [600_000, 300_000, 100_000].map(|size| Content::noise(size, size));
    hub.push(REPO, "main", names.into_iter().zip(&contents));
    hub.link(SLOW);
    let settings = Settings {
        parallel: false,
        ..patient(&hub)
    };
    let wanted = names.iter().map(|name| place.hub(name)).collect();
    for result in fetch(settings, wanted).await {
        result.expect("a file");
    }
    place.holds(&[("a", &contents[0]), ("b", &contents[1]), ("c", &contents[2])]);
    assert_eq!(hub.busiest(Host::Cdn), 1);
    assert_eq!(hub.sent(), 1_000_000);
    // The Hub is asked before that, for the room that all of them need.
    let requests = hub.requests().into_iter().filter(|request| request.host == Host::Cdn);
    let mut order: Vec<String> = requests.map(|request| request.file).collect();
    order.dedup();
    assert_eq!(order.len(), names.len(), "one file after another: {order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_any_size_are_right() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let sizes = [
        0,
        1,
        2,
        RANGE - 1,
        RANGE,
        RANGE + 1,
        2 * RANGE - 1,
        2 * RANGE,
        2 * RANGE + 1,
        7 * RANGE + 13,
    ];
    let files: Vec<(String, Content)> = sizes
        .into_iter()
        .map(|size| (format!("{size}.bin"), Content::noise(size, size)))
        .collect();
    let files: Vec<(&str, &Content)> = files.iter().map(|(name, content)| (name.as_str(), content)).collect();
    hub.push(REPO, "main", files.iter().copied());
    let wanted = files.iter().map(|(name, _)| place.hub(name)).collect();
    for (result, (name, content)) in fetch(settings(&hub), wanted).await.into_iter().zip(&files) {
        let fetched = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((fetched.size, fetched.sha256), (content.size(), Some(content.sha256())));
    }
    place.holds(&files);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_left_and_what_has_another_size_is_replaced() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, "a", 300_000);
    let fetched = fetch_one(settings(&hub), place.hub("a")).await.expect("a file");
    assert_eq!(fetched.received, 300_000);
    hub.forget();
    let fetched = fetch_one(settings(&hub), place.hub("a")).await.expect("a file");
    assert_eq!((fetched.received, fetched.size), (0, 300_000));
    assert_eq!(hub.count(Host::Cdn, "GET"), 0);
    for other in [0, 1, 299_999, 300_001, 900_000] {
        std::fs::write(place.path("a"), vec![7; other]).expect("a file");
        fetch_one(settings(&hub), place.hub("a")).await.expect("a file");
        place.holds(&[("a", &content)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_stays_until_what_replaces_it_is_whole() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    on_hub(&hub, "a", 300_000);
    std::fs::create_dir_all(place.path("")).expect("a folder");
    std::fs::write(place.path("a"), "old").expect("a file");
    hub.fault(Rule::on(Host::Cdn, Fault::Flip(9)));
    fetch_one(settings(&hub), place.hub("a"))
        .await
        .expect_err("a wrong byte");
    assert_eq!(std::fs::read(place.path("a")).expect("a file"), b"old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_begins_rises_and_ends_at_the_size() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let sizes = [1_500_000, 40_000];
    on_hub(&hub, "a", sizes[0]);
    on_hub(&hub, "b", sizes[1]);
    hub.link(SLOW);
    let seen = [(); 2].map(|()| Mutex::new(Vec::new()));
    let watch = |progress: super::Progress<'_>| {
        assert_eq!(progress.target, place.path(["a", "b"][progress.index]));
        assert!(!progress.waiting);
        let mut seen = seen[progress.index].lock().expect("no panic");
        seen.push((progress.bytes, progress.total));
    };
    let wanted = vec![place.hub("a"), place.hub("b")];
    for result in fetch_until(settings(&hub), wanted, watch, CancellationToken::new()).await {
        result.expect("a file");
    }
    for (seen, size) in seen.iter().zip(sizes) {
        let seen = seen.lock().expect("no panic");
        assert!(seen.is_sorted_by_key(|(bytes, _)| *bytes), "{seen:?}");
        assert_eq!(seen.last(), Some(&(size, Some(size))));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_too_small_is_told_before_anything_is_fetched() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let huge = Content::noise(1, 1 << 60);
    hub.push(REPO, "main", [("huge.safetensors", &huge)]);
    let small = on_hub(&hub, "small", 100_000);
    let mut results = fetch(settings(&hub), vec![place.hub("huge.safetensors"), place.hub("small")]).await;
    let small_one = results.remove(1);
    let text = told(&hub, results.remove(0));
    says(&text, &["huge.safetensors", "GB"]);
    assert!(
        hub.requests()
            .iter()
            .all(|request| request.host == Host::Hub || request.file == "small")
    );
    small_one.expect("it has room");
    place.holds(&[("small", &small)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_made_is_told() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, "a", 100_000);
    std::fs::write(place.folder.path().join("file"), "").expect("a file");
    let bad = Wanted {
        target: place.folder.path().join("file/loras/a"),
        ..place.hub("a")
    };
    let mut results = fetch(settings(&hub), vec![bad, place.hub("a")]).await;
    results.remove(1).expect("a file");
    says(&told(&hub, results.remove(0)), &["file/loras"]);
    std::fs::remove_file(place.folder.path().join("file")).expect("a file");
    place.holds(&[("a", &content)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_size_and_the_hash_that_a_manifest_names_must_be_the_files_own() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, "a", 200_000);
    let good = Wanted {
        size: Some(200_000),
        sha256: Some(content.sha256()),
        ..place.hub("a")
    };
    fetch_one(settings(&hub), good.clone()).await.expect("a file");
    place.holds(&[("a", &content)]);
    std::fs::remove_file(place.path("a")).expect("a file");
    let other = Content::noise(3, 3).sha256();
    let wrong_hash = Wanted {
        sha256: Some(other.clone()),
        ..good.clone()
    };
    says(
        &told(&hub, fetch_one(settings(&hub), wrong_hash).await),
        &["a", &other, &content.sha256()],
    );
    place.lacks("a");
    let wrong_size = Wanted {
        size: Some(200_001),
        ..good
    };
    says(
        &told(&hub, fetch_one(settings(&hub), wrong_size).await),
        &["200001", "200000"],
    );
    place.lacks("a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_is_called_off_ends_at_once() {
    for fault in [Fault::Stall(0), Fault::Silence, Fault::Stall(20_000)] {
        let (hub, place) = (ModelHub::start().await, Place::new());
        on_hub(&hub, "a", 500_000);
        hub.fault(Rule::on(Host::Cdn, fault));
        let stop = CancellationToken::new();
        let settings = Settings {
            stall: std::time::Duration::from_hours(1),
            ..settings(&hub)
        };
        let cancel = async {
            crate::support::until("the CDN is asked", async || hub.count(Host::Cdn, "GET") > 0).await;
            stop.cancel();
        };
        let wanted = vec![place.hub("a")];
        let (mut results, ()) = tokio::join!(fetch_until(settings, wanted, |_| {}, stop.clone()), cancel);
        let error = results.remove(0).expect_err("it was cancelled");
        assert!(matches!(error, super::FetchError::Cancelled), "{error:?}");
        place.lacks("a");
    }
}
