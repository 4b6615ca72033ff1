//! What the Hub is asked, and what it may answer.

use super::{Place, REPO, Settings, fetch, fetch_one, on_hub, patient, says, settings, told, with_token};
use crate::support::model_hub::{Access, Content, Fault, Host, ModelHub, Rule, STRANGER, TOKEN};

const NAME: &str = "vae/qwen_image_vae.safetensors";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_comes_whole_with_one_question_and_its_facts() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = Content::safetensors(1, 1_000_000);
    let commit = hub.push(REPO, "main", [(NAME, &content)]);
    let fetched = fetch_one(patient(&hub), place.hub(NAME)).await.expect("a file");
    place.holds(&[(NAME, &content)]);
    assert_eq!(fetched.size, content.size());
    assert_eq!(fetched.sha256, Some(content.sha256()));
    assert_eq!(fetched.commit, Some(commit));
    assert_eq!(fetched.received, content.size());
    assert_eq!(hub.sent(), content.size());
    assert_eq!((hub.count(Host::Hub, "HEAD"), hub.count(Host::Hub, "GET")), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_goes_to_the_hub_alone() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, NAME, 500_000);
    hub.restrict(REPO, Access::Private);
    // It is asked again, for another signature.
    hub.fault(Rule::on(Host::Cdn, Fault::Answer(403, Vec::new())).times(2));
    fetch_one(with_token(&hub, TOKEN), place.hub(NAME))
        .await
        .expect("a file");
    place.holds(&[(NAME, &content)]);
    for request in hub.requests() {
        let expected = if request.host == Host::Hub { TOKEN } else { "" };
        assert_eq!(request.token, expected, "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_moves_is_asked_for_once() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let old = on_hub(&hub, NAME, 700_000);
    let new = Content::safetensors(99, 700_000);
    hub.push_after(1, REPO, "main", [(NAME, &new)]);
    // Each signature is good for a piece of it: the Hub is asked again and again.
    hub.signatures_serve(1);
    hub.fault(Rule::on(Host::Cdn, Fault::Cut(70_000)));
    let settings = Settings {
        parallel: false,
        ..settings(&hub)
    };
    let fetched = fetch_one(settings, place.hub(NAME)).await.expect("a file");
    place.holds(&[(NAME, &old)]);
    let commit = fetched.commit.expect("a commit");
    let asked: Vec<String> = hub
        .requests()
        .into_iter()
        .filter(|request| request.host == Host::Hub)
        .map(|request| request.revision)
        .collect();
    assert_eq!(asked[0], "main");
    assert!(
        asked.len() > 1 && asked[1..].iter().all(|revision| *revision == commit),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_commit_and_a_branch_are_found() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let old = Content::safetensors(1, 100_000);
    let pinned = hub.push(REPO, "main", [(NAME, &old)]);
    hub.push(REPO, "main", [(NAME, &Content::safetensors(2, 100_000))]);
    let beside = Content::noise(3, 100_000);
    hub.push(REPO, "refs/pr/4", [("beside", &beside)]);
    let wanted = vec![
        place.hub_file(REPO, &pinned, NAME),
        place.hub_file(REPO, "refs/pr/4", "beside"),
    ];
    for result in fetch(settings(&hub), wanted).await {
        result.expect("a file");
    }
    place.holds(&[(NAME, &old), ("beside", &beside)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_git_keeps_a_renamed_repository_and_a_mirror_are_followed() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let config = Content::literal("{\"a\": 1}");
    hub.push("org/small", "main", [("config.json", &config)]);
    hub.keep_in_git("org/small");
    let content = Content::safetensors(5, 200_000);
    hub.push("org/old", "main", [(NAME, &content)]);
    hub.rename("org/old", "org/new");
    let settings = Settings {
        endpoint: hub.url.join("mirror/").expect("a URL"),
        ..with_token(&hub, TOKEN)
    };
    let wanted = vec![
        place.hub_file("org/small", "main", "config.json"),
        place.hub_file("org/old", "main", NAME),
    ];
    for result in fetch(settings, wanted).await {
        result.expect("a file");
    }
    place.holds(&[("config.json", &config), (NAME, &content)]);
    assert!(
        hub.requests()
            .iter()
            .all(|request| request.host == Host::Hub || request.token.is_empty())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_may_have_any_letters() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let name = "a b/100% #1?+&ü=.bin";
    let content = on_hub(&hub, name, 150_000);
    fetch_one(settings(&hub), place.hub(name)).await.expect("a file");
    place.holds(&[(name, &content)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_says_what_to_do_and_the_other_files_go_on() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = on_hub(&hub, NAME, 300_000);
    for (repo, access) in [("org/gated", Access::Gated), ("org/private", Access::Private)] {
        hub.push(repo, "main", [("x.bin", &content)]);
        hub.restrict(repo, access);
    }
    let page = format!("{}org/gated", hub.url);
    let cases: [(&str, &str, &str, &str, &[&str]); 9] = [
        ("", "org/gated", "main", "x.bin", &[&page, "licence", "HF_TOKEN"]),
        (STRANGER, "org/gated", "main", "x.bin", &[&page, "licence"]),
        (
            "",
            "org/private",
            "main",
            "x.bin",
            &["org/private", "private", "HF_TOKEN"],
        ),
        (
            "",
            "org/nowhere",
            "main",
            "x.bin",
            &["org/nowhere", "private", "HF_TOKEN"],
        ),
        (STRANGER, "org/private", "main", "x.bin", &["org/private", "private"]),
        (TOKEN, "org/nowhere", "main", "x.bin", &["org/nowhere", "private"]),
        ("hf_wrong", "org/gated", "main", "x.bin", &["HF_TOKEN"]),
        ("", REPO, "v9", NAME, &["v9", REPO]),
        ("", REPO, "main", "nope.bin", &["nope.bin", REPO]),
    ];
    for (token, repo, revision, name, parts) in cases {
        let settings = if token.is_empty() {
            settings(&hub)
        } else {
            with_token(&hub, token)
        };
        let good = place.hub(NAME);
        let bad = place.hub_file(repo, revision, name);
        let bad = super::Wanted {
            target: place.path("bad"),
            ..bad
        };
        let mut results = fetch(settings, vec![bad, good]).await;
        let good = results.remove(1);
        let text = told(&hub, results.remove(0));
        says(&text, parts);
        if token == "hf_wrong" {
            says(&told(&hub, good), &["HF_TOKEN"]);
            assert_eq!(place.files(), Vec::<String>::new());
            continue;
        }
        good.expect("a file");
        place.holds(&[(NAME, &content)]);
        std::fs::remove_file(place.path(NAME)).expect("a file");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_busy_is_asked_again_when_it_says() {
    let past = || "Wed, 21 Oct 2015 07:28:00 GMT".to_owned();
    let faults = [
        Fault::Answer(429, vec![("Retry-After", "0".to_owned())]),
        Fault::Answer(429, vec![("RateLimit", "\"resolvers\";r=0;t=0".to_owned())]),
        Fault::Answer(429, Vec::new()),
        Fault::Answer(500, Vec::new()),
        Fault::Answer(502, Vec::new()),
        Fault::Answer(503, vec![("Retry-After", past())]),
        Fault::Answer(504, vec![("Retry-After", "soon".to_owned())]),
        Fault::Silence,
        Fault::HangUp,
    ];
    for fault in faults {
        let (hub, place) = (ModelHub::start().await, Place::new());
        let content = on_hub(&hub, NAME, 200_000);
        hub.fault(Rule::on(Host::Hub, fault.clone()).times(2));
        fetch_one(settings(&hub), place.hub(NAME))
            .await
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        place.holds(&[(NAME, &content)]);
        hub.settled();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_never_answers_is_given_up() {
    for fault in [
        Fault::Answer(503, Vec::new()),
        Fault::Answer(429, vec![("Retry-After", "0".to_owned())]),
        Fault::Silence,
        Fault::Redirect("{}".to_owned()),
    ] {
        let (hub, place) = (ModelHub::start().await, Place::new());
        on_hub(&hub, NAME, 200_000);
        hub.fault(Rule::on(Host::Hub, fault.clone()));
        let text = told(&hub, fetch_one(settings(&hub), place.hub(NAME)).await);
        let address = hub.url.authority().to_owned();
        says(&text, &[NAME.rsplit('/').next().expect("a name"), &address]);
        assert!(hub.requests().len() < 40, "{fault:?}: {}", hub.requests().len());
        place.lacks(NAME);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_listens() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let mut settings = settings(&hub);
    drop(hub);
    let hub = ModelHub::start().await;
    // A port that was free a moment ago.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    drop(socket);
    settings.endpoint = format!("http://{address}").parse().expect("a URL");
    let text = told(&hub, fetch_one(settings, place.hub(NAME)).await);
    says(&text, &[&address.to_string()]);
    place.lacks(NAME);
}
