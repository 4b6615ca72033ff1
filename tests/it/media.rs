//! Input files beyond usual pictures: audio and video for a graph, pictures that ComfyUI's loader fails at unless they are made
//! anew, and images that never come.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use reqwest::Method;
use serde_json::{Value, json};

use crate::images::{assert_close, encoded, load, seen, serve};
use crate::support::{Worker, shared, text, until};

/// A video of 32 by 32 pixels and four frames, as `FFmpeg` writes it.
pub(crate) const VIDEO: &str = "\
    AAAAIGZ0eXBpc29tAAACAGlzb21pc28yYXZjMW1wNDEAAANvbW9vdgAAAGxtdmhkAAAAAAAAAAAAAAAAAAAD6AAAAfQAAQAAAQAAAAAAAAAAAA\
    AAAAEAAAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAgAAAnp0cmFrAAAAXHRraGQA\
    AAADAAAAAAAAAAAAAAABAAAAAAAAAfQAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAABAAAAAACAAAAAgAA\
    AAAAAkZWR0cwAAABxlbHN0AAAAAAAAAAEAAAH0AAAQAAABAAAAAAHybWRpYQAAACBtZGhkAAAAAAAAAAAAAAAAAABAAAAAKABVxAAAAAAALWhk\
    bHIAAAAAAAAAAHZpZGUAAAAAAAAAAAAAAABWaWRlb0hhbmRsZXIAAAABnW1pbmYAAAAUdm1oZAAAAAEAAAAAAAAAAAAAACRkaW5mAAAAHGRyZW\
    YAAAAAAAAAAQAAAAx1cmwgAAAAAQAAAV1zdGJsAAAArXN0c2QAAAAAAAAAAQAAAJ1hdmMxAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAACAAIABI\
    AAAASAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAGP//AAAAM2F2Y0MBZAAK/+EAFmdkAAqs2UloQAAAAwBAAAAEA8\
    SJZYABAAZo6+PLIsD9+PgAAAAAFGJ0cnQAAAAAAAAuYAAAAAAAAAAYc3R0cwAAAAAAAAABAAAABAAACAAAAAAUc3RzcwAAAAAAAAABAAAAAQAA\
    AChjdHRzAAAAAAAAAAMAAAABAAAQAAAAAAEAACAAAAAAAgAACAAAAAAcc3RzYwAAAAAAAAABAAAAAQAAAAQAAAABAAAAJHN0c3oAAAAAAAAAAA\
    AAAAQAAALBAAAADQAAAAwAAAAMAAAAFHN0Y28AAAAAAAAAAQAAA58AAACBdWR0YQAAAHltZXRhAAAAAAAAACFoZGxyAAAAAAAAAABtZHRhAAAA\
    AAAAAAAAAAAAAAAAAB9rZXlzAAAAAAAAAAEAAAAPbWR0YWVuY29kZXIAAAAtaWxzdAAAACUAAAABAAAAHWRhdGEAAAABAAAAAExhdmY2Mi4xMi\
    4xMDIAAAAIZnJlZQAAAu5tZGF0AAACnwYF//+b3EXpvebZSLeWLNgg2SPu73gyNjQgLSBjb3JlIDE2NSAtIEguMjY0L01QRUctNCBBVkMgY29k\
    ZWMgLSBDb3B5bGVmdCAyMDAzLTIwMjUgLSBodHRwOi8vd3d3LnZpZGVvbGFuLm9yZy94MjY0Lmh0bWwgLSBvcHRpb25zOiBjYWJhYz0xIHJlZj\
    0zIGRlYmxvY2s9MTowOjAgYW5hbHlzZT0weDM6MHgxMTMgbWU9aGV4IHN1Ym1lPTcgcHN5PTEgcHN5X3JkPTEuMDA6MC4wMCBtaXhlZF9yZWY9\
    MSBtZV9yYW5nZT0xNiBjaHJvbWFfbWU9MSB0cmVsbGlzPTEgOHg4ZGN0PTEgY3FtPTAgZGVhZHpvbmU9MjEsMTEgZmFzdF9wc2tpcD0xIGNocm\
    9tYV9xcF9vZmZzZXQ9LTIgdGhyZWFkcz0xIGxvb2thaGVhZF90aHJlYWRzPTEgc2xpY2VkX3RocmVhZHM9MCBucj0wIGRlY2ltYXRlPTEgaW50\
    ZXJsYWNlZD0wIGJsdXJheV9jb21wYXQ9MCBjb25zdHJhaW5lZF9pbnRyYT0wIGJmcmFtZXM9MyBiX3B5cmFtaWQ9MiBiX2FkYXB0PTEgYl9iaW\
    FzPTAgZGlyZWN0PTEgd2VpZ2h0Yj0xIG9wZW5fZ29wPTAgd2VpZ2h0cD0yIGtleWludD0yNTAga2V5aW50X21pbj04IHNjZW5lY3V0PTQwIGlu\
    dHJhX3JlZnJlc2g9MCByY19sb29rYWhlYWQ9NDAgcmM9Y3JmIG1idHJlZT0xIGNyZj0yMy4wIHFjb21wPTAuNjAgcXBtaW49MCBxcG1heD02OS\
    BxcHN0ZXA9NCBpcF9yYXRpbz0xLjQwIGFxPTE6MS4wMACAAAAAGmWIhAAQ//7mwPmWWiHjgFCHa4ZOtItjn3d9AAAACUGaI2xDv/6rgAAAAAhB\
    nkF4h39GwQAAAAgBnmJqQ79GwA==";

