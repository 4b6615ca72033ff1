//! KIE as an engine: a worker of ours that speaks as KIE does, and a fake that does what KIE can do wrong.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::behind::AT_HOME;
use crate::images::{encoded, picture};
use crate::support::bucket::{BucketServer, SECRET};
use crate::support::elsewhere::{Front, assert_png, images};
use crate::support::images_api::ImagesApi;
use crate::support::kie_api::{KIE_KEY, KieApi, code, failed};
use crate::support::scripted::{Reply, Words};
use crate::support::{Worker, until};

/// Fronts at the same time: they wait more than they work.
const AT_ONCE: usize = 6;

fn kie(name: &str, url: &str, more: &str) -> String {
    format!("[[engine]]\nname = \"{name}\"\nkind = \"kie\"\nurl = \"{url}\"\nkey = \"env:KIE_KEY\"\n{more}\n")
}

fn fox(seed: u32) -> Value {
    json!({"prompt": "a fox", "template": "qwen-image", "aspect_ratio": "16:9", "seed": seed})
}

async fn front(engines: &str) -> Front {
    Front::start(engines, &[("KIE_KEY", KIE_KEY), AT_HOME]).await
}

/// A picture of 16:9, which KIE has.
fn wide() -> Vec<u8> {
    encoded(
        &image::RgbImage::from_pixel(64, 36, image::Rgb([250, 0, 0])),
        image::ImageFormat::Png,
    )
}

#[tokio::test]
async fn a_worker_of_ours_that_speaks_as_kie_makes_and_edits_pictures() {
    let provider = Worker::beside_shared(&[("API_KEY", KIE_KEY), AT_HOME]).await;
    let bucket = BucketServer::start().await;
    let vars = BucketServer::vars(&bucket.endpoint, SECRET);
    let vars = [&vars[..], &[("KIE_KEY", KIE_KEY), AT_HOME]].concat();
    let front = Front::start(&kie("kie", provider.url.as_str().trim_end_matches('/'), ""), &vars).await;
    let mut asked = fox(8_901);
    (asked["steps"], asked["cfg"]) = (json!(2), json!(1.0));
    asked["return_images_as"] = json!("base64");
    let answer = front.runsync(&asked).await.by("kie");
    let made = STANDARD
        .decode(answer.images()[0]["data"].as_str().expect("a picture"))
        .expect("base64");
    assert_png(&made, 1664, 928);
    assert_eq!(
        answer.body["output"]["seed"], 8_901,
        "{:#}",
        answer.body["output"]["seed"]
    );

    // The image travels by the bucket.
    let source = wide();
    let image = json!({"name": "in.png", "image": STANDARD.encode(source)});
    let edit = json!({"prompt": "make it winter", "template": "qwen-image-edit-2511-lightning-4", "images": [image],
        "steps": 2, "cfg": 1.0, "return_images_as": "base64"});
    let answer = front.runsync(&edit).await.by("kie");
    let made = STANDARD
        .decode(answer.images()[0]["data"].as_str().expect("a picture"))
        .expect("base64");
    assert!(image::load_from_memory(&made).is_ok(), "no picture");
}

#[tokio::test]
async fn a_task_says_what_was_asked_for_and_an_image_is_put_up() {
    let api = KieApi::start().await;
    let front = front(&kie("kie", &api.url, &format!("upload_url = \"{}\"", api.url))).await;
    let asked = json!({"prompt": "a fox", "negative_prompt": "a dog", "seed": 7, "steps": 20, "cfg": 2.5,
        "aspect_ratio": "16:9"});
    let answer = front.runsync(&asked).await.by("kie");
    assert_png(&front.picture(&answer).await, 96, 64);
    let expected = json!({"model": "qwen/text-to-image", "input": {"prompt": "a fox", "negative_prompt": "a dog",
        "seed": 7, "num_inference_steps": 20, "guidance_scale": 2.5, "image_size": "landscape_16_9",
        "output_format": "png"}});
    assert_eq!(api.created(), [expected]);

    let source = wide();
    let image = json!({"name": "in.png", "image": STANDARD.encode(&source)});
    let edit = json!({"prompt": "make it winter", "template": "qwen-image-edit-2511", "images": [image],
        "batch_size": 2});
    front.runsync(&edit).await.by("kie");
    let uploaded = &api.uploads()[0];
    let expected = format!("data:image/png;base64,{}", STANDARD.encode(&source));
    assert_eq!(uploaded["base64Data"], expected);
    let task = &api.created()[1];
    assert_eq!(task["model"], "qwen/image-edit");
    let (address, number) = (format!("{}/made/upload.png", api.url), &task["input"]["num_images"]);
    assert_eq!((&task["input"]["image_url"], number), (&json!(address), &json!("2")));
    api.settled();
}

