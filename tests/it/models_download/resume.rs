//! Downloads that were ended in their midst, and several at once for one file.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::{Place, REPO, Settings, Wanted, fetch, fetch_one, fetch_until, hub_file, on_hub, settings};
use crate::support::model_hub::{Content, Fault, Host, Link, ModelHub, Plain, Rule};
use crate::support::{PATIENCE, until};

/// Set for a process that fetches: the Hub's address, and the folder.
const CHILD_HUB: &str = "MODELS_TEST_HUB";
const CHILD_FOLDER: &str = "MODELS_TEST_FOLDER";
const NAME: &str = "diffusion_models/x.safetensors";
/// Bytes of a file that is large enough for a share of it to mean something.
const LARGE: u64 = 160_000_000;
/// Slow enough that little of what was sent lies between the sockets when a process is killed, on a busy machine too.
const LINK: Link = Link {
    connection: Some(3_000_000),
    total: None,
    round_trip: std::time::Duration::ZERO,
};

fn settings_of_a_child(hub: &ModelHub) -> Settings {
    Settings {
        smallest_range: 1_000_000,
        stall: std::time::Duration::from_secs(15),
        ..settings(hub)
    }
}

/// This test alone in a process of its own, which fetches [`NAME`].
fn child(hub: &ModelHub, folder: &Path) -> Child {
    Command::new(std::env::current_exe().expect("its own path"))
        .args([
            "--exact",
            "models_download::resume::a_process_of_its_own_fetches_a_file",
        ])
        .env(CHILD_HUB, hub.url.as_str())
        .env(CHILD_FOLDER, folder)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("this program runs")
}

