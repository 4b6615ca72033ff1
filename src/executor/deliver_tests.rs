//! The stage on real files, with a ComfyUI that is never started. Answers are measured as they are sent.

use std::path::PathBuf;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, ImageBuffer, Rgb};
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::comfy::Boot;
use crate::delivery::encode::Picture;
use crate::dialect::runpod;
use crate::executor::testing::executor;
use crate::job::JobId;
use crate::job::progress::Progress;
use crate::job::{FileKind, JobState, JobView, OutputFolder, OutputText};

/// An executor whose ComfyUI has these folders.
struct Bench {
    executor: Arc<Executor>,
    id: JobId,
    data: TempDir,
    _boot: watch::Sender<Boot>,
}

impl Bench {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let (executor, boot) = executor(data.path());
        for folder in ["output/sub", "temp"] {
            std::fs::create_dir_all(data.path().join(folder)).unwrap();
        }
        Self {
            executor,
            id: JobId::new(),
            data,
            _boot: boot,
        }
    }

    /// A file of a graph, in `sub` of the output folder.
    fn file(&self, filename: &str, content: &[u8]) -> OutputFile {
        std::fs::write(self.path(filename), content).unwrap();
        OutputFile {
            node_id: "9".to_owned(),
            kind: FileKind::of(filename),
            filename: filename.to_owned(),
            subfolder: "sub".to_owned(),
            folder: OutputFolder::Output,
            url: None,
            recoded: None,
            base64: None,
        }
    }

    fn path(&self, filename: &str) -> PathBuf {
        self.data.path().join("output/sub").join(filename)
    }

    /// Every file in `sub`.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    async fn deliver(&self, files: Vec<OutputFile>, asked: &Delivery) -> Result<Outcome, JobError> {
        let outcome = Outcome {
            files,
            ..Outcome::default()
        };
        let plan = self.executor.settings.delivery.plan(asked)?;
        self.executor.deliver(self.id.as_str(), outcome, plan, None).await
    }

    /// The length of the answer.
    async fn sent(&self, outcome: &Outcome) -> u64 {
        let outcome = self.executor.inlined(Arc::new(outcome.clone())).await.unwrap();
        let view = JobView {
            id: self.id.clone(),
            policy: Arc::default(),
            state: JobState::Completed,
            progress: Progress::default(),
            position: None,
            created: SystemTime::UNIX_EPOCH,
            delay: Duration::from_secs(1),
            execution: Duration::from_secs(1),
            result: Some(Ok(outcome)),
        };
        runpod::status(&view, None).length() as u64
    }
}

/// Noise, which no format makes small.
fn noise(side: u32, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let pixels = ImageBuffer::from_fn(side, side, |_, _| {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        Rgb([next(), next(), next()])
    });
    let mut png = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(pixels)
        .write_to(&mut png, image::ImageFormat::Png)
        .unwrap();
    png.into_inner()
}

fn asked(form: ReturnImagesAs) -> Delivery {
    Delivery {
        return_images_as: Some(form),
        ..Delivery::default()
    }
}

fn base64_within(max_bytes: u64) -> Delivery {
    Delivery {
        max_bytes: Some(max_bytes),
        ..asked(ReturnImagesAs::Base64)
    }
}

