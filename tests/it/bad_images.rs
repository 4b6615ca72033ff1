//! Images that are no good, through every way in that takes one: each is refused in the words of its API, with the field
//! named, and the next request gets its picture.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::dialects::{Client, Ended, Way};
use crate::support::image_server::{self, DRAWING, PAGE, damaged, half, huge, png};
use crate::support::{Worker, shared};

/// The ways that take an image.
const WAYS: [Way; 6] = [
    Way::Runsync,
    Way::Generations,
    Way::Edits,
    Way::EditsForm,
    Way::EditsStreamed,
    Way::EditPlus,
];
/// Those of OpenAI's API, which take a mask too.
const OPENAI: [Way; 4] = [Way::Generations, Way::Edits, Way::EditsForm, Way::EditsStreamed];
/// A port that refuses.
const CLOSED: &str = "http://127.0.0.1:9";
/// A name that nobody has (RFC 2606).
const NOBODY: &str = "http://storage.invalid";

/// The smallest request with images that a way in takes.
fn request(way: Way, images: &[String]) -> Value {
    match way {
        Way::EditPlus => {
            let mut body = json!({"prompt": "make it blue", "steps": 1, "cfg": 1.0, "megapixels": 0.02, "seed": 21});
            for (number, image) in (1..).zip(images) {
                body[format!("image{number}_url")] = json!(image);
            }
            body
        }
        // One image alone goes round the models.
        Way::Runsync if images.len() == 1 => json!({
            "workflow": {
                "1": {"class_type": "LoadImage", "inputs": {"image": "photo 1"}},
                "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "photo"}},
            },
            "images": [{"name": "photo 1", "image": images[0]}],
        }),
        Way::Runsync => {
            let images = (1..).zip(images);
            let images = images.map(|(number, image)| json!({"name": format!("photo {number}"), "image": image}));
            json!({"prompt": "make it blue", "template": "qwen-image-edit-2511-lightning-4", "width": 64, "height": 64,
                "steps": 1, "seed": 22, "images": images.collect::<Vec<_>>()})
        }
        _ => {
            json!({"prompt": "make it blue", "image": images, "size": "256x256", "quality": "low", "steps": 1, "seed": 23,
            "response_format": "b64_json"})
        }
    }
}

/// How the way in calls the first image.
fn name(way: Way) -> &'static str {
    match way {
        Way::EditPlus => "`image1_url`",
        Way::Runsync => "`photo 1`",
        _ => "`image_1`",
    }
}

async fn worker() -> Worker {
    let vars = [
        ("ALLOW_PRIVATE_URLS", "127.0.0.1"),
        ("IMAGE_TIMEOUT_S", "4"),
        ("IMAGE_MAX_BYTES", "5000"),
    ];
    Worker::beside_shared(&vars).await
}

/// Checks what was told; `field` is OpenAI's name of what is at fault.
#[track_caller]
fn assert_told(way: Way, ended: Ended, status: u16, field: &str, words: &[&str], what: &str) {
    let what = format!("{way:?} {what}");
    let refusal = ended.refused(&what);
    refusal.says(status, words, &what);
    assert!(
        !refusal.message.contains("4711"),
        "{what}: a secret is told: {}",
        refusal.message
    );
    if OPENAI.contains(&way) {
        assert_eq!(refusal.param.as_deref(), Some(field), "{what}: {}", refusal.message);
    }
}