#[tokio::test]
async fn what_kie_cannot_express_is_refused_or_done_otherwise_where_the_list_says_so() {
    let api = KieApi::start().await;
    let plain = front(&kie("kie", &api.url, "")).await;
    let asked = json!({"prompt": "a fox", "width": 1024, "height": 1024, "seed": 7});
    let refused = plain.runsync(&asked).await;
    assert_eq!(refused.answer.status, 400, "{:#}", refused.answer.body);
    refused.failed(&["kie", "none of a width or a height in pixels"]);
    let image =
        json!({"name": "in.png", "image": STANDARD.encode(encoded(&picture([250, 0, 0]), image::ImageFormat::Png))});
    let edit = json!({"prompt": "make it winter", "template": "qwen-image-edit-2511", "images": [image]});
    plain.runsync(&edit).await.failed(&["kie", "edits no images"]);
    let upload = format!("upload_url = \"{}\"\n", api.url);
    let editing = front(&kie("kie", &api.url, &upload)).await;
    // It has no size that is twice as wide as high.
    let refused = editing.runsync(&edit).await;
    refused.failed(&["kie", "no pictures of the shape of the image, 48 x 24"]);
    assert!(api.created().is_empty());
    let loose = front(&kie("kie", &api.url, &(upload + "approximates = [\"size\"]"))).await;
    let answer = loose.runsync(&edit).await.by("kie");
    let warnings = answer.body["output"]["warnings"].to_string();
    assert!(warnings.contains("one of 16:9 was made"), "{warnings}");

    let loose = front(&kie("kie", &api.url, "approximates = [\"size\", \"steps\"]")).await;
    let asked = json!({"prompt": "a fox", "width": 1000, "height": 2000, "steps": 1});
    let answer = loose.runsync(&asked).await.by("kie");
    let warnings = answer.body["output"]["warnings"].to_string();
    for words in ["a picture of 9:16 was made", "2 was sent"] {
        assert!(warnings.contains(words), "{words} is not in {warnings}");
    }
    let input = &api.created()[1]["input"];
    assert_eq!(
        (&input["image_size"], &input["num_inference_steps"]),
        (&json!("portrait_16_9"), &json!(2))
    );
    api.settled();
}

/// What KIE does, and what is to come of it.
struct Row {
    what: &'static str,
    reply: Reply,
    fate: Value,
    records: Vec<Reply>,
    more: &'static str,
    /// The engine that makes the picture, or what the error says.
    end: Result<&'static str, Vec<&'static str>>,
    /// How many tasks KIE has, and how often the second engine was asked.
    asked: (usize, usize),
}

fn row(what: &'static str, reply: Reply, end: Result<&'static str, Vec<&'static str>>, asked: (usize, usize)) -> Row {
    Row {
        what,
        reply,
        fate: Value::Null,
        records: Vec::new(),
        more: "",
        end,
        asked,
    }
}

async fn hold(row: Row, seed: u32) -> Result<(), String> {
    let (api, second) = (KieApi::start().await, ImagesApi::start().await);
    api.answers_creates([row.reply.clone()]);
    api.answers_records(row.records);
    api.becomes(row.fate);
    let engines = kie("first", &api.url, row.more) + &images("second", &second.url, "group = 2");
    let front = front(&engines).await;
    let ended = front.runsync(&json!({"prompt": "a fox", "seed": seed})).await;
    // Whoever sends it again after all has done so by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = (api.created().len(), second.asked().len());
    let body = ended.answer.body.to_string();
    if asked != row.asked {
        return Err(format!("{}: asked {asked:?} times: {body:.600}", row.what));
    }
    match row.end {
        Ok(engine) if ended.answer.body["output"]["engine"] == engine => Ok(()),
        Err(words) if words.iter().all(|word| body.contains(word)) && ended.answer.status >= 400 => Ok(()),
        _ => Err(format!("{}: {body:.600}", row.what)),
    }
}