fn coding(path: PathBuf) -> image::ImageFormat {
    image::guess_format(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn images_are_made_into_the_format_beside_their_originals() {
    let bench = Bench::new();
    let preview = OutputFile {
        folder: OutputFolder::Temp,
        ..bench.file("preview.png", b"not looked at")
    };
    let files = vec![
        bench.file("a_00001_.png", &noise(32, 1)),
        bench.file("b.webp", b"not looked at"),
        bench.file("c.png", b"rubbish"),
        bench.file("d.mp4", b"a video"),
        preview,
    ];
    let wish = Delivery {
        output_format: Some(ImageFormat::Webp),
        quality: Some(70),
        ..asked(ReturnImagesAs::Metadata)
    };
    let outcome = bench.deliver(files, &wish).await.unwrap();
    let names: Vec<_> = outcome.files.iter().map(|file| file.filename.as_str()).collect();
    assert_eq!(names, ["a_00001_.webp", "b.webp", "c.png", "d.mp4", "preview.png"]);
    let recoded = Recoded {
        original: "a_00001_.png".to_owned(),
        format: ImageFormat::Webp,
        quality: 70,
    };
    assert_eq!(outcome.files[0].recoded, Some(recoded));
    assert_eq!(coding(bench.path("a_00001_.webp")), image::ImageFormat::WebP);
    assert_eq!(
        coding(bench.path("a_00001_.png")),
        image::ImageFormat::Png,
        "the graph's own stays"
    );
    assert_eq!(outcome.warnings.len(), 1, "{:?}", outcome.warnings);
    assert!(
        outcome.warnings[0].contains("`c.png` stays as it is"),
        "{:?}",
        outcome.warnings
    );
    assert!(!outcome.inline);
}

#[tokio::test]
async fn an_answer_that_fits_holds_the_files_as_they_are() {
    let bench = Bench::new();
    let content = noise(32, 2);
    let files = vec![bench.file("a.png", &content)];
    let outcome = bench.deliver(files, &base64_within(100_000)).await.unwrap();
    assert_eq!((outcome.inline, outcome.warnings.len()), (true, 0));
    let filled = bench.executor.inlined(Arc::new(outcome)).await.unwrap();
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
        let size = fit::measure(bench.executor.contents(), &outcome).await.unwrap();
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
async fn without_a_bucket_an_s3_url_becomes_base64() {
    let bench = Bench::new();
    let files = vec![bench.file("a.png", &noise(32, 7))];
    let outcome = bench.deliver(files, &asked(ReturnImagesAs::S3Url)).await.unwrap();
    assert!(outcome.inline);
    assert!(
        outcome.warnings[0].contains("BUCKET_ENDPOINT_URL"),
        "{:?}",
        outcome.warnings
    );
    let video = bench.file("v.mp4", &vec![0; 90_000]);
    let limited = Delivery {
        max_bytes: Some(50_000),
        ..asked(ReturnImagesAs::S3Url)
    };
    let error = bench.deliver(vec![video], &limited).await.unwrap_err();
    assert!(
        error.message.contains("too large") && error.message.contains("no bucket"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn a_result_that_was_refused_is_made_smaller_and_nothing_is_written() {
    let bench = Bench::new();
    let files = vec![bench.file("a.png", &noise(128, 8)), bench.file("b.txt", b"words")];
    let outcome = bench.deliver(files, &asked(ReturnImagesAs::Base64)).await.unwrap();
    let whole = bench.sent(&outcome).await;
    let smaller = bench
        .executor
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
    let again = bench.executor.shrink(bench.id.as_str(), smaller, limit).await.unwrap();
    assert!(bench.sent(&again).await <= limit);
    assert!(bench.names() == ["a.png", "b.txt"] && again.warnings.len() == 2);
    let error = bench
        .executor
        .shrink(bench.id.as_str(), again, 5_000)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Undeliverable);
}

#[tokio::test]
async fn a_quality_without_a_format_is_a_warning() {
    let bench = Bench::new();
    for (format, warnings) in [(None, 1), (Some(ImageFormat::Png), 1), (Some(ImageFormat::Webp), 0)] {
        let asked = Delivery {
            quality: Some(50),
            output_format: format,
            ..Delivery::default()
        };
        let outcome = bench.deliver(Vec::new(), &asked).await.unwrap();
        assert_eq!(outcome.warnings.len(), warnings, "{format:?}");
    }
}

#[test]
fn a_bucket_of_the_requests_is_used_unless_another_form_is_asked_for() {
    let settings = Bench::new().executor.settings.delivery.clone();
    let bucket = crate::config::BucketAccess {
        endpoint: "https://s3.example.com".parse().unwrap(),
        access_key_id: "id".to_owned(),
        secret_access_key: crate::config::Secret::new("key".to_owned()),
        name: Some("results".to_owned()),
        region: None,
    };
    for (form, expected) in [
        (None, ReturnImagesAs::S3Url),
        (Some(ReturnImagesAs::Auto), ReturnImagesAs::S3Url),
        (Some(ReturnImagesAs::Base64), ReturnImagesAs::Base64),
        (Some(ReturnImagesAs::Metadata), ReturnImagesAs::Metadata),
    ] {
        let asked = Delivery {
            return_images_as: form,
            bucket: Some(bucket.clone()),
            ..Delivery::default()
        };
        let plan = settings.plan(&asked).unwrap();
        assert_eq!((plan.form, plan.bucket.is_some()), (expected, true), "{form:?}");
    }
    let plan = settings.plan(&Delivery::default()).unwrap();
    assert_eq!((plan.form, plan.bucket.is_some()), (ReturnImagesAs::Metadata, false));
}

/// Who is told the addresses of pictures too needs no more than those.
#[tokio::test]
async fn a_picture_that_cannot_be_read_is_left_to_its_address() {
    let bench = Bench::new();
    let files = vec![
        bench.file("a.png", b"ABC"),
        bench.file("gone.png", b"ABC"),
        bench.file("d.mp4", b"a video"),
    ];
    let outcome = bench.deliver(files, &asked(ReturnImagesAs::Metadata)).await.unwrap();
    std::fs::remove_file(bench.path("gone.png")).unwrap();
    let filled = bench.executor.with_pictures(Arc::new(outcome)).await;
    let texts: Vec<_> = filled.files.iter().map(|file| file.base64.as_deref()).collect();
    assert_eq!(texts, [Some(&b"QUJD"[..]), None, None]);
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

#[tokio::test]
async fn what_is_written_for_an_answer_is_taken_down_also_when_the_answer_cannot_be_made() {
    let bench = Bench::new();
    let (events, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let ledger = Ledger::new(events, bench.executor.comfy.folders(), None);
    let outcome = Outcome {
        files: vec![
            bench.file("a_00001_.png", &noise(64, 1)),
            bench.file("long.txt", &[b'x'; 50_000]),
        ],
        ..Outcome::default()
    };
    let wish = Delivery {
        output_format: Some(ImageFormat::Webp),
        ..base64_within(20_000)
    };
    let plan = bench.executor.settings.delivery.plan(&wish).unwrap();
    let delivered = bench
        .executor
        .deliver(bench.id.as_str(), outcome, plan, Some(&ledger))
        .await;
    assert_eq!(delivered.unwrap_err().kind, ErrorKind::Undeliverable);
    drop(ledger);
    let mut told = Vec::new();
    while let Some(crate::executor::Event::Left(files)) = heard.recv().await {
        told.extend(
            files
                .into_iter()
                .map(|file| (file.subfolder, file.filename, file.claim)),
        );
    }
    let made = (
        "sub".to_owned(),
        "a_00001_.webp".to_owned(),
        crate::executor::Claim::Made,
    );
    assert_eq!(told, [made]);
}