/// A tenth of a second of silence, 8000 samples a second.
pub(crate) fn wav() -> Vec<u8> {
    let mut content =
        b"RIFF\x64\x06\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\x40\x06\0\0".to_vec();
    content.resize(content.len() + 1600, 0);
    content
}

/// A BMP of one colour whose rows go from top to bottom; the upper half is black.
fn top_down_bmp(side: u32) -> Vec<u8> {
    let mut content = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    content.extend(side.to_le_bytes());
    content.extend(side.wrapping_neg().to_le_bytes());
    content.extend(b"\x01\0\x18\0");
    content.extend([0; 24]);
    for y in 0..side {
        let pixel = if y < side / 2 { [0; 3] } else { [10, 20, 240] };
        content.extend((0..side).flat_map(|_| pixel));
    }
    content
}

pub(crate) fn audio(name: &str) -> Value {
    json!({
        "1": {"class_type": "LoadAudio", "inputs": {"audio": name}},
        "9": {"class_type": "SaveAudio", "inputs": {"audio": ["1", 0], "filename_prefix": "heard/a"}},
    })
}

pub(crate) fn video(name: &str) -> Value {
    json!({
        "1": {"class_type": "LoadVideo", "inputs": {"file": name}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "watched/a"}},
    })
}

#[tokio::test]
async fn a_graph_loads_audio_and_video_and_a_template_refuses_them() {
    let url = serve(vec![
        ("a.wav", wav()),
        ("a.mp4", STANDARD.decode(VIDEO).expect("base64")),
    ])
    .await;
    let worker = Worker::beside_shared(&[("ALLOW_PRIVATE_URLS", "127.0.0.1")]).await;
    for image in [STANDARD.encode(wav()), format!("{url}/a.wav")] {
        let images = json!([{"name": "a.wav", "image": image}]);
        let answer = worker
            .run(json!({"workflow": audio("a.wav"), "images": images}))
            .await
            .completed();
        let files = &answer.body["output"]["files"];
        assert!(
            files[0]["filename"].as_str().is_some_and(|name| name.contains(".flac")),
            "{files:#}"
        );
    }
    for image in [
        VIDEO.to_owned(),
        format!("data:video/mp4;base64,{VIDEO}"),
        format!("{url}/a.mp4"),
    ] {
        let images = json!([{"name": "a.mp4", "image": image}]);
        let answer = worker
            .run(json!({"workflow": video("a.mp4"), "images": images}))
            .await
            .completed();
        assert_eq!(answer.images().len(), 4, "{:#}", answer.body);
    }
    // A template loads pictures.
    for (image, words) in [
        (
            STANDARD.encode(wav()),
            "is an audio file (audio/x-wav) and no picture; send PNG",
        ),
        (VIDEO.to_owned(), "is a video (video/mp4) and no picture"),
        (
            format!("{url}/a.mp4"),
            "(200 OK, application/octet-stream) is a video (video/mp4) and no picture",
        ),
    ] {
        let input = json!({"prompt": "make it blue", "template": "qwen-image-edit-2511", "images": [image]});
        let answer = worker.run(input).await;
        assert_eq!(answer.status, 400, "{:#}", answer.body);
        assert!(answer.error().contains(words), "{}", answer.error());
        let body = json!({"prompt": "make it blue", "image": image});
        let answer = worker.send(Method::POST, "/v1/images/edits", body.to_string()).await;
        assert_eq!(answer.status, 400, "{:#}", answer.body);
        assert!(
            text(&answer.body["error"], "message").contains(words),
            "{:#}",
            answer.body
        );
    }
    // What is nothing that anybody knows, and what a loader finds nothing of its own in.
    let images = json!([{"name": "a.wav", "image": STANDARD.encode(b"hello world, hello world")}]);
    let answer = worker.run(json!({"workflow": audio("a.wav"), "images": images})).await;
    assert_eq!(answer.status, 400, "{:#}", answer.body);
    assert!(
        answer.error().contains("A graph takes these too: audio"),
        "{}",
        answer.error()
    );
    let image = STANDARD.encode(encoded(&RgbImage::new(20, 20), ImageFormat::Png));
    let images = json!([{"name": "a.png", "image": image}]);
    let answer = worker.run(json!({"workflow": audio("a.png"), "images": images})).await;
    assert_eq!(answer.status, 400, "{:#}", answer.body);
    for words in [
        "the file `a.png` cannot be loaded: node 1 (LoadAudio)",
        "of no kind that this node reads",
    ] {
        assert!(answer.error().contains(words), "{}", answer.error());
    }
}

