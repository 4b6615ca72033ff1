//! Results on real files, of a ComfyUI that is never started. Answers are measured as they are sent.

use std::path::PathBuf;
use std::time::SystemTime;

use image::{DynamicImage, ImageBuffer, Rgb};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::comfy::{Boot, Comfy, Folders};
use crate::config::PrivateUrls;
use crate::dialect::runpod;
use crate::job::progress::Progress;
use crate::job::{JobId, JobState, OutputFolder, Recoded};

/// Results of a ComfyUI that has these folders.
pub(super) struct Bench {
    pub(super) results: Arc<Results>,
    pub(super) id: JobId,
    data: TempDir,
}

impl Bench {
    pub(super) fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders {
            output: data.path().join("output"),
            input: data.path().join("input"),
            temp: data.path().join("temp"),
            are_ours: true,
            ..Folders::default()
        };
        let settings = DeliverySettings {
            form: ReturnImagesAs::Metadata,
            output_format: None,
            quality: 90,
            max_bytes: None,
            bucket: None,
            guard: AddressGuard::new(PrivateUrls::All),
        };
        for folder in ["output/sub", "temp"] {
            std::fs::create_dir_all(data.path().join(folder)).unwrap();
        }
        let comfy = Comfy::supervised(watch::channel(Boot::Preparing).1, folders);
        Self {
            results: Results::new(comfy, settings, None),
            id: JobId::new(),
            data,
        }
    }

    /// A file of a graph, in `sub` of the output folder.
    pub(super) fn file(&self, filename: &str, content: &[u8]) -> OutputFile {
        std::fs::write(self.path(filename), content).unwrap();
        OutputFile {
            node_id: "9".to_owned(),
            kind: FileKind::of(filename),
            filename: filename.to_owned(),
            subfolder: "sub".to_owned(),
            folder: OutputFolder::Output,
            url: None,
            recoded: None,
            engine: None,
            base64: None,
        }
    }

    pub(super) fn path(&self, filename: &str) -> PathBuf {
        self.data.path().join("output/sub").join(filename)
    }

    /// Every file in `sub`.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(super) async fn deliver(&self, files: Vec<OutputFile>, asked: &Delivery) -> Result<Outcome, JobError> {
        let outcome = Outcome {
            files,
            ..Outcome::default()
        };
        let plan = self.results.plan(asked)?;
        let wrote: Wrote = Arc::new(|_, _, _| {});
        self.results.deliver(self.id.as_str(), outcome, plan, &wrote).await
    }

    pub(super) fn view(&self, outcome: Arc<Outcome>) -> JobView {
        JobView {
            id: self.id.clone(),
            policy: Arc::default(),
            state: JobState::Completed,
            progress: Progress::default(),
            position: None,
            created: SystemTime::UNIX_EPOCH,
            delay: Duration::from_secs(1),
            execution: Duration::from_secs(1),
            result: Some(Ok(outcome)),
            outputs: Arc::default(),
            entry: None,
        }
    }

    /// The length of the answer.
    pub(super) async fn sent(&self, outcome: &Outcome) -> u64 {
        let outcome = self.results.filled(Arc::new(outcome.clone())).await.unwrap();
        runpod::status(&self.view(outcome), None).length() as u64
    }
}

/// Noise, which no format makes small.
pub(super) fn noise(side: u32, seed: u32) -> Vec<u8> {
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

pub(super) fn asked(form: ReturnImagesAs) -> Delivery {
    Delivery {
        return_images_as: Some(form),
        ..Delivery::default()
    }
}

pub(super) fn base64_within(max_bytes: u64) -> Delivery {
    Delivery {
        max_bytes: Some(max_bytes),
        ..asked(ReturnImagesAs::Base64)
    }
}

pub(super) fn coding(path: PathBuf) -> image::ImageFormat {
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
    let results = Bench::new().results;
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
        let plan = results.plan(&asked).unwrap();
        assert_eq!((plan.form, plan.bucket.is_some()), (expected, true), "{form:?}");
    }
    let plan = results.plan(&Delivery::default()).unwrap();
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
    let filled = bench.results.with_pictures(bench.view(Arc::new(outcome))).await;
    let filled = filled.result.unwrap().unwrap();
    let texts: Vec<_> = filled.files.iter().map(|file| file.base64.as_deref()).collect();
    assert_eq!(texts, [Some(&b"QUJD"[..]), None, None]);
}

#[tokio::test]
async fn what_is_written_for_an_answer_is_taken_down_also_when_the_answer_cannot_be_made() {
    let bench = Bench::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let wrote: Wrote = {
        let told = Arc::clone(&told);
        Arc::new(move |_, subfolder, name| told.lock().push(format!("{subfolder}/{name}")))
    };
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
    let plan = bench.results.plan(&wish).unwrap();
    let delivered = bench.results.deliver(bench.id.as_str(), outcome, plan, &wrote).await;
    assert_eq!(delivered.unwrap_err().kind, ErrorKind::Undeliverable);
    assert_eq!(*told.lock(), ["sub/a_00001_.webp"]);
}
