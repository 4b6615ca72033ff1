//! Results as engines tell them, good and bad: what is good is given on, what is bad is told with the engine's name, and other jobs go
//! on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{SIDE, done, output_of, small};
use crate::images::serve;
use crate::support::elsewhere::{Front, assert_png, images, runpod};
use crate::support::image_server::{self, PAGE, half, png};
use crate::support::images_api::{As, ImagesApi};
use crate::support::runpod_api::{Fate, Route, RunpodApi};
use crate::support::scripted::{Reply, Words};
use crate::support::{text, until};

/// Where no picture is to be fetched from.
const PRIVATE: &str = "http://169.254.169.254/latest/meta-data/a.png";

fn by_address(url: &str) -> Fate {
    Fate::Completed(json!({"images": [{"filename": "a.png", "type": "s3_url", "data": url}]}))
}

#[tokio::test]
async fn each_shape_of_a_result_is_understood() {
    let files = serve(vec![("a.png", png(SIDE, SIDE, 255))]).await;
    let url = format!("{files}/a.png");
    let data = STANDARD.encode(png(SIDE, SIDE, 255));
    let uri = format!("data:image/png;base64,{data}");
    let api = RunpodApi::scripted(Fate::InProgress).await;
    let front = Front::start(&runpod("first", &api.url, ""), &[("ALLOW_PRIVATE_URLS", "127.0.0.1")]).await;
    let two = json!({"images": [
        {"filename": "a.png", "type": "base64", "data": data},
        {"filename": "b.png", "type": "s3_url", "data": url},
    ]});
    let with_uri = json!({"images": [{"filename": "a.png", "type": "base64", "data": uri}]});
    for (count, (fate, pictures)) in (1..).zip([
        (done(), 1),
        (by_address(&url), 1),
        (Fate::Completed(two), 2),
        (Fate::Completed(with_uri), 1),
    ]) {
        let id = front.accept(&small(9_500 + u32::try_from(count).expect("small"))).await;
        api.becomes(&api.has_taken(count).await, fate);
        let end = front.end(&id).await.completed();
        assert_eq!(end.images().len(), pictures, "{:#}", end.body);
        assert_png(&front.picture(&end).await, SIDE, SIDE);
    }
    api.settled();
}

#[tokio::test]
async fn each_shape_of_a_providers_picture_is_understood() {
    let provider = ImagesApi::start().await;
    let front = Front::start(&images("first", &provider.url, ""), &[]).await;
    for (tells, seed) in [(As::Base64, 9_510), (As::DataUri, 9_511), (As::Url, 9_512)] {
        provider.tells(tells);
        let mut input = small(seed);
        input["negative_prompt"] = json!("rain");
        let answer = front.runsync(&input).await.by("first");
        assert_png(&front.picture(&answer).await, SIDE, SIDE);
    }
    let asked = provider.asked();
    assert_eq!(asked.len(), 3);
    for (asked, seed) in asked.iter().zip(9_510..) {
        assert_eq!(asked.route, "generations");
        let seed = seed.to_string();
        for (name, value) in [
            ("prompt", "a fox"),
            ("model", "Qwen/Qwen-Image"),
            ("size", "256x256"),
            ("seed", seed.as_str()),
            ("negative_prompt", "rain"),
        ] {
            assert_eq!(asked.field(name).as_deref(), Some(value), "{name}");
        }
    }
    provider.settled();
}

