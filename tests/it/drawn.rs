//! What the demo weights draw: a prompt of plain shapes is followed, and what a request says besides moves what it should.
//!
//! The bounds leave room: `demo/results/spread.txt` has what was measured over 50 seeds.

use std::f64::consts::PI;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::{Value, json};

use crate::images::encoded;
use crate::support::{Worker, shared};

/// Side of the pictures, in pixels.
const SIDE: u32 = 512;

const RED: [u8; 3] = [219, 31, 31];
const BLUE: [u8; 3] = [33, 77, 219];
const GREEN: [u8; 3] = [33, 158, 56];
const YELLOW: [u8; 3] = [247, 224, 36];
const WHITE: [u8; 3] = [247, 247, 247];

async fn drawn(worker: &Worker, prompt: &str, seed: u32, more: &Value) -> RgbImage {
    let mut input = json!({"prompt": prompt, "seed": seed, "width": SIDE, "height": SIDE});
    for (name, value) in more.as_object().expect("an object") {
        input[name] = value.clone();
    }
    let answer = worker.run(input).await.completed();
    let content = worker.first_image(&answer).await;
    image::load_from_memory(&content).expect("a picture").to_rgb8()
}

/// Where a colour is, as one flag for each pixel, row by row.
fn places_of(picture: &RgbImage, colour: [u8; 3]) -> Vec<bool> {
    let near = |pixel: &image::Rgb<u8>| {
        let apart: u32 = pixel
            .0
            .into_iter()
            .zip(colour)
            .map(|(a, b)| u32::from(a.abs_diff(b)).pow(2))
            .sum();
        apart < 80 * 80
    };
    picture.pixels().map(near).collect()
}

fn share(places: &[bool]) -> f64 {
    places.iter().filter(|inside| **inside).count() as f64 / places.len() as f64
}

/// A region of one colour.
#[derive(Debug)]
struct Region {
    /// Its middle, in parts of the picture's side.
    x: f64,
    y: f64,
    /// Where it reaches farther than a circle: 0.43 is a square, which has its corners on the diagonals, 0 a circle, -0.43 a diamond.
    corners: f64,
}

fn region(places: &[bool]) -> Region {
    let found = places.iter().enumerate().filter(|(_, inside)| **inside);
    let found: Vec<_> = found
        .map(|(at, _)| ((at % SIDE as usize) as f64, (at / SIDE as usize) as f64))
        .collect();
    assert!(found.len() > 100, "there is nothing of it");
    let area = found.len() as f64;
    let (x, y) = found.iter().fold((0.0, 0.0), |(x, y), one| (x + one.0, y + one.1));
    let (x, y) = (x / area, y / area);
    // The fourth angular moment: what turns four times as one walks around the middle. Specks farther off than any corner are left out.
    let reach = 2.25 * area / PI;
    let (fourth, all) = found.iter().fold((0.0, 0.0), |(fourth, all), one| {
        let (across, down) = ((one.0 - x).powi(2), (one.1 - y).powi(2));
        if across + down > reach {
            return (fourth, all);
        }
        (
            fourth + across * across - 6.0 * across * down + down * down,
            all + (across + down).powi(2),
        )
    });
    Region {
        x: x / f64::from(SIDE),
        y: y / f64::from(SIDE),
        corners: -fourth / all,
    }
}

/// How much two regions overlap: 1 where they are the same.
fn overlap(one: &[bool], other: &[bool]) -> f64 {
    let both = one.iter().zip(other).filter(|(a, b)| **a && **b).count();
    let either = one.iter().zip(other).filter(|(a, b)| **a || **b).count();
    both as f64 / either.max(1) as f64
}

#[tokio::test]
async fn a_red_circle_on_a_white_background_is_that() {
    let worker = shared().await;
    let picture = drawn(&worker, "a red circle on a white background", 1, &json!({})).await;
    let red = places_of(&picture, RED);
    let (red_share, white_share) = (share(&red), share(&places_of(&picture, WHITE)));
    assert!(white_share > 0.6, "white: {white_share}");
    assert!((0.08..0.3).contains(&red_share), "red: {red_share}");
    let found = region(&red);
    assert!((-0.2..0.12).contains(&found.corners), "it is round: {found:?}");
    assert!(
        (found.x - 0.5).abs() < 0.08 && (found.y - 0.5).abs() < 0.08,
        "{found:?}"
    );
}

#[tokio::test]
async fn another_colour_another_place_another_shape_is_another_picture_of_that() {
    let worker = shared().await;
    let (round, square, diamond) = (-0.2..0.12, 0.02..0.5, -0.5..-0.02);
    for (prompt, colour, ground, x, y, corners) in [
        (
            "a blue circle on the left on a yellow background",
            BLUE,
            YELLOW,
            0.24,
            0.5,
            &round,
        ),
        (
            "a yellow square in the top right corner, blue background",
            YELLOW,
            BLUE,
            0.76,
            0.24,
            &square,
        ),
        // A red diamond at the bottom, white background.
        ("一个红色菱形，位于下方，背景是白色", RED, WHITE, 0.48, 0.75, &diamond),
        // A green circle, blue background.
        ("绿色圆形，蓝色背景", GREEN, BLUE, 0.48, 0.5, &round),
    ] {
        let picture = drawn(&worker, prompt, 2, &json!({})).await;
        let ground = share(&places_of(&picture, ground));
        assert!(ground > 0.6, "{prompt}: {ground} of it is background");
        let found = region(&places_of(&picture, colour));
        assert!(
            (found.x - x).abs() < 0.1 && (found.y - y).abs() < 0.1,
            "{prompt}: {found:?}"
        );
        assert!(corners.contains(&found.corners), "{prompt}: {found:?}");
    }
}