#[tokio::test]
async fn images_by_url() {
    let server = image_server::start().await;
    let worker = worker().await;
    let client = Client::new(&worker, "");
    let bad = [
        (
            "http://10.0.0.1/a.png".to_owned(),
            400,
            &["10.0.0.1 is refused", "Name a public address"][..],
        ),
        (
            format!("{server}/inside"),
            400,
            &["169.254.169.254 is refused", "Name a public address"],
        ),
        (
            format!("{server}/round"),
            400,
            &["redirects are not followed", "where they end"],
        ),
        (format!("{CLOSED}/a.png"), 400, &["refused", "base64"]),
        (
            format!("{NOBODY}/a.png"),
            400,
            &["cannot be fetched from http://storage.invalid/a.png", "base64"],
        ),
        (
            format!("{server}/never"),
            400,
            &["not complete after 4s", "answer sooner"],
        ),
        (
            format!("{server}/dripping"),
            400,
            &["not complete after 4s", "answer sooner"],
        ),
        (
            format!("{server}/endless"),
            413,
            &["more than 5000 bytes", "Send a smaller one"],
        ),
        (
            format!("{server}/nowhere.png"),
            400,
            &["404 Not Found", "the address is right"],
        ),
        (format!("{server}/empty"), 400, &["is empty"]),
        (
            format!("{server}/page"),
            400,
            &["(200 OK, text/plain", "an HTML page", "the address of the image itself"],
        ),
        (
            format!("{server}/half.png"),
            400,
            &["(200 OK, application/octet-stream) is cut off", "send the whole file"],
        ),
        (
            format!("{server}/drawing.svg"),
            400,
            &["is an SVG", "send PNG, JPEG or WebP"],
        ),
        (
            format!("{server}/huge.png"),
            400,
            &["30000 x 30000 pixels", "Scale it down"],
        ),
    ];
    let asked = WAYS.iter().flat_map(|way| bad.iter().map(move |case| (*way, case)));
    let asked = asked.map(async |(way, (url, status, words))| {
        let ended = client.ask(way, &request(way, &[format!("{url}?token=4711")])).await;
        (way, ended, *status, *words, url)
    });
    for (way, ended, status, words, url) in join_all(asked).await {
        let status = if way.tells_later() { 200 } else { status };
        let words = [words, &[name(way)]].concat();
        assert_told(way, ended, status, "image", &words, url);
    }
    for way in [Way::Runsync, Way::EditsStreamed, Way::EditPlus] {
        let good = request(way, &[format!("{server}/pixel.png")]);
        client.ask(way, &good).await.picture(&format!("{way:?}"));
    }
}

#[tokio::test]
async fn this_machine_is_no_place_for_images_unless_it_is_allowed() {
    let worker = shared().await;
    let client = Client::new(&worker, "");
    for way in WAYS {
        for host in ["127.0.0.1", "localhost", "[::1]"] {
            let url = format!("http://{host}:9/a.png?token=4711");
            let ended = client.ask(way, &request(way, &[url])).await;
            let status = if way.tells_later() { 200 } else { 400 };
            let words = [name(way), "is refused", "ALLOW_PRIVATE_URLS", "Name a public address"];
            assert_told(way, ended, status, "image", &words, host);
        }
    }
}

#[tokio::test]
async fn images_in_the_request() {
    let worker = worker().await;
    let client = Client::new(&worker, "");
    let encoded = |content: &[u8]| STANDARD.encode(content);
    let bad = [
        ("%%%".to_owned(), &["no base64", "send a URL"][..]),
        ("data:image/png,xyz".to_owned(), &["data URI", "data:image/png;base64,"]),
        (
            "ftp://storage.example.com/a.png?token=4711".to_owned(),
            &["the scheme `ftp`", "send http"],
        ),
        ("http://?token=4711".to_owned(), &["a URL that cannot be read"]),
        (encoded(PAGE.as_bytes()), &["an HTML page"]),
        (encoded(DRAWING.as_bytes()), &["is an SVG", "send PNG, JPEG or WebP"]),
        (encoded(&huge()), &["30000 x 30000 pixels", "Scale it down"]),
        (encoded(&png(8, 8, 255)[..20]), &["is damaged"]),
        (encoded(&half()), &["is cut off", "send the whole file"]),
        (encoded(b"hello world"), &["is no image", "send PNG, JPEG or WebP"]),
    ];
    for way in WAYS {
        for (image, words) in &bad {
            let ended = client.ask(way, &request(way, std::slice::from_ref(image))).await;
            let words = [*words, &[name(way)]].concat();
            assert_told(way, ended, 400, "image", &words, image);
        }
        // Its header is right: ComfyUI finds out.
        let ended = client.ask(way, &request(way, &[encoded(&damaged())])).await;
        let status = if way.tells_later() { 200 } else { 400 };
        assert_told(way, ended, status, "image", &[name(way), "cannot be loaded"], "damaged");
    }
    for way in [Way::Runsync, Way::EditsForm, Way::EditPlus] {
        let good = request(way, &[encoded(&png(1, 1, 255))]);
        client.ask(way, &good).await.picture(&format!("{way:?}"));
    }
}

