//! Input images by URL, from a bucket and in base64, of every format that people send.

use std::io::Cursor;

use axum::Router;
use axum::extract::Path;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use crate::support::Worker;
use crate::support::bucket::{BucketServer, SECRET};

const WIDTH: u32 = 48;
const HEIGHT: u32 = 24;

/// A picture whose left half has the colour and whose right half is black.
pub(crate) fn picture(colour: [u8; 3]) -> RgbImage {
    RgbImage::from_fn(WIDTH, HEIGHT, |x, _| Rgb(if x < WIDTH / 2 { colour } else { [0; 3] }))
}

pub(crate) fn encoded(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut content = Cursor::new(Vec::new());
    picture.write_to(&mut content, format).expect("an encoder");
    content.into_inner()
}

/// A JPEG with a camera's note that it is to be turned by 90 degrees clockwise (orientation 6).
fn turned() -> Vec<u8> {
    let jpeg = encoded(&picture([250, 0, 0]), ImageFormat::Jpeg);
    // One entry: tag 0x0112, a short, one of them, 6.
    let note = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let mut content = jpeg[..2].to_vec();
    content.extend([0xff, 0xe1]);
    content.extend(u16::try_from(note.len() + 2).expect("short").to_be_bytes());
    content.extend(note);
    content.extend(&jpeg[2..]);
    content
}

/// The picture in formats that need no encoder.
fn bmp() -> Vec<u8> {
    let pixels = picture([0, 250, 0]);
    let mut content = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    content.extend(WIDTH.to_le_bytes());
    content.extend(HEIGHT.to_le_bytes());
    content.extend(b"\x01\0\x18\0");
    content.extend([0; 24]);
    for y in (0..HEIGHT).rev() {
        content.extend((0..WIDTH).flat_map(|x| {
            let Rgb([red, green, blue]) = *pixels.get_pixel(x, y);
            [blue, green, red]
        }));
    }
    content
}

fn ppm() -> Vec<u8> {
    let mut content = format!("P6\n{WIDTH} {HEIGHT}\n255\n").into_bytes();
    content.extend(picture([0, 250, 0]).into_raw());
    content
}

