//! The templates of the rest of the family: control pictures, filling in, layers, Z-Image, and what a newer ComfyUI is needed
//! for. Their demo weights are written when the first of these jobs names them.

use std::collections::BTreeSet;
use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, ImageFormat, Rgba, RgbaImage};
use qwen_image_worker::workflow::bindings::Kind;
use qwen_image_worker::workflow::{Template, Templates};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Worker, shared, text};

/// A picture as PNG in base64.
fn picture(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 4]) -> String {
    let image = RgbaImage::from_fn(width, height, |x, y| Rgba(pixel(x, y)));
    let mut content = Cursor::new(Vec::new());
    let image = DynamicImage::ImageRgba8(image);
    image.write_to(&mut content, ImageFormat::Png).expect("a PNG");
    STANDARD.encode(content.into_inner())
}

/// A square on a gradient, so that there are edges.
#[expect(clippy::cast_possible_truncation, reason = "below 256")]
fn square(width: u32, height: u32, side: u32) -> String {
    picture(width, height, |x, y| {
        let inside = x.abs_diff(width / 2) < side && y.abs_diff(height / 2) < side;
        if inside {
            [250, 20, 20, 255]
        } else {
            [(x % 256) as u8, (y % 256) as u8, 90, 255]
        }
    })
}

/// One of which the left half is to be changed.
fn left_half(width: u32, height: u32) -> String {
    picture(width, height, |x, _| [0, 0, 0, if x < width / 2 { 0 } else { 255 }])
}

fn rgba(content: &[u8]) -> RgbaImage {
    image::load_from_memory(content).expect("an image").to_rgba8()
}

/// The first picture of a request that goes well.
async fn made(worker: &Worker, input: Value) -> Vec<u8> {
    let answer = worker.run(input).await.completed();
    worker.first_image(&answer).await
}

/// A small request for a template, with the fields that it needs.
fn small(template: &str, images: usize) -> Value {
    let mut input = json!({
        "template": template, "prompt": "a quiet harbour", "width": 128, "height": 96, "steps": 1, "seed": 7,
    });
    if images > 0 {
        input["images"] = json!(vec![square(128, 96, 30); images]);
    }
    input
}

fn with(mut input: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().expect("an object") {
        input[name] = value.clone();
    }
    input
}

/// Templates that other tests run.
const ELSEWHERE: [&str; 5] = [
    "qwen-image-2512-lightning-4",
    "qwen-image-edit-2511",
    "qwen-image-edit-2511-lightning-4",
    "qwen-image-lightning",
    "qwen-image-lightning-4",
];

#[tokio::test]
async fn every_template_that_generates_makes_a_picture() {
    every_template_makes_a_picture(|template| template.kind() == Kind::Generate).await;
}

#[tokio::test]
async fn every_template_that_edits_makes_a_picture() {
    every_template_makes_a_picture(|template| template.kind() == Kind::Edit && template.control_types().is_empty())
        .await;
}

#[tokio::test]
async fn every_template_with_a_control_picture_makes_a_picture() {
    every_template_makes_a_picture(|template| !template.control_types().is_empty()).await;
}

/// Those that this ComfyUI can run.
async fn every_template_makes_a_picture(chosen: impl Fn(&Template) -> bool) {
    let worker = shared().await;
    let templates = Templates::embedded().expect("the templates");
    assert!(ELSEWHERE.iter().all(|name| templates.get(name).is_some()));
    let chosen: Vec<_> = templates
        .iter()
        .filter(|template| template.needs().is_none() && !ELSEWHERE.contains(&template.name()) && chosen(template))
        .collect();
    assert!(chosen.len() > 4);
    for template in chosen {
        let name = template.name();
        let mut input = small(name, *template.images().start());
        if template.needs_mask() {
            input["mask"] = json!(left_half(128, 96));
        }
        let answer = worker.run(input).await.completed();
        let image = rgba(&worker.first_image(&answer).await);
        assert_eq!(image.dimensions(), (128, 96), "{name}");
        let colours: BTreeSet<_> = image.pixels().map(|pixel| pixel.0).collect();
        assert!(colours.len() > 100, "{name}: {} colours", colours.len());
        let layers = if template.has_alpha() { 2 } else { 1 };
        assert_eq!(answer.images().len(), layers, "{name}");
    }
}

#[tokio::test]
async fn words_and_seed_move_the_pictures_of_z_image() {
    let worker = shared().await;
    let asked = small("z-image-turbo-int8", 0);
    let first = made(&worker, asked.clone()).await;
    assert!(
        first != made(&worker, with(asked.clone(), &json!({"seed": 8}))).await,
        "the seed does nothing"
    );
    assert!(
        first != made(&worker, with(asked.clone(), &json!({"prompt": "a loud street"}))).await,
        "the words do nothing"
    );
    assert!(
        first == made(&worker, asked).await,
        "the same request gave another picture"
    );
}