#[tokio::test]
async fn small_pictures_and_those_from_top_to_bottom_are_loaded() {
    let worker = shared().await;
    let colour = [240, 20, 10];
    let plain = RgbImage::from_pixel(8, 8, Rgb(colour));
    let grey = DynamicImage::from(RgbImage::from_pixel(9, 40, Rgb([90; 3]))).to_luma8();
    let mut small_grey = std::io::Cursor::new(Vec::new());
    grey.write_to(&mut small_grey, ImageFormat::Png).expect("an encoder");
    let pictures = [
        ("bmp", encoded(&plain, ImageFormat::Bmp), (8, 8), colour),
        ("down", top_down_bmp(8), (8, 8), colour),
        ("large-down", top_down_bmp(48), (48, 48), colour),
        ("gif", encoded(&plain, ImageFormat::Gif), (8, 8), colour),
        ("webp", encoded(&plain, ImageFormat::WebP), (8, 8), colour),
        ("grey", small_grey.into_inner(), (9, 40), [90; 3]),
        ("png", encoded(&plain, ImageFormat::Png), (8, 8), colour),
    ];
    let sent: Vec<_> = pictures
        .iter()
        .map(|(name, content, ..)| (*name, STANDARD.encode(content)))
        .collect();
    for ((name, _, size, colour), (width, height, found)) in pictures.iter().zip(seen(&worker, &sent).await) {
        assert_eq!((width, height), *size, "{name}");
        assert_close(found, *colour, name);
    }
}

#[tokio::test]
async fn forty_images_that_never_come_do_not_hold_up_another_server_s() {
    // It takes connections and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let never = format!("http://{}/a.png", silent.local_addr().expect("an address"));
    let pixel = encoded(&RgbImage::new(1, 1), ImageFormat::Png);
    let url = serve(vec![("pixel.png", pixel)]).await;
    let vars = [("ALLOW_PRIVATE_URLS", "127.0.0.1"), ("IMAGE_TIMEOUT_S", "600")];
    let worker = Worker::beside_shared(&vars).await;
    let body = |image: &str| json!({"workflow": load(&["a"]), "images": [{"name": "a", "image": image}]});
    for _ in 0..40 {
        let answer = worker
            .send(Method::POST, "/run", json!({"input": body(&never)}).to_string())
            .await;
        assert_eq!(answer.status, 200, "{:#}", answer.body);
    }
    let waiting = async || worker.ask("/health").await.body["jobs"]["inQueue"].as_u64();
    worker.run(body(&format!("{url}/pixel.png"))).await.completed();
    assert_eq!(waiting().await, Some(40));
    worker.send(Method::POST, "/purge-queue", "").await;
    until("they are cancelled", async || waiting().await == Some(0)).await;
    worker.run(body(&format!("{url}/pixel.png"))).await.completed();
}