/// Files by name, on a port of their own.
pub(crate) async fn serve(files: Vec<(&'static str, Vec<u8>)>) -> String {
    let router = Router::new().route(
        "/{name}",
        axum::routing::get(move |Path(name): Path<String>| {
            let found = files.iter().find(|(file, _)| *file == name);
            let content = found.map(|(_, content)| content.clone());
            async move { content.ok_or(axum::http::StatusCode::NOT_FOUND) }
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// A graph that loads each image and saves it as it was loaded.
pub(crate) fn load(names: &[&str]) -> Value {
    let nodes = names.iter().flat_map(|name| {
        let (loader, saver) = (format!("load {name}"), format!("save {name}"));
        let save = json!({"images": [loader, 0], "filename_prefix": format!("loaded/{name}")});
        [
            (loader, json!({"class_type": "LoadImage", "inputs": {"image": name}})),
            (saver, json!({"class_type": "SaveImage", "inputs": save})),
        ]
    });
    Value::Object(nodes.collect())
}

/// What ComfyUI saw in each image: width, height, and the colour at the left in the middle.
pub(crate) async fn seen(worker: &Worker, images: &[(&str, String)]) -> Vec<(u32, u32, [u8; 3])> {
    let names: Vec<&str> = images.iter().map(|(name, _)| *name).collect();
    let images: Vec<Value> = images
        .iter()
        .map(|(name, image)| json!({"name": name, "image": image}))
        .collect();
    let input = json!({"workflow": load(&names), "images": images, "return_images_as": "base64"});
    let answer = worker.run(input).await.completed();
    let mut seen = Vec::new();
    for name in names {
        // As SaveImage names it; one name may be a part of another, or of an ending.
        let begin = format!("{}_", name.rsplit('/').next().unwrap_or(name));
        let found = answer
            .images()
            .iter()
            .find(|image| image["filename"].as_str().is_some_and(|file| file.starts_with(&begin)));
        let data = found.and_then(|image| image["data"].as_str()).expect("a picture");
        let picture = image::load_from_memory(&STANDARD.decode(data).expect("base64")).expect("a PNG");
        let picture = picture.to_rgb8();
        let Rgb(colour) = *picture.get_pixel(4, picture.height() / 2);
        seen.push((picture.width(), picture.height(), colour));
    }
    seen
}

/// Formats with loss, and the way through YUV, change a colour a little.
#[track_caller]
pub(crate) fn assert_close(seen: [u8; 3], expected: [u8; 3], what: &str) {
    let close = seen
        .iter()
        .zip(expected)
        .all(|(seen, expected)| seen.abs_diff(expected) < 24);
    assert!(close, "{what}: {seen:?}");
}

async fn worker(more: &[(&str, &str)]) -> Worker {
    let vars: Vec<(&str, &str)> = [("ALLOW_PRIVATE_URLS", "127.0.0.1")]
        .iter()
        .chain(more)
        .copied()
        .collect();
    Worker::beside_shared(&vars).await
}

#[tokio::test]
async fn images_of_every_kind_and_origin_reach_their_nodes() {
    let bucket = BucketServer::start().await;
    let png = encoded(&picture([0, 0, 250]), ImageFormat::Png);
    bucket.put("results", "in/a 100%#1.png", &png);
    bucket.put("uploads", "b.png", &png);
    let url = serve(vec![
        ("a.jpg", encoded(&picture([250, 0, 0]), ImageFormat::Jpeg)),
        ("a.webp", encoded(&picture([250, 0, 0]), ImageFormat::WebP)),
        ("a.bmp", bmp()),
        ("a.ppm", ppm()),
    ])
    .await;
    let mut vars = BucketServer::vars(&bucket.endpoint, SECRET);
    vars.push(("IMAGE_BUCKETS", "uploads"));
    let worker = worker(&vars).await;
    let encoded = STANDARD.encode(&png);
    let images = [
        ("jpeg", format!("{url}/a.jpg?signature=4711"), [250, 0, 0]),
        ("webp", format!("{url}/a.webp"), [250, 0, 0]),
        ("bmp", format!("{url}/a.bmp"), [0, 250, 0]),
        ("ppm", format!("{url}/a.ppm"), [0, 250, 0]),
        ("base64", encoded.clone(), [0, 0, 250]),
        ("data", format!("data:image/png;base64,{encoded}"), [0, 0, 250]),
        ("object", "s3://results/in/a 100%#1.png".to_owned(), [0, 0, 250]),
        ("upload", "s3://uploads/b.png".to_owned(), [0, 0, 250]),
    ];
    let sent: Vec<(&str, String)> = images.iter().map(|(name, image, _)| (*name, image.clone())).collect();
    let seen = seen(&worker, &sent).await;
    for ((name, _, colour), (width, height, found)) in images.iter().zip(seen) {
        assert_eq!((width, height), (WIDTH, HEIGHT), "{name}");
        assert_close(found, *colour, name);
    }
    let images = json!([{"name": "a", "image": "s3://private/a.png"}]);
    let answer = worker.run(json!({"workflow": load(&["a"]), "images": images})).await;
    assert_eq!(answer.status, 400, "{:#}", answer.body);
    assert!(answer.error().contains("presigned https address"), "{}", answer.error());
}

#[tokio::test]
async fn a_camera_s_note_that_turns_a_picture_is_respected() {
    let url = serve(vec![("turned.jpg", turned())]).await;
    let worker = worker(&[]).await;
    let sent = [
        ("here", STANDARD.encode(turned())),
        ("there", format!("{url}/turned.jpg")),
    ];
    for (width, height, _) in seen(&worker, &sent).await {
        assert_eq!((width, height), (HEIGHT, WIDTH));
    }
}

#[tokio::test]
async fn the_smallest_and_the_largest_picture() {
    let mut huge = encoded(&picture([9; 3]), ImageFormat::Png);
    huge[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
    huge[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
    let pixel = encoded(&RgbImage::from_pixel(1, 1, Rgb([0; 3])), ImageFormat::Png);
    let url = serve(vec![("huge.png", huge.clone()), ("pixel.png", pixel)]).await;
    let worker = worker(&[]).await;
    let images = json!([{"name": "a", "image": format!("{url}/pixel.png")}]);
    let answer = worker
        .run(json!({"workflow": load(&["a"]), "images": images}))
        .await
        .completed();
    assert_eq!(answer.images().len(), 1);
    for image in [format!("{url}/huge.png"), STANDARD.encode(&huge)] {
        let images = json!([{"name": "a", "image": image}]);
        let answer = worker.run(json!({"workflow": load(&["a"]), "images": images})).await;
        assert_eq!(answer.status, 400, "{:#}", answer.body);
        assert!(answer.error().contains("30000 x 30000 pixels"), "{}", answer.error());
    }
}