#[tokio::test]
async fn a_provider_is_asked_for_several_pictures_and_for_edits() {
    let provider = ImagesApi::start().await;
    let engine = images("first", &provider.url, "edit_model = \"Qwen/Qwen-Image-Edit-2511\"");
    let front = Front::start(&engine, &[]).await;
    let mut input = small(9_515);
    input["batch_size"] = json!(2);
    let answer = front.runsync(&input).await.by("first");
    assert_eq!(answer.images().len(), 2, "{:#}", answer.body);
    let image = json!({"name": "in.png", "image": STANDARD.encode(png(SIDE, SIDE, 255))});
    let edit = json!({"prompt": "make it winter", "template": "qwen-image-edit-2511-lightning-4", "images": [image]});
    let answer = front.runsync(&edit).await.by("first");
    assert_eq!(answer.images().len(), 1, "{:#}", answer.body);
    let asked = provider.asked();
    assert_eq!(asked.len(), 2, "one request for both pictures");
    assert_eq!(
        (asked[0].route.as_str(), asked[0].field("n").as_deref()),
        ("generations", Some("2"))
    );
    assert_eq!(asked[1].route, "edits");
    assert_eq!(asked[1].field("model").as_deref(), Some("Qwen/Qwen-Image-Edit-2511"));
    assert_eq!(asked[1].field("prompt").as_deref(), Some("make it winter"));
    provider.settled();
}

#[tokio::test]
async fn what_is_no_result_is_told_and_other_jobs_go_on() {
    let files = serve(vec![("page.png", PAGE.as_bytes().to_vec())]).await;
    let moves = image_server::start().await;
    let no_picture = |content: &[u8]| Fate::Completed(output_of(content));
    let large = json!({"id": "ID", "status": "COMPLETED", "output": {"images": [
        {"filename": "a.png", "type": "base64", "data": "A".repeat(50_000_000)}]}});
    // Each with what its error says beside the engine's name.
    let bad: [(Fate, &str); 8] = [
        (by_address(PRIVATE), "169.254.169.254"),
        (by_address(&format!("{moves}/inside")), "169.254.169.254"),
        (by_address(&format!("{files}/page.png")), ""),
        (by_address("file:///etc/passwd"), ""),
        (no_picture(&half()), ""),
        (no_picture(b"no picture at all"), ""),
        (
            Fate::Completed(json!({"images": [{"filename": "a.png", "type": "base64", "data": "%%%"}]})),
            "",
        ),
        (Fate::Says(Words::json(200, &large)), ""),
    ];
    let mut fronts = Vec::new();
    for (seed, (fate, words)) in (9_520..).step_by(2).zip(bad) {
        fronts.push(async move {
            // One that is allowed this machine is not allowed that of a cloud.
            let api = RunpodApi::scripted(Fate::InProgress).await;
            let engine = runpod("first", &api.url, "");
            let front = Front::start(&engine, &[("ALLOW_PRIVATE_URLS", "127.0.0.1")]).await;
            let (bad, good) = (front.accept(&small(seed)).await, front.accept(&small(seed + 1)).await);
            api.has_taken(2).await;
            let runs = api.calls(Route::Run);
            let place = runs.iter().position(|call| call.has_seed(seed));
            let place = place.expect("its seed is in its graph");
            let there = api.taken();
            let fate = match fate {
                Fate::Says(words) => {
                    let body = String::from_utf8(words.body).expect("JSON");
                    Fate::Says(Words::text(200, &body.replacen("ID", &there[place], 1)))
                }
                other => other,
            };
            let what = format!("{fate:.200?}");
            api.becomes(&there[place], fate);
            let end = front.end(&bad).await;
            assert_eq!(
                end.body["status"],
                "FAILED",
                "{what:.200}: {:.500}",
                end.body.to_string()
            );
            let error = end.error();
            assert!(error.contains("first") && error.contains(words), "{what:.200}: {error}");
            assert!(error.len() < 2_000, "{} bytes", error.len());
            api.becomes(&there[1 - place], done());
            front.end(&good).await.completed();
            // It was made, and is paid for.
            assert_eq!(api.count(Route::Run), 2);
            api.settled();
        });
    }
    futures_util::future::join_all(fronts).await;
}

