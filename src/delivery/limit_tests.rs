//! Answers that may have so many bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::size_limit::measure;
use super::tests::{Bench, asked, base64_within, coding, noise};
use super::*;
use crate::delivery::encode::Picture;
use crate::job::OutputText;

#[tokio::test]
async fn an_answer_that_fits_holds_the_files_as_they_are() {
    let bench = Bench::new();
    let content = noise(32, 2);
    let files = vec![bench.file("a.png", &content)];
    let outcome = bench.deliver(files, &base64_within(100_000)).await.unwrap();
    assert_eq!((outcome.inline, outcome.warnings.len()), (true, 0));
    let filled = bench.results.filled(Arc::new(outcome)).await.unwrap();
    let text = filled.files[0].base64.as_ref().unwrap();
    assert!(STANDARD.decode(text).unwrap() == content);
    assert_eq!(bench.names(), ["a.png"]);
}

#[tokio::test]
async fn the_length_of_an_answer_is_never_underestimated() {
    for (files, texts) in [(0, 0), (1, 1), (40, 3)] {
        let bench = Bench::new();
        let mut outcome = Outcome {
            inline: true,
            warnings: vec!["a \"quoted\" warning\n".repeat(20); 3],
            ..Outcome::default()
        };
        for number in 0..files {
            let name = format!(
                "{}_{number}.{}",
                "ü".repeat(number),
                if number % 3 == 0 { "mp4" } else { "png" }
            );
            outcome.files.push(bench.file(&name, &vec![7; number * 10]));
        }
        let text = OutputText {
            node_id: "11".to_owned(),
            text: "\"\\\u{1}text".repeat(500),
        };
        outcome.texts = vec![text; texts];
        let size = measure(&bench.results.files, &outcome).await.unwrap();
        let sent = bench.sent(&outcome).await;
        let slack = 2_048 + 400 * u64::try_from(files).unwrap();
        assert!(
            (sent..=sent + slack).contains(&size.total()),
            "{sent} were sent, {} were expected",
            size.total()
        );
    }
}

#[tokio::test]
async fn images_are_made_smaller_until_the_answer_fits() {
    let bench = Bench::new();
    let files = || vec![bench.file("a.png", &noise(256, 3)), bench.file("b.png", &noise(64, 4))];
    let whole = bench.deliver(files(), &asked(ReturnImagesAs::Base64)).await.unwrap();
    let mut length = bench.sent(&whole).await;
    let mut qualities = Vec::new();
    for _ in 0..3 {
        let limit = length * 9 / 10;
        let outcome = bench.deliver(files(), &base64_within(limit)).await.unwrap();
        length = bench.sent(&outcome).await;
        assert!(length <= limit);
        let [first, second] = [0, 1].map(|at| outcome.files[at].recoded.clone().unwrap());
        assert_eq!(first.quality, second.quality);
        assert_eq!((first.format, first.original.as_str()), (ImageFormat::Webp, "a.png"));
        let filename = &outcome.files[0].filename;
        assert_eq!(coding(bench.path(filename)), image::ImageFormat::WebP);
        let warning = &outcome.warnings[0];
        for word in [
            "webp",
            &format!("quality {}", first.quality),
            "RESULT_MAX_BYTES",
            "BUCKET_ENDPOINT_URL",
        ] {
            assert!(warning.contains(word), "{word}: {warning}");
        }
        qualities.push(first.quality);
    }
    assert!(qualities.is_sorted_by(|more, less| more > less), "{qualities:?}");
}