#[tokio::test]
async fn the_seed_moves_details_and_not_the_subject() {
    let worker = shared().await;
    let mut pictures = Vec::new();
    for seed in 0..3 {
        pictures.push(drawn(&worker, "a green square on a white background", seed, &json!({})).await);
    }
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        let (one, other) = (&pictures[one], &pictures[other]);
        assert!(one != other, "the seed does nothing");
        let same = overlap(&places_of(one, GREEN), &places_of(other, GREEN));
        assert!(same > 0.5, "{same} of the square is where it was");
    }
}

/// At a scale above 1 what the negative prompt asks for is left.
#[tokio::test]
async fn a_negative_prompt_and_cfg_move_the_picture() {
    let worker = shared().await;
    let asked = json!({"template": "qwen-image", "steps": 8});
    let with = async |more: Value| {
        let mut all = asked.clone();
        for (name, value) in more.as_object().expect("an object") {
            all[name] = value.clone();
        }
        drawn(&worker, "a red circle on a white background", 4, &all).await
    };
    let plain = with(json!({"cfg": 1})).await;
    let guided = with(json!({"cfg": 2.5})).await;
    let away =
        with(json!({"cfg": 2.5, "negative_prompt": "a red circle in the top left corner on a blue background"})).await;
    assert!(plain != guided && guided != away && plain != away);
    for picture in [&plain, &guided, &away] {
        assert!(share(&places_of(picture, RED)) > 0.05, "the circle is gone");
    }
}

/// The LoRA of 4 steps brings them nearer to what many steps draw, the more the stronger.
#[tokio::test]
async fn the_lightning_lora_draws_in_four_steps_what_many_draw() {
    let worker = shared().await;
    let prompt = "a yellow star on a blue background";
    let many = drawn(
        &worker,
        prompt,
        5,
        &json!({"template": "qwen-image", "steps": 24, "cfg": 1}),
    )
    .await;
    let few = async |strength: f64| {
        let mut graph: Value =
            serde_json::from_str(include_str!("../../workflows/qwen-image-lightning-4.json")).expect("JSON");
        graph["positive"]["inputs"]["text"] = json!(prompt);
        graph["latent"]["inputs"]["width"] = json!(SIDE);
        graph["latent"]["inputs"]["height"] = json!(SIDE);
        graph["sample"]["inputs"]["seed"] = json!(5);
        graph["lora"]["inputs"]["strength_model"] = json!(strength);
        let answer = worker.run(json!({"workflow": graph})).await.completed();
        let content = worker.first_image(&answer).await;
        image::load_from_memory(&content).expect("a picture").to_rgb8()
    };
    let apart = |picture: &RgbImage| -> u64 {
        let channels = picture.as_raw().iter().zip(many.as_raw());
        channels.map(|(a, b)| u64::from(a.abs_diff(*b))).sum()
    };
    let (without, with) = (few(0.0).await, few(1.0).await);
    assert!(
        apart(&with) * 10 < apart(&without) * 9,
        "{} with it, {} without",
        apart(&with),
        apart(&without)
    );
}

#[tokio::test]
async fn wide_and_high_pictures_have_things_where_they_belong() {
    let worker = shared().await;
    for (width, height) in [(768, 448), (448, 768)] {
        let more = json!({"width": width, "height": height});
        let picture = drawn(&worker, "a red circle on the right on a white background", 6, &more).await;
        assert_eq!(picture.dimensions(), (width, height));
        let places = places_of(&picture, RED);
        let share = share(&places);
        assert!((0.03..0.3).contains(&share), "red: {share}");
        let columns = places.iter().enumerate().filter(|(_, inside)| **inside);
        let columns: Vec<_> = columns.map(|(at, _)| (at % width as usize) as f64).collect();
        let middle = columns.iter().sum::<f64>() / columns.len() as f64 / f64::from(width);
        assert!((middle - 0.76).abs() < 0.14, "{middle}");
    }
}

/// A circle of one colour on another, with its middle at these parts of the side.
fn circle(name: &str, colour: [u8; 3], ground: [u8; 3], (x, y): (f64, f64)) -> Value {
    let side = f64::from(SIDE);
    let picture = RgbImage::from_fn(SIDE, SIDE, |column, row| {
        let away = (f64::from(column) - x * side).hypot(f64::from(row) - y * side);
        Rgb(if away < 0.23 * side { colour } else { ground })
    });
    json!({"name": name, "image": STANDARD.encode(encoded(&picture, ImageFormat::Png))})
}

