//! `/play`, as a browser shows it.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::browser::{browse_with, complaints, kept_picture, with_pages};
use crate::support::image_server::png;
use crate::support::text;

/// Runs a script on `/play`, of which nothing may be wrong.
async fn browse(name: &str, script: &str, plan: Value) -> Value {
    let seen = browse_with(&[("play.mjs", include_str!("pages/play.mjs"))], name, script, plan).await;
    assert_eq!(seen["wrong"], json!([]), "{:#}", seen["wrong"]);
    assert_eq!(complaints(&seen), <[&str; 0]>::default());
    seen
}

#[tokio::test]
async fn a_prompt_becomes_a_picture_and_is_found_after_a_reload() {
    let worker = with_pages().await;
    let plan = json!({"url": worker.url, "kept": kept_picture("play")});
    let seen = browse("play_picture", include_str!("pages/play_picture.mjs"), plan).await;
    let percents = seen["followed"]["percents"].as_array().expect("a list").iter();
    let percents: Vec<_> = percents.filter_map(Value::as_f64).collect();
    assert!(
        percents.iter().any(|percent| *percent > 0.0 && *percent < 100.0),
        "{}",
        seen["followed"]
    );
    assert!(seen["followed"]["preview"].as_u64() > Some(0), "{}", seen["followed"]);
    for (picture, side) in [
        (&seen["made"], 1024),
        (&seen["later"], 1024),
        (&seen["same"], 1024),
        (&seen["both"][0], 256),
        (&seen["both"][1], 256),
    ] {
        assert_eq!(
            (&picture["wide"], &picture["high"]),
            (&json!(side), &json!(side)),
            "{picture}"
        );
    }
    assert!(text(&seen, "facts").contains("77"), "{}", seen["facts"]);
    assert_eq!(seen["title"], "a yellow circle on a blue background");
    assert_eq!(seen["made"]["src"], seen["later"]["src"]);
    // The same seed, the same picture.
    assert_eq!(bytes(&seen["made"]).await, bytes(&seen["same"]).await);
    assert_ne!(bytes(&seen["made"]).await, bytes(&seen["both"][0]).await);
}

/// What lies at the address of a picture.
async fn bytes(picture: &Value) -> Vec<u8> {
    let answer = crate::support::http().get(text(picture, "src")).send().await;
    answer.expect("an answer").bytes().await.expect("a picture").to_vec()
}

#[tokio::test]
async fn a_dropped_picture_is_changed_and_where_a_mask_is_painted_only_there() {
    let worker = with_pages().await;
    let plan = json!({"url": worker.url, "png": STANDARD.encode(png(256, 256, 255))});
    let seen = browse("play_edit", include_str!("pages/play_edit.mjs"), plan).await;
    assert!(
        text(&seen, "template").starts_with("qwen-image-edit"),
        "{}",
        seen["template"]
    );
    let decoded = async |picture: &Value| {
        let picture = image::load_from_memory(&bytes(picture).await).expect("a picture");
        picture.to_rgb8()
    };
    let edited = decoded(&seen["edited"]).await;
    let (one, other) = (
        decoded(&seen["inpainted"][0]).await,
        decoded(&seen["inpainted"][1]).await,
    );
    assert_ne!(edited, one);
    // The demo weights of edit models are random; so two seeds are compared, in the column that was painted over and far from it.
    let difference = |columns: Range<u32>| -> u64 {
        let pixels = columns.flat_map(|x| (112..144).map(move |y| (x, y)));
        let channels = pixels.flat_map(|(x, y)| one.get_pixel(x, y).0.into_iter().zip(other.get_pixel(x, y).0));
        channels.map(|(a, b)| u64::from(a.abs_diff(b))).sum()
    };
    let (painted, kept) = (difference(80..112), difference(208..240));
    assert!(
        painted > kept * 4,
        "what was painted over differs by {painted}, the rest by {kept}"
    );
    assert!(text(&seen, "mask").starts_with("data:image/png;base64,"));
}

#[tokio::test]
async fn a_control_picture_and_layers_have_fields_where_the_template_goes_by_them() {
    let worker = with_pages().await;
    let plan = json!({"url": worker.url, "png": STANDARD.encode(png(128, 128, 255))});
    let seen = browse("play_steered", include_str!("pages/play_steered.mjs"), plan).await;
    let offered = seen["offered"].as_array().expect("the kinds");
    assert_eq!((&offered[0], &offered[2]), (&json!("canny (usual)"), &json!("depth")));
    let (steered, layered) = (&seen["steered"], &seen["layered"]);
    assert_eq!(steered["input"]["control"], json!({"type": "ready", "strength": 0.5}));
    assert_eq!(steered["picture"]["wide"], 128);
    assert_eq!(
        (&layered["input"]["layers"], layered["input"].get("control")),
        (&json!(1), None)
    );
    assert_eq!(layered["picture"]["wide"], 128);
    assert!(text(&seen, "newer").contains("needs ComfyUI 0.37"), "{}", seen["newer"]);
}

#[tokio::test]
async fn a_job_is_cancelled_an_error_stands_beside_its_field_and_a_keyboard_is_enough() {
    let worker = with_pages().await;
    let seen = browse(
        "play_ways",
        include_str!("pages/play_ways.mjs"),
        json!({"url": worker.url}),
    )
    .await;
    assert!(text(&seen, "said").contains("cancelled"), "{}", seen["said"]);
    let refused = &seen["refused"];
    assert!(text(refused, "text").contains("whole number"), "{refused}");
    assert!(text(refused, "described").contains("seed-problem"), "{refused}");
    assert_eq!(
        (&refused["invalid"], &refused["focused"]),
        (&json!("true"), &json!(true))
    );
    assert_eq!(seen["made"]["wide"], 256);
    assert!(!text(&seen, "heard").is_empty());
}

#[tokio::test]
async fn what_it_shows_as_curl_runs_as_it_stands() {
    let worker = with_pages().await;
    let seen = browse(
        "play_code",
        include_str!("pages/play_code.mjs"),
        json!({"url": worker.url}),
    )
    .await;
    for (api, words) in [
        ("RunPod", "\"COMPLETED\""),
        ("OpenAI", "\"url\""),
        ("Gradio", "event: complete"),
    ] {
        let program = text(&seen["programs"], &format!("{api} curl"));
        assert!(program.contains("fox") && program.contains("den"), "{program}");
        let shell = tokio::process::Command::new("sh")
            .args(["-c", program])
            .env("NO_PROXY", "127.0.0.1")
            .output();
        let ran = shell.await.expect("a shell");
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success() && said.contains(words),
            "{api}: {program}\n{said}\n{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
    for language in ["Python", "JavaScript"] {
        let named = ["RunPod", "OpenAI", "Gradio"]
            .map(|api| text(&seen["programs"], &format!("{api} {language}")).contains("den"));
        assert_eq!(named, [true; 3], "{language}");
    }
}
