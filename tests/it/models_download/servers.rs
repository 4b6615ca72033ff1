//! Files of servers that are no Hub.

use super::{Place, RANGE, Settings, fetch_one, says, settings, told};
use crate::support::model_hub::{Content, Fault, Host, Link, ModelHub, Plain, Rule};

const SIZE: u64 = 6 * RANGE + 11;
/// A token of a server that is no Hub.
const KEY: &str = "key-0815";

fn content() -> Content {
    Content::noise(3, SIZE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_comes_in_ranges_whatever_the_server_says_of_it() {
    let date = || Some("Wed, 21 Oct 2015 07:28:00 GMT".to_owned());
    let cases = [
        (Some("\"strong\"".to_owned()), None),
        (Some("W/\"weak\"".to_owned()), None),
        (None, date()),
        (Some("W/\"weak\"".to_owned()), date()),
        (None, None),
    ];
    for (etag, last_modified) in cases {
        let (hub, place) = (ModelHub::start().await, Place::new());
        let file = Plain {
            etag,
            last_modified,
            ..Plain::new(content())
        };
        let url = hub.put("x.bin", file);
        let fetched = fetch_one(settings(&hub), place.url(&url, "x.bin", None))
            .await
            .expect("a file");
        assert_eq!((fetched.size, fetched.commit), (SIZE, None));
        place.holds(&[("x.bin", &content())]);
        assert_eq!(hub.count(Host::Hub, "HEAD"), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_head_is_asked_for_the_first_byte() {
    for status in [403, 404, 405, 501] {
        let (hub, place) = (ModelHub::start().await, Place::new());
        let url = hub.put("x.bin", Plain::new(content()));
        hub.fault(Rule::on(Host::Files, Fault::Answer(status, Vec::new())).method("HEAD"));
        fetch_one(settings(&hub), place.url(&url, "x.bin", None))
            .await
            .expect("a file");
        place.holds(&[("x.bin", &content())]);
    }
    // And knows no ranges besides.
    let (hub, place) = (ModelHub::start().await, Place::new());
    let url = hub.put("x.bin", Plain::new(content()));
    hub.fault(Rule::on(Host::Files, Fault::Answer(405, Vec::new())).method("HEAD"));
    hub.fault(Rule::on(Host::Files, Fault::Whole).method("GET"));
    fetch_one(settings(&hub), place.url(&url, "x.bin", None))
        .await
        .expect("a file");
    place.holds(&[("x.bin", &content())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_tells_no_size_is_heard_to_its_end() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let content = Content::safetensors(1, SIZE);
    let url = hub.put("x.safetensors", Plain::new(content.clone()));
    hub.fault(Rule::on(Host::Files, Fault::Unsized));
    let fetched = fetch_one(settings(&hub), place.url(&url, "x.safetensors", None)).await;
    assert_eq!(fetched.expect("a file").size, SIZE);
    place.holds(&[("x.safetensors", &content)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_stays_with_the_server_it_is_for() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let file = Plain {
        redirects: true,
        token: Some(KEY.to_owned()),
        ..Plain::new(content())
    };
    let url = hub.put("api/download/models/1", file);
    fetch_one(settings(&hub), place.url(&url, "x.bin", Some(KEY)))
        .await
        .expect("a file");
    place.holds(&[("x.bin", &content())]);
    for request in hub.requests() {
        let expected = if request.host == Host::Files { KEY } else { "" };
        assert_eq!(request.token, expected, "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hubs_token_goes_to_no_other_server() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let url = hub.put("x.bin", Plain::new(content()));
    let settings = super::with_token(&hub, super::TOKEN);
    fetch_one(settings, place.url(&url, "x.bin", None))
        .await
        .expect("a file");
    assert!(hub.requests().iter().all(|request| request.token.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_url_behind_a_redirect_is_asked_for_again_when_it_is_too_old() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let file = Plain {
        redirects: true,
        ..Plain::new(content())
    };
    let url = hub.put("x.bin", file);
    hub.signatures_serve(3);
    fetch_one(settings(&hub), place.url(&url, "x.bin", None))
        .await
        .expect("a file");
    place.holds(&[("x.bin", &content())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_names_the_file_and_the_next_step() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let file = Plain {
        token: Some(KEY.to_owned()),
        ..Plain::new(content())
    };
    let mut url = hub.put("x.safetensors", file);
    // What may be secret in it.
    url.set_query(Some("token=s3cr3t"));
    let missing = hub.files.join("nothing.safetensors").expect("a URL");
    let text = told(
        &hub,
        fetch_one(settings(&hub), place.url(&url, "x.safetensors", None)).await,
    );
    says(&text, &["x.safetensors", "401", "token"]);
    assert!(!text.contains("s3cr3t"), "{text}");
    let text = told(
        &hub,
        fetch_one(settings(&hub), place.url(&url, "x.safetensors", Some("wrong"))).await,
    );
    says(&text, &["x.safetensors", "401", "token"]);
    let text = told(
        &hub,
        fetch_one(settings(&hub), place.url(&missing, "nothing.safetensors", None)).await,
    );
    says(&text, &["nothing.safetensors", "404"]);
    assert_eq!(place.files(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_page_is_no_file() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let url = hub.put("x.safetensors", Plain::new(content()));
    hub.fault(Rule::on(Host::Files, Fault::Page));
    let text = told(
        &hub,
        fetch_one(settings(&hub), place.url(&url, "x.safetensors", None)).await,
    );
    says(&text, &["x.safetensors", "page", "token"]);
    assert_eq!(place.files(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_have_an_end() {
    let (hub, place) = (ModelHub::start().await, Place::new());
    let url = hub.put("x.bin", Plain::new(content()));
    hub.fault(Rule::on(Host::Files, Fault::Redirect("{}".to_owned())));
    let text = told(&hub, fetch_one(settings(&hub), place.url(&url, "x.bin", None)).await);
    says(&text, &["x.bin", "redirect"]);
    assert!(hub.requests().len() < 100, "{}", hub.requests().len());
    assert_eq!(place.files(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_versions_of_a_file_are_never_mixed() {
    for after in [1, 2, 3, 5] {
        let (hub, place) = (ModelHub::start().await, Place::new());
        let (old, new) = (content(), Content::noise(4, SIZE));
        let url = hub.put("x.bin", Plain::new(old.clone()));
        hub.link(Link {
            connection: Some(1_000_000),
            ..Link::default()
        });
        let change = async {
            let asked = async || hub.requests().len() > after;
            crate::support::until("some ranges were asked for", asked).await;
            hub.put("x.bin", Plain::new(new.clone()));
        };
        let settings = Settings {
            connections: 2,
            ..settings(&hub)
        };
        let (result, ()) = tokio::join!(fetch_one(settings, place.url(&url, "x.bin", None)), change);
        result.expect("a file");
        let differs = [&old, &new].map(|version| version.differs(&place.path("x.bin")));
        assert!(differs.contains(&None), "{differs:?}");
        assert_eq!(place.files(), ["x.bin"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_any_server_are_made_good() {
    let faults = [
        Fault::Answer(429, vec![("Retry-After", "0".to_owned())]),
        Fault::Answer(503, Vec::new()),
        Fault::HangUp,
        Fault::Silence,
    ];
    for fault in faults {
        let (hub, place) = (ModelHub::start().await, Place::new());
        let url = hub.put("x.bin", Plain::new(content()));
        hub.fault(Rule::on(Host::Files, fault.clone()).times(3));
        let result = fetch_one(settings(&hub), place.url(&url, "x.bin", None)).await;
        result.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        place.holds(&[("x.bin", &content())]);
    }
    let faults = [
        Fault::Cut(5000),
        Fault::Reset(5000),
        Fault::Stall(5000),
        Fault::Misplaced(9),
        Fault::Total(-1),
    ];
    for fault in faults {
        let (hub, place) = (ModelHub::start().await, Place::new());
        let url = hub.put("x.bin", Plain::new(content()));
        hub.fault(Rule::on(Host::Files, fault.clone()).method("GET").times(2));
        let result = fetch_one(settings(&hub), place.url(&url, "x.bin", None)).await;
        result.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        place.holds(&[("x.bin", &content())]);
        hub.settled();
    }
}