#[tokio::test]
async fn what_was_asked_for_as_jpeg_stays_jpeg_and_only_gets_worse() {
    let bench = Bench::new();
    let wish = |max_bytes| Delivery {
        output_format: Some(ImageFormat::Jpeg),
        quality: Some(75),
        max_bytes,
        ..asked(ReturnImagesAs::Base64)
    };
    let files = || vec![bench.file("a.png", &noise(128, 5))];
    let whole = bench.deliver(files(), &wish(None)).await.unwrap();
    let whole = bench.sent(&whole).await;
    let outcome = bench
        .deliver(files(), &wish(Some(whole * 9 / 10 + 2_000)))
        .await
        .unwrap();
    let recoded = outcome.files[0].recoded.as_ref().unwrap();
    assert_eq!(recoded.format, ImageFormat::Jpeg);
    assert!(recoded.quality < 75, "{recoded:?}");
    // The first call's file, this one's, and not the one in between.
    assert_eq!(bench.names(), ["a.jpg", "a.png", &outcome.files[0].filename]);
}

#[tokio::test]
async fn what_cannot_fit_fails_with_the_sizes_and_what_to_do() {
    let bench = Bench::new();
    let video = bench.file("v.mp4", &vec![0; 90_000]);
    let error = bench.deliver(vec![video], &base64_within(50_000)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Undeliverable);
    let text = error.full_text();
    for word in [
        "123 kB",
        "BUCKET_ENDPOINT_URL",
        "s3Config",
        "batch_size",
        "return_images_as",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let image = bench.file("a.png", &noise(128, 6));
    let error = bench.deliver(vec![image], &base64_within(10_000)).await.unwrap_err();
    assert!(error.message.contains("made smaller"), "{}", error.message);
    assert_eq!(bench.names(), ["a.png", "v.mp4"], "nothing was written for nobody");
}

#[tokio::test]
async fn a_result_that_was_refused_is_made_smaller_and_nothing_is_written() {
    let bench = Bench::new();
    let files = vec![bench.file("a.png", &noise(128, 8)), bench.file("b.txt", b"words")];
    let outcome = bench.deliver(files, &asked(ReturnImagesAs::Base64)).await.unwrap();
    let whole = bench.sent(&outcome).await;
    let smaller = bench
        .results
        .shrink(bench.id.as_str(), Arc::new(outcome.clone()), whole / 2)
        .await;
    let smaller = smaller.unwrap();
    assert!(bench.sent(&smaller).await <= whole / 2);
    assert_eq!(smaller.files[0].filename, "a.webp");
    let content = STANDARD.decode(smaller.files[0].base64.as_ref().unwrap()).unwrap();
    assert_eq!(Picture::decode(&content).unwrap().size(), (128, 128));
    assert!(smaller.files[1].base64.is_some());
    assert_eq!(smaller.warnings.len(), 1);
    assert_eq!(bench.names(), ["a.png", "b.txt"]);
    // Refused once more.
    let limit = bench.sent(&smaller).await * 3 / 4;
    let again = bench.results.shrink(bench.id.as_str(), smaller, limit).await.unwrap();
    assert!(bench.sent(&again).await <= limit);
    assert!(bench.names() == ["a.png", "b.txt"] && again.warnings.len() == 2);
    let error = bench.results.shrink(bench.id.as_str(), again, 5_000).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Undeliverable);
}

/// The data URI of a picture whose address is all that is read takes as much again.
#[tokio::test]
async fn an_answer_that_holds_a_picture_twice_fits_too() {
    let bench = Bench::new();
    let picture = noise(128, 7);
    let files = || vec![bench.file("a.png", &picture)];
    let limit = 4 * picture.len() as u64;
    let asked = |picture_url| Delivery {
        picture_url,
        ..base64_within(limit)
    };
    let outcome = bench.deliver(files(), &asked(false)).await.unwrap();
    assert!(bench.sent(&outcome).await <= limit);
    assert_eq!(outcome.warnings, [""; 0]);
    let outcome = bench.deliver(files(), &asked(true)).await.unwrap();
    let sent = bench.sent(&outcome).await;
    assert!(sent <= limit, "{sent} of {limit}");
    let limit = 2 * picture.len() as u64;
    let asked = Delivery {
        picture_url: true,
        ..base64_within(limit)
    };
    let outcome = bench.deliver(files(), &asked).await.unwrap();
    let sent = bench.sent(&outcome).await;
    assert!(sent <= limit && outcome.warnings.len() == 1, "{sent} of {limit}");
}