#[tokio::test]
async fn an_answer_about_another_job_is_not_taken_for_this_one() {
    let api = RunpodApi::scripted(Fate::InProgress).await;
    let front = Front::start(&runpod("first", &api.url, "timeout_s = 8"), &[]).await;
    let id = front.accept(&small(9_550)).await;
    let there = api.has_taken(1).await;
    let other = json!({"id": "somebody-elses-job-u1", "status": "COMPLETED", "output": output_of(&png(16, 16, 255))});
    api.becomes(&there, Fate::Says(Words::json(200, &other)));
    let end = front.end(&id).await;
    assert!(
        ["FAILED", "TIMED_OUT"].contains(&text(&end.body, "status")),
        "{:#}",
        end.body
    );
    assert!(end.body.to_string().contains("first"), "{:#}", end.body);
    assert_eq!(api.count(Route::Run), 1);
}

#[tokio::test]
async fn an_endpoint_that_answers_pages_leaves_the_other_jobs_alone() {
    let (api, provider) = (RunpodApi::scripted(done()).await, ImagesApi::start().await);
    api.answers_runs([Reply::Says(Words::html(200))]);
    let engines = runpod("first", &api.url, "") + &images("second", &provider.url, "group = 2");
    let front = Front::start(&engines, &[]).await;
    let ended = front.runsync(&small(9_560)).await;
    ended.failed(&["first", "may have"]);
    assert!(!ended.answer.error().contains("<html"), "{}", ended.answer.error());
    front.runsync(&small(9_561)).await.by("first");
    assert_eq!((api.count(Route::Run), provider.asked().len()), (2, 0));
    api.settled();
}

/// The key is for one address, and so is the job.
#[tokio::test]
async fn a_redirect_is_not_followed() {
    for (status, seed) in [(302, 9_565), (307, 9_566), (308, 9_567)] {
        let (api, other) = (RunpodApi::scripted(done()).await, RunpodApi::scripted(done()).await);
        let provider = ImagesApi::start().await;
        let moved = Words::json(status, &Value::Null).with("location", &format!("{}/run", other.url));
        api.answers_runs([Reply::Says(moved)]);
        let engines = runpod("first", &api.url, "") + &images("second", &provider.url, "group = 2");
        let front = Front::start(&engines, &[]).await;
        front.runsync(&small(seed)).await;
        assert_eq!((api.count(Route::Run), other.count(Route::Run)), (1, 0), "{status}");
        front.runsync(&small(seed + 10)).await.by("first");
        other.settled();
        api.settled();
    }
}

#[tokio::test]
async fn a_providers_picture_at_a_private_address_is_not_fetched() {
    let (api, provider) = (RunpodApi::scripted(done()).await, ImagesApi::start().await);
    let engines = images("first", &provider.url, "") + &runpod("second", &api.url, "group = 2");
    let front = Front::start(&engines, &[]).await;
    provider.tells(As::UrlOf(PRIVATE));
    let ended = front.runsync(&small(9_570)).await;
    ended.failed(&["first", "169.254.169.254"]);
    // It was made, and is paid for.
    assert_eq!((provider.asked().len(), api.count(Route::Run)), (1, 0));
    provider.tells(As::Base64);
    front.runsync(&small(9_571)).await.by("first");
    provider.settled();
}

/// Of a front that is killed after the end there, the picture is fetched by the next one.
#[tokio::test]
async fn a_result_that_cannot_be_fetched_yet_is_fetched_later() {
    let api = RunpodApi::scripted(Fate::InProgress).await;
    let engine = runpod("first", &api.url, "");
    let front = Front::start(&engine, &[]).await;
    let id = front.accept(&small(9_580)).await;
    let there = api.has_taken(1).await;
    let fails = || Reply::Says(Words::json(500, &Value::Null));
    api.answers_polls(std::iter::repeat_with(fails).take(3));
    api.becomes(&there, done());
    until("it was asked for in vain", async || api.count(Route::Status) > 1).await;
    let front = front.killed_and_started(&engine, &[]).await;
    let end = front.end(&id).await.completed();
    assert_png(&front.picture(&end).await, SIDE, SIDE);
    assert_eq!(api.count(Route::Run), 1);
}