#[tokio::test]
async fn a_control_picture_moves_the_picture_as_strongly_as_it_is_asked_to() {
    let worker = shared().await;
    let templates = Templates::embedded().expect("the templates");
    let controlled = templates.iter().filter(|template| !template.control_types().is_empty());
    let controlled: Vec<_> = controlled.map(Template::name).collect();
    assert_eq!(controlled.len(), 5);
    for template in controlled {
        let asked = |control: Value| with(small(template, 0), &json!({ "control": control }));
        let picture = square(100, 300, 40);
        let usual = made(&worker, asked(json!({"image": picture}))).await;
        // Whatever size it has, the picture has the one that was asked for.
        assert_eq!(rgba(&usual).dimensions(), (128, 96));
        let weak = made(&worker, asked(json!({"image": picture, "strength": 0.1}))).await;
        assert!(usual != weak, "{template}: the strength does nothing");
        if !["qwen-image-controlnet", "z-image-turbo-controlnet"].contains(&template) {
            continue;
        }
        let other = made(&worker, asked(json!({"image": square(128, 96, 12), "type": "canny"}))).await;
        assert!(usual != other, "{template}: the control picture does nothing");
        let ready = made(&worker, asked(json!({"image": picture, "type": "ready"}))).await;
        assert!(usual != ready, "{template}: edges are drawn of a picture that is ready");
        // Nothing that draws depth is installed.
        let answer = worker
            .run(asked(json!({"image": picture, "type": "depth"})))
            .await
            .completed();
        let warnings = answer.body["output"]["warnings"].to_string();
        assert!(
            warnings.contains("is taken as it is") && warnings.contains("comfyui_controlnet_aux"),
            "{warnings}"
        );
        assert!(
            ready == worker.first_image(&answer).await,
            "{template}: the same picture gave another"
        );
    }
}

#[tokio::test]
async fn what_a_control_picture_cannot_be_is_told() {
    let worker = shared().await;
    for (input, words) in [
        (
            json!({"template": "z-image-turbo-controlnet", "control": {"image": square(64, 64, 9), "type": "scribble"}}),
            "does not know `scribble`; it knows canny",
        ),
        (
            json!({"template": "z-image-turbo", "control": {"image": square(64, 64, 9)}}),
            "these templates have",
        ),
        (
            json!({"control": {"image": "http://10.0.0.1/a.png"}}),
            "10.0.0.1 is refused",
        ),
        (
            json!({"template": "z-image", "layers": 3}),
            "these templates have: qwen-image-layered",
        ),
        (
            json!({"template": "z-image", "mask": left_half(8, 8), "images": [square(8, 8, 2)]}),
            "mask",
        ),
    ] {
        let answer = worker.run(with(json!({"prompt": "p"}), &input)).await;
        assert!(answer.error().contains(words), "{words}: {}", answer.error());
    }
}

/// The most that a channel of a pixel differs between two pictures, within a range of columns.
fn difference(a: &RgbaImage, b: &RgbaImage, columns: std::ops::Range<u32>) -> u8 {
    let pixels = a.enumerate_pixels().filter(|(x, ..)| columns.contains(x));
    let channels = pixels.flat_map(|(x, y, pixel)| {
        let other = b.get_pixel(x, y).0;
        pixel
            .0
            .into_iter()
            .zip(other)
            .map(|(one, two)| one.abs_diff(two))
            .collect::<Vec<_>>()
    });
    channels.max().unwrap_or_default()
}

fn assert_filled_in(before: &RgbaImage, after: &RgbaImage) {
    let (width, height) = before.dimensions();
    assert_eq!(after.dimensions(), (width, height));
    // The mask is blurred by 31 pixels.
    assert!(
        difference(before, after, width * 3 / 4..width) <= 3,
        "what is outside the mask has changed"
    );
    assert!(
        difference(before, after, 0..width / 8) > 20,
        "what is inside the mask has not changed"
    );
}

#[tokio::test]
async fn what_a_mask_marks_is_filled_in_and_the_rest_stays() {
    let worker = shared().await;
    let before = picture(256, 256, |_, _| [200, 180, 160, 255]);
    let asked = json!({
        "template": "qwen-image-inpaint", "prompt": "a tree", "images": [before], "mask": left_half(256, 256),
        "width": 256, "height": 256, "steps": 1, "seed": 3,
    });
    let before = RgbaImage::from_pixel(256, 256, Rgba([200, 180, 160, 255]));
    assert_filled_in(&before, &rgba(&made(&worker, asked.clone()).await));
    // Without a size it stays what it was, to the pixel where nothing is filled in.
    let narrow = square(200, 120, 40);
    let whole = rgba(&STANDARD.decode(&narrow).expect("base64"));
    let of_its_size = json!({
        "template": "qwen-image-inpaint", "prompt": "a tree", "images": [narrow], "mask": left_half(200, 120),
        "steps": 1, "seed": 3,
    });
    let filled = rgba(&made(&worker, of_its_size).await);
    assert_eq!(filled.dimensions(), (200, 120));
    assert_eq!(difference(&whole, &filled, 150..200), 0);
    assert!(difference(&whole, &filled, 0..50) > 20, "nothing is filled in");
    // What is transparent in the picture itself does the same.
    let own = picture(256, 256, |x, _| [200, 180, 160, if x < 128 { 0 } else { 255 }]);
    let asked = with(asked, &json!({"images": [own], "mask": null}));
    assert_filled_in(&before, &rgba(&made(&worker, asked.clone()).await));
    let neither = with(asked, &json!({"images": [square(256, 256, 40)]}));
    let answer = worker.run(neither).await;
    assert!(
        answer.error().contains("has nothing transparent that would"),
        "{}",
        answer.error()
    );
}