#[tokio::test]
async fn too_few_images_and_too_many() {
    let worker = shared().await;
    let client = Client::new(&worker, "");
    let pixel = STANDARD.encode(png(1, 1, 255));
    for (way, images, words) in [
        (Way::Runsync, 0, &["images", "takes 1 to 3, and the request has 0"][..]),
        (Way::Runsync, 17, &["images", "takes 1 to 3, and the request has 17"]),
        (Way::Runsync, 65, &["images", "has 65 entries, the limit is 64"]),
        (Way::Generations, 17, &["takes 3 at most, and the request has 17"]),
        (Way::Edits, 0, &["is missing", "a URL"]),
        (Way::Edits, 17, &["takes 3 at most, and the request has 17"]),
        (Way::EditsForm, 0, &["is missing", "a URL"]),
        (Way::EditsForm, 17, &["takes 3 at most, and the request has 17"]),
        (Way::EditsStreamed, 0, &["is missing", "a URL"]),
        (Way::EditsStreamed, 17, &["takes 3 at most, and the request has 17"]),
        (Way::EditPlus, 0, &["Both image1_url and prompt are required"]),
        (Way::EditPlus, 17, &["_url: is one too many", "three images at most"]),
    ] {
        let ended = client.ask(way, &request(way, &vec![pixel.clone(); images])).await;
        assert_told(way, ended, 400, "image", words, &format!("{images} images"));
    }
    let mut body = request(Way::Runsync, &[pixel.clone(), pixel.clone()]);
    body["template"] = json!("qwen-image");
    let ended = client.ask(Way::Runsync, &body).await;
    assert_told(
        Way::Runsync,
        ended,
        400,
        "",
        &["images", "has no place for it"],
        "none wanted",
    );
    for (model, images, field, words) in [
        ("Qwen/Qwen-Image", 1, "model", "takes no image"),
        ("Qwen/Qwen-Image-Edit", 2, "image", "takes 1 at most"),
        ("Qwen/Qwen-Image-Edit", 0, "image", "is missing"),
    ] {
        let mut body = request(Way::Generations, &vec![pixel.clone(); images]);
        body["model"] = json!(model);
        let ended = client.ask(Way::Generations, &body).await;
        assert_told(Way::Generations, ended, 400, field, &[words], model);
    }
    // The second of three is left out.
    let mut body = request(Way::EditPlus, std::slice::from_ref(&pixel));
    body["image3_url"] = json!(pixel);
    let ended = client.ask(Way::EditPlus, &body).await;
    assert_told(
        Way::EditPlus,
        ended,
        400,
        "",
        &["image3_url", "image2_url first"],
        "a gap",
    );
}

#[tokio::test]
async fn a_thin_image_cannot_have_few_megapixels() {
    let worker = shared().await;
    let client = Client::new(&worker, "");
    let words = &["megapixels", "has 1 x 16384 pixels", "Crop the image"];
    let thin = STANDARD.encode(png(1, 16_384, 255));
    let mut body = request(Way::EditPlus, std::slice::from_ref(&thin));
    let ended = client.ask(Way::EditPlus, &body).await;
    assert_told(Way::EditPlus, ended, 200, "", words, "thin");
    body = json!({"prompt": "p", "template": "qwen-image-edit-2511", "megapixels": 0.5, "images": [thin]});
    let ended = client.ask(Way::Runsync, &body).await;
    assert_told(Way::Runsync, ended, 400, "", words, "thin");
}

#[tokio::test]
async fn masks_that_are_none() {
    let worker = worker().await;
    let client = Client::new(&worker, "");
    let encoded = |content: &[u8]| STANDARD.encode(content);
    for way in OPENAI {
        let with_mask = |mask: &Value| {
            let mut body = request(way, &[encoded(&png(64, 64, 255))]);
            body["mask"] = mask.clone();
            body
        };
        for (mask, words) in [
            (
                json!(encoded(&png(32, 64, 0))),
                &["32 x 64 pixels", "the same size"][..],
            ),
            (json!(encoded(PAGE.as_bytes())), &["an HTML page"]),
            (json!(encoded(&huge())), &["30000 x 30000 pixels"]),
            (json!("%%%"), &["no base64"]),
        ] {
            let ended = client.ask(way, &with_mask(&mask)).await;
            assert_told(way, ended, 400, "mask", words, "mask");
        }
        // Its pixels are looked at beside the job before, when a stream has begun.
        let status = if way.tells_later() { 200 } else { 400 };
        let ended = client.ask(way, &with_mask(&json!(encoded(&png(64, 64, 255))))).await;
        assert_told(way, ended, status, "mask", &["no transparent pixel"], "an opaque mask");
        let ended = client
            .ask(way, &with_mask(&json!("http://10.0.0.1/a.png?token=4711")))
            .await;
        assert_told(
            way,
            ended,
            status,
            "mask",
            &["`mask`", "10.0.0.1 is refused"],
            "a private mask",
        );
    }
    let ended = client
        .ask(
            Way::Generations,
            &json!({"prompt": "p", "mask": encoded(&png(8, 8, 0))}),
        )
        .await;
    assert_told(
        Way::Generations,
        ended,
        400,
        "mask",
        &["needs an image"],
        "a mask alone",
    );
}