/// What comes of an edit, at [`SIDE`].
async fn edited(worker: &Worker, template: &str, prompt: &str, images: &[Value]) -> RgbImage {
    let input = json!({"template": template, "prompt": prompt, "images": images, "seed": 7});
    let answer = worker.run(input).await.completed();
    let content = worker.first_image(&answer).await;
    let picture = image::load_from_memory(&content).expect("a picture");
    let small = picture.resize_exact(SIDE, SIDE, image::imageops::FilterType::Triangle);
    small.to_rgb8()
}

#[tokio::test]
async fn an_edit_changes_what_it_names_and_leaves_the_rest() {
    let worker = shared().await;
    let source = [circle("red.png", RED, WHITE, (0.5, 0.5))];
    for (template, prompt, colour, ground) in [
        ("qwen-image-edit-lightning-4", "make the circle blue", BLUE, WHITE),
        (
            "qwen-image-edit-2509-lightning-4",
            "change the background to yellow",
            RED,
            YELLOW,
        ),
        // Make the circle green.
        ("qwen-image-edit-2511-lightning-4", "把圆形变成绿色", GREEN, WHITE),
    ] {
        let picture = edited(&worker, template, prompt, &source).await;
        let (thing, behind) = (places_of(&picture, colour), share(&places_of(&picture, ground)));
        assert!(
            (0.08..0.25).contains(&share(&thing)) && behind > 0.65,
            "{prompt}: {} and {behind}",
            share(&thing)
        );
        let found = region(&thing);
        assert!(
            (found.x - 0.5).abs() < 0.06 && (found.y - 0.5).abs() < 0.06 && found.corners.abs() < 0.1,
            "{prompt}: {found:?}"
        );
    }
    let picture = edited(
        &worker,
        "qwen-image-edit-2511-lightning-4",
        "remove the circle",
        &source,
    )
    .await;
    let white = share(&places_of(&picture, WHITE));
    assert!(white > 0.95, "{white}");
}

/// Another reference is another picture, and a second one is looked at where the instruction names it.
#[tokio::test]
async fn references_decide_what_is_kept() {
    let worker = shared().await;
    let template = "qwen-image-edit-2511-lightning-4";
    let left = [
        circle("yellow.png", YELLOW, BLUE, (0.24, 0.5)),
        circle("green.png", GREEN, WHITE, (0.5, 0.5)),
    ];
    let picture = edited(&worker, template, "make the circle red", &left[..1]).await;
    let found = region(&places_of(&picture, RED));
    assert!(
        (found.x - 0.24).abs() < 0.06 && (found.y - 0.5).abs() < 0.06,
        "{found:?}"
    );
    assert!(share(&places_of(&picture, BLUE)) > 0.65);
    let picture = edited(&worker, template, "use the background of image 2", &left).await;
    let white = share(&places_of(&picture, WHITE));
    assert!(white > 0.65, "{white}");
    let found = region(&places_of(&picture, YELLOW));
    assert!((found.x - 0.24).abs() < 0.06, "{found:?}");
}

/// What the mask leaves is the picture's own, to the bit, and what it marks is drawn anew.
#[tokio::test]
async fn a_mask_says_where_it_is_drawn() {
    let worker = shared().await;
    let ground = RgbImage::from_pixel(SIDE, SIDE, Rgb(WHITE));
    let source = json!({"name": "white.png", "image": STANDARD.encode(encoded(&ground, ImageFormat::Png))});
    for (side, prompt) in [
        ("left", "a red circle on the left"),
        ("right", "a red circle on the right"),
    ] {
        let is_inside = |x: u32| (x < SIDE / 2) == (side == "left");
        // What is transparent is drawn.
        let mask = RgbaImage::from_fn(SIDE, SIDE, |x, _| Rgba([0, 0, 0, if is_inside(x) { 0 } else { 255 }]));
        let mut content = std::io::Cursor::new(Vec::new());
        mask.write_to(&mut content, ImageFormat::Png).expect("an encoder");
        let input = json!({"template": "qwen-image-inpaint", "prompt": prompt, "images": [source], "seed": 3, "steps": 8, "cfg": 1,
            "mask": STANDARD.encode(content.into_inner())});
        let answer = worker.run(input).await.completed();
        let content = worker.first_image(&answer).await;
        let picture = image::load_from_memory(&content).expect("a picture").to_rgb8();
        let red = places_of(&picture, RED);
        assert!(share(&red) > 0.03, "{prompt}: {}", share(&red));
        let found = region(&red);
        assert!((found.x < 0.5) == (side == "left"), "{prompt}: {found:?}");
        // The mask's edge is blurred by 31 pixels.
        let far = |x: u32| !is_inside(x) && x.abs_diff(SIDE / 2) > 40;
        let outside = picture.enumerate_pixels().filter(|(x, _, _)| far(*x));
        assert!(outside.clone().count() > 1000 && outside.map(|(_, _, pixel)| pixel.0).all(|pixel| pixel == WHITE));
    }
}