#[tokio::test]
async fn a_picture_is_taken_apart_into_as_many_layers_as_are_asked_for() {
    let worker = shared().await;
    let asked = with(
        small("qwen-image-layered", 1),
        &json!({"layers": 3, "output_format": "jpeg"}),
    );
    let answer = worker.run(asked).await.completed();
    assert_eq!(answer.images().len(), 3);
    for image in answer.images() {
        let ending = text(image, "filename").rsplit_once('.').map(|(_, ending)| ending);
        assert_eq!(ending, Some("png"), "{image}");
    }
    let content = worker.first_image(&answer).await;
    let first = image::load_from_memory(&content).expect("an image");
    assert!(first.color().has_alpha());
    let warnings = answer.body["output"]["warnings"].to_string();
    assert!(warnings.contains("stay PNG, not JPEG"), "{warnings}");
}

#[tokio::test]
async fn what_needs_a_newer_comfyui_is_told_before_anything_is_fetched() {
    let worker = shared().await;
    for (name, version, images) in [
        ("qwen-image-2.1", "0.37", 0),
        ("qwen-image-2.1-edit", "0.37", 2),
        ("qwen-image-2.1-turbo", "0.39", 0),
    ] {
        let input = with(small(name, images), &json!({"steps": null}));
        let answer = worker.run(input).await;
        let error = answer.error();
        assert!(
            error.contains(&format!("template `{name}` needs ComfyUI {version}; this is 0.30.0"))
                && error.contains("COMFYUI_VERSION="),
            "{error}"
        );
    }
    // Beside the jobs of other tests ComfyUI is not always asked in time.
    let is_told = |body: &Value| body["templates"][0].get("available").is_some();
    let told = worker.ask_until("/templates", is_told).await;
    let templates = told["templates"].as_array().expect("a list");
    let of = |name: &str| {
        templates
            .iter()
            .find(|template| template["name"] == name)
            .expect("the template")
    };
    assert_eq!(of("qwen-image-2.1")["available"], false);
    assert_eq!(of("z-image-turbo")["available"], true);
    assert_eq!(of("z-image-turbo").get("too_old"), None);
}

async fn post(worker: &Worker, path: &str, body: &Value) -> Answer {
    worker.send(Method::POST, path, body.to_string()).await
}

#[tokio::test]
async fn openais_names_choose_z_image_and_the_filling_in_of_qwen_image() {
    let worker = shared().await;
    let body = json!({
        "model": "Tongyi-MAI/Z-Image-Turbo", "prompt": "a fox", "size": "128x96", "steps": 1, "seed": 4,
        "response_format": "b64_json",
    });
    let answer = post(&worker, "/v1/images/generations", &body).await;
    let content = STANDARD
        .decode(text(&answer.body["data"][0], "b64_json"))
        .expect("base64");
    assert_eq!(rgba(&content).dimensions(), (128, 96), "{:#}", answer.body);

    let body = json!({
        "model": "Qwen/Qwen-Image", "prompt": "a tree", "image": picture(256, 256, |_, _| [200, 180, 160, 255]),
        "mask": left_half(256, 256), "size": "256x256", "steps": 1, "quality": "high", "seed": 4,
        "response_format": "b64_json",
    });
    let answer = post(&worker, "/v1/images/edits", &body).await;
    let content = STANDARD
        .decode(text(&answer.body["data"][0], "b64_json"))
        .expect("base64");
    assert_filled_in(
        &RgbaImage::from_pixel(256, 256, Rgba([200, 180, 160, 255])),
        &rgba(&content),
    );

    let body = json!({
        "model": "Qwen/Qwen-Image-Layered", "prompt": "a fox", "image": square(128, 96, 30), "size": "256x256", "steps": 1,
        "background": "transparent", "response_format": "b64_json",
    });
    let answer = post(&worker, "/v1/images/edits", &body).await;
    assert_eq!(answer.body["background"], "transparent", "{:#}", answer.body);
    assert_eq!(answer.body["data"].as_array().map(Vec::len), Some(2));
    let body = json!({"model": "Qwen/Qwen-Image", "prompt": "a fox", "background": "transparent"});
    let answer = post(&worker, "/v1/images/generations", &body).await;
    assert_eq!(
        (answer.status, &answer.body["error"]["param"]),
        (400, &json!("background"))
    );

    let models = worker.ask("/v1/models").await.body;
    let ids: Vec<_> = models["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|model| text(model, "id"))
        .collect();
    for id in [
        "Tongyi-MAI/Z-Image-Turbo",
        "Qwen/Qwen-Image-Layered",
        "Qwen/Qwen-Image-2.1",
    ] {
        assert_eq!(ids.iter().filter(|known| **known == id).count(), 1, "{ids:?}");
    }
}