#[tokio::test]
async fn whatever_kie_answers_nobody_pays_twice() {
    let unknown = || Err(vec!["may have run", "first"]);
    let elsewhere = |what: &'static str, reply: Reply| row(what, reply, Ok("second"), (1, 1));
    let lost = |what: &'static str, reply: Reply| row(what, reply, unknown(), (1, 0));
    let accepted = |what, fate, end, asked| Row {
        fate,
        ..row(what, Reply::Well, end, asked)
    };
    let rows = vec![
        row("all is well", Reply::Well, Ok("first"), (1, 0)),
        elsewhere("no credits", code(402, "Credits insufficient")),
        elsewhere("a wrong key", code(401, "You do not have access permissions")),
        elsewhere("too many", code(429, "Call frequency is too high")),
        elsewhere(
            "429",
            Reply::Says(Words::json(429, &json!({"code": 429, "msg": "too many"}))),
        ),
        elsewhere("maintenance", code(455, "The service is being maintained")),
        elsewhere("500 in its own words", code(500, "Server exception")),
        elsewhere("turned off", code(505, "Feature disabled")),
        row(
            "refused",
            code(422, "prompt is too long"),
            Err(vec!["prompt is too long"]),
            (1, 0),
        ),
        lost("no task", code(200, "success")),
        lost("a page", Reply::Says(Words::html(200))),
        lost("a page with 502", Reply::Says(Words::html(502))),
        lost("hung up", Reply::HangUp),
        lost("cut", Reply::Cut),
        accepted("failed", failed("501", "no worker was free"), Ok("second"), (1, 1)),
        accepted(
            "refused there",
            failed("422", "image is no picture"),
            Err(vec!["image is no picture"]),
            (1, 0),
        ),
        accepted(
            "refused for its content",
            failed("501", "flagged as NSFW"),
            Err(vec!["flagged as NSFW"]),
            (1, 0),
        ),
        accepted(
            "without a picture",
            json!({"resultJson": "{}"}),
            Err(vec!["names no pictures"]),
            (1, 0),
        ),
        accepted(
            "of another task",
            json!({"taskId": "task_9"}),
            Err(vec!["task_9"]),
            (1, 0),
        ),
        Row {
            more: "timeout_s = 2",
            ..accepted(
                "never done",
                json!({"state": "generating"}),
                Err(vec!["longer than 2 s", "may have run"]),
                (1, 0),
            )
        },
        Row {
            records: vec![
                Reply::Says(Words::html(502)),
                Reply::HangUp,
                code(429, "too many"),
                code(404, "not there yet"),
            ],
            ..row("asked in vain at first", Reply::Well, Ok("first"), (1, 0))
        },
    ];
    let wrong: Vec<String> = stream::iter(rows.into_iter().zip(9_100..))
        .map(|(row, seed)| hold(row, seed))
        .buffer_unordered(AT_ONCE)
        .filter_map(async |held| held.err())
        .collect()
        .await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_front_that_is_killed_asks_kie_again() {
    let api = KieApi::start().await;
    api.becomes(json!({"state": "generating"}));
    let engines = kie("kie", &api.url, "");
    let front = front(&engines).await;
    let id = front.accept(&fox(8_950)).await;
    until("KIE is asked", async || api.asked() > 0).await;
    let front = front
        .killed_and_started(&engines, &[("KIE_KEY", KIE_KEY), AT_HOME])
        .await;
    let before = api.asked();
    until("KIE is asked again", async || api.asked() > before).await;
    api.becomes(Value::Null);
    let end = front.end(&id).await.completed();
    assert_eq!(end.body["output"]["engine"], "kie", "{:#}", end.body);
    assert_png(&front.picture(&end).await, 96, 64);
    assert_eq!(api.created().len(), 1, "a job is sent once");
    api.settled();
}