async fn ends_well(mut child: Child) {
    let end = tokio::time::timeout(PATIENCE, child.wait()).await;
    assert!(end.expect("in time").expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_of_its_own_fetches_a_file() {
    let servers = ModelHub::start().await;
    if let (Some(hub), Some(folder)) = (std::env::var_os(CHILD_HUB), std::env::var_os(CHILD_FOLDER)) {
        let hub = hub.to_str().expect("UTF-8").parse().expect("a URL");
        let settings = Settings {
            endpoint: hub,
            ..settings_of_a_child(&servers)
        };
        let wanted = hub_file(&PathBuf::from(folder).join("models").join(NAME), REPO, "main", NAME);
        fetch_one(settings, wanted).await.expect("a file");
        return;
    }
    let (hub, place) = (servers, Place::new());
    let content = on_hub(&hub, NAME, 3_000_000);
    ends_well(child(&hub, place.folder.path())).await;
    place.holds(&[(NAME, &content)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_half_costs_two_percent_at_most() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, NAME, LARGE);
    hub.link(LINK);
    let mut victim = child(&hub, place.folder.path());
    until("half of it was sent", async || hub.sent() >= LARGE / 2).await;
    victim.kill().await.expect("it runs");
    place.lacks(NAME);
    hub.link(Link::default());
    ends_well(child(&hub, place.folder.path())).await;
    place.holds(&[(NAME, &content)]);
    assert!(hub.sent() <= LARGE + LARGE / 50, "{} of {LARGE}", hub.sent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_any_moment_end_in_the_right_bytes() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, NAME, 40_000_000);
    hub.link(LINK);
    for share in 1..8 {
        let mut victim = child(&hub, place.folder.path());
        until("more of it was sent", async || hub.sent() >= content.size() * share / 9).await;
        victim.kill().await.expect("it runs");
        place.lacks(NAME);
    }
    hub.link(Link::default());
    ends_well(child(&hub, place.folder.path())).await;
    place.holds(&[(NAME, &content)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_one_download() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, NAME, 20_000_000);
    hub.link(LINK);
    let children = [(); 3].map(|()| child(&hub, place.folder.path()));
    for child in children {
        ends_well(child).await;
    }
    place.holds(&[(NAME, &content)]);
    assert!(hub.sent() <= content.size() + content.size() / 50, "{}", hub.sent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_goes_on_when_the_other_is_killed() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, NAME, LARGE);
    hub.link(LINK);
    let mut victim = child(&hub, place.folder.path());
    until("some of it was sent", async || hub.sent() >= LARGE / 4).await;
    let waited = AtomicBool::new(false);
    let watch = |progress: super::Progress<'_>| {
        waited.fetch_or(progress.waiting, Ordering::Relaxed);
    };
    let kill = async {
        until("the other waits", async || waited.load(Ordering::Relaxed)).await;
        victim.kill().await.expect("it runs");
    };
    let fetching = fetch_until(
        settings_of_a_child(&hub),
        vec![place.hub(NAME)],
        watch,
        CancellationToken::new(),
    );
    let (mut results, ()) = tokio::join!(fetching, kill);
    let fetched = results.remove(0).expect("a file");
    assert!(fetched.received < LARGE, "{}", fetched.received);
    place.holds(&[(NAME, &content)]);
    assert!(hub.sent() <= LARGE + LARGE / 25, "{}", hub.sent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_downloads_in_one_process_share_it_too() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, NAME, 2_000_000);
    hub.link(Link {
        connection: Some(2_000_000),
        ..Link::default()
    });
    let waited = AtomicBool::new(false);
    let watch = |progress: super::Progress<'_>| {
        waited.fetch_or(progress.waiting, Ordering::Relaxed);
    };
    let one = || fetch_until(settings(&hub), vec![place.hub(NAME)], watch, CancellationToken::new());
    let (mut first, mut second) = tokio::join!(one(), one());
    let received = [&mut first, &mut second].map(|results| results.remove(0).expect("a file").received);
    assert!(received.contains(&0), "{received:?}");
    assert!(waited.load(Ordering::Relaxed));
    place.holds(&[(NAME, &content)]);
    // The same target twice in one batch.
    std::fs::remove_file(place.path(NAME)).expect("a file");
    for result in fetch(settings(&hub), vec![place.hub(NAME), place.hub(NAME)]).await {
        result.expect("a file");
    }
    place.holds(&[(NAME, &content)]);
}

/// Fetches until this much was sent, and cancels it.
async fn fetch_some(hub: &ModelHub, settings: Settings, wanted: Wanted, bytes: u64) {
    // Slow enough that it is cancelled in time on a busy machine too.
    hub.link(Link {
        connection: Some(250_000),
        ..Link::default()
    });
    let stop = CancellationToken::new();
    let end = async {
        until("some of it was sent", async || hub.sent() >= bytes).await;
        stop.cancel();
    };
    let (mut results, ()) = tokio::join!(fetch_until(settings, vec![wanted], |_| {}, stop.clone()), end);
    results.remove(0).expect_err("it was cancelled");
    hub.link(Link::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_called_off_goes_on_where_it_was() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, NAME, 1_500_000);
    fetch_some(&hub, settings(&hub), place.hub(NAME), 500_000).await;
    place.lacks(NAME);
    let fetched = fetch_one(settings(&hub), place.hub(NAME)).await.expect("a file");
    place.holds(&[(NAME, &content)]);
    assert!(fetched.received < 1_200_000, "{}", fetched.received);
    assert_eq!(fetched.sha256, Some(content.sha256()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_another_revision_are_not_used_and_not_left() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    on_hub(&hub, NAME, 1_500_000);
    fetch_some(&hub, settings(&hub), place.hub(NAME), 500_000).await;
    let new = Content::safetensors(9, 1_500_000);
    hub.push(REPO, "main", [(NAME, &new)]);
    let fetched = fetch_one(settings(&hub), place.hub(NAME)).await.expect("a file");
    assert_eq!(fetched.received, 1_500_000);
    place.holds(&[(NAME, &new)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_another_version_on_another_server_are_not_used_either() {
    let dates = ["Wed, 21 Oct 2015 07:28:00 GMT", "Thu, 22 Oct 2015 07:28:00 GMT"];
    // What tells the versions apart: the strong ETag, or the time.
    for has_etag in [true, false] {
        let (hub, place) = (ModelHub::start().await, Place::new());
        let versions = [0, 1].map(|version| {
            let plain = Plain::new(Content::noise(version, 1_500_000));
            Plain {
                etag: plain.etag.clone().filter(|_| has_etag),
                last_modified: Some(dates[usize::from(version == 1)].to_owned()),
                ..plain
            }
        });
        let [old, new] = versions;
        let url = hub.put("x.bin", old.clone());
        fetch_some(&hub, settings(&hub), place.url(&url, "x.bin", None), 500_000).await;
        // The same version is gone on with.
        fetch_some(&hub, settings(&hub), place.url(&url, "x.bin", None), 1_000_000).await;
        let content = new.content.clone();
        hub.put("x.bin", new);
        let fetched = fetch_one(settings(&hub), place.url(&url, "x.bin", None))
            .await
            .expect("a file");
        assert_eq!(fetched.received, 1_500_000);
        place.holds(&[("x.bin", &content)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_what_an_earlier_run_left_is_made_good() {
    type Damage = fn(&Path);
    let damages: [Damage; 6] = [
        |part| std::fs::write(part, "").expect("a file"),
        |part| std::fs::write(part, "garbage, and no more than that").expect("a file"),
        |part| std::fs::remove_file(part).expect("a file"),
        |part| {
            let file = std::fs::File::options().write(true).open(part).expect("a file");
            file.set_len(file.metadata().expect("a file").len() / 2)
                .expect("a file");
        },
        |part| {
            let length = std::fs::metadata(part).expect("a file").len();
            std::fs::write(part, vec![0; usize::try_from(length).expect("small")]).expect("a file");
        },
        |part| {
            let mut bytes = std::fs::read(part).expect("a file");
            bytes.extend_from_within(..);
            std::fs::write(part, bytes).expect("a file");
        },
    ];
    for damage in damages {
        for which in 0..2 {
            let (hub, place) = (ModelHub::start().await, Place::new());
            let content = on_hub(&hub, NAME, 1_000_000);
            fetch_some(&hub, settings(&hub), place.hub(NAME), 400_000).await;
            let parts = place.files();
            assert_eq!(parts.len(), 2, "{parts:?}");
            damage(&place.path(&parts[which]));
            fetch_one(settings(&hub), place.hub(NAME)).await.expect("a file");
            place.holds(&[(NAME, &content)]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_goes_on_later() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, NAME, 1_500_000);
    hub.fault(Rule::on(Host::Cdn, Fault::Answer(503, Vec::new())).after(4));
    fetch_one(settings(&hub), place.hub(NAME))
        .await
        .expect_err("a busy server");
    hub.forgive();
    let before = hub.sent();
    assert!(before > 0);
    let fetched = fetch_one(settings(&hub), place.hub(NAME)).await.expect("a file");
    place.holds(&[(NAME, &content)]);
    assert!(
        fetched.received <= 1_500_000 - before + 100_000,
        "{before} {}",
        fetched.received
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_others_are_left_alone() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    on_hub(&hub, "loras/x", 200_000);
    let others = [
        "loras/.y.0123456789abcdef.part",
        "loras/x.part",
        "loras/.x",
        "loras/x2",
        "loras/.xy.0123456789abcdef.part",
    ];
    std::fs::create_dir_all(place.path("loras")).expect("a folder");
    for other in others {
        std::fs::write(place.path(other), "mine").expect("a file");
    }
    std::fs::write(place.path("loras/.x.0123456789abcdef.part"), "stale").expect("a file");
    std::fs::write(place.path("loras/.x.0123456789abcdef.ranges"), "stale").expect("a file");
    fetch_one(settings(&hub), place.hub("loras/x")).await.expect("a file");
    let mut expected: Vec<&str> = others.to_vec();
    expected.push("loras/x");
    expected.sort_unstable();
    assert_eq!(place.files(), expected);
}
