//! Images from servers on real sockets that do what servers do.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::config::{PrivateUrls, ReturnImagesAs};
use crate::job::{Delivery, ImageName, TemplateRequest, Work};
use crate::net::guard::AddressGuard;
use crate::net::testing::serve;

const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const MAX_BYTES: usize = 1_000;

fn pixel() -> Bytes {
    STANDARD.decode(PIXEL).unwrap().into()
}

/// A PNG with so many bytes after its end.
fn padded(bytes: usize) -> Vec<u8> {
    let mut content = pixel().to_vec();
    content.resize(bytes, 0);
    content
}

/// Begins well, and says nothing more.
fn stuck() -> Response {
    let begin = futures_util::stream::iter([Ok::<_, Infallible>(pixel().slice(..20))]);
    Response::new(Body::from_stream(begin.chain(futures_util::stream::pending())))
}

/// A PNG that says it is two pixels wide.
fn wide() -> Vec<u8> {
    let mut content = pixel().to_vec();
    content[16..20].copy_from_slice(&2_u32.to_be_bytes());
    content
}

fn endless() -> Response {
    let pieces = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[7; 64])));
    Response::new(Body::from_stream(pieces))
}

fn huge() -> Vec<u8> {
    let mut content = pixel().to_vec();
    content[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
    content[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
    content
}

/// Fails as often as a passing trouble may last, and then works.
async fn recovering(State(asked): State<Arc<AtomicUsize>>) -> Response {
    if asked.fetch_add(1, Ordering::Relaxed) < 2 {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    pixel().into_response()
}

/// Fails once, and then says nothing.
async fn tired(State(asked): State<Arc<AtomicUsize>>) -> StatusCode {
    if asked.fetch_add(1, Ordering::Relaxed) > 0 {
        std::future::pending::<()>().await;
    }
    StatusCode::SERVICE_UNAVAILABLE
}

/// The address of a server of good and bad images, and how often `/recovering` was asked for.
async fn server() -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let router = Router::new()
        .route("/pixel.png", get(|| async { pixel() }))
        .route(
            "/moved",
            get(|| async { Redirect::temporary("/pixel.png?signature=4711") }),
        )
        .route(
            "/inside",
            get(|| async { Redirect::temporary("http://169.254.169.254/latest/meta-data") }),
        )
        .route(
            "/page",
            get(|| async { "<!DOCTYPE html><html><body>Log in</body></html>" }),
        )
        .route(
            "/drawing.svg",
            get(|| async { "<svg xmlns='http://www.w3.org/2000/svg'/>" }),
        )
        .route("/wide.png", get(|| async { wide() }))
        .route("/huge.png", get(|| async { huge() }))
        .route("/large.png", get(|| async { padded(MAX_BYTES + 1) }))
        .route("/just.png", get(|| async { padded(MAX_BYTES) }))
        .route("/empty", get(|| async { "" }))
        .route("/endless", get(|| async { endless() }))
        .route("/never", get(|| async { std::future::pending::<()>().await }))
        .route("/stuck", get(|| async { stuck() }))
        .route("/sound.wav", get(|| async { &b"RIFF\x24\0\0\0WAVEfmt "[..] }))
        .route("/half.png", get(|| async { pixel().slice(..40) }))
        .route("/tired", get(tired))
        .route("/forbidden", get(|| async { StatusCode::FORBIDDEN }))
        .route("/recovering", get(recovering))
        .with_state(Arc::clone(&asked));
    (serve(router).await, asked)
}

fn fetcher(allowed: &str, timeout: Duration) -> Fetcher {
    fetcher_with_silence(allowed, timeout, longest_silence(timeout))
}

fn fetcher_with_silence(allowed: &str, timeout: Duration, silence: Duration) -> Fetcher {
    let delivery = DeliverySettings {
        form: ReturnImagesAs::Metadata,
        output_format: None,
        quality: 90,
        max_bytes: None,
        bucket: None,
        guard: AddressGuard::new(PrivateUrls::parse(allowed).unwrap()),
    };
    let images = ImagesConfig {
        max_bytes: MAX_BYTES,
        timeout,
        buckets: Vec::new(),
    };
    Fetcher::with_silence(&images, &delivery, silence).unwrap()
}

fn request<'a>(images: impl IntoIterator<Item = &'a str>) -> JobRequest {
    let images = (1..).zip(images).map(|(number, text)| {
        let name = ImageName::parse(&format!("image_{number}")).unwrap();
        InputImage::from_text(name, text).unwrap()
    });
    JobRequest {
        work: Work::Template(TemplateRequest::default()),
        images: images.collect(),
        delivery: Delivery::default(),
        org_api_key: None,
        extra_data: serde_json::Map::new(),
        warnings: Vec::new(),
    }
}

async fn fetched(fetcher: &Fetcher, url: &str) -> Result<Bytes, JobError> {
    let mut request = request([url]);
    fetcher.fetch_all(&mut request).await?;
    match request.images.remove(0).content {
        ImageContent::Here(content) => Ok(content),
        at => panic!("not fetched: {at:?}"),
    }
}

#[tokio::test]
async fn an_image_comes_from_where_it_is() {
    let (url, asked) = server().await;
    let fetcher = fetcher("127.0.0.1", Duration::from_mins(1));
    for path in ["/pixel.png?signature=4711", "/moved", "/recovering"] {
        assert_eq!(
            fetched(&fetcher, &format!("{url}{path}")).await.unwrap(),
            pixel(),
            "{path}"
        );
    }
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    assert_eq!(
        fetched(&fetcher, &format!("{url}/just.png")).await.unwrap().len(),
        MAX_BYTES
    );
}

#[tokio::test]
async fn several_come_in_their_order_beside_those_that_are_here() {
    let (url, _) = server().await;
    let (just, pixel_at) = (format!("{url}/just.png"), format!("{url}/pixel.png"));
    let mut request = request([&just, PIXEL, &pixel_at, &pixel_at, &pixel_at, &pixel_at, &just]);
    fetcher("127.0.0.1", Duration::from_mins(1))
        .fetch_all(&mut request)
        .await
        .unwrap();
    let sizes: Vec<usize> = request
        .images
        .iter()
        .map(|image| match &image.content {
            ImageContent::Here(content) => content.len(),
            _ => 0,
        })
        .collect();
    let pixel = pixel().len();
    assert_eq!(sizes, [MAX_BYTES, pixel, pixel, pixel, pixel, pixel, MAX_BYTES]);
    assert_eq!(request.images[6].name.as_str(), "image_7");
}

#[tokio::test]
async fn what_cannot_be_used_is_told_with_its_reason() {
    let (url, _) = server().await;
    let fetcher = fetcher("127.0.0.1", Duration::from_secs(20));
    for (path, kind, words) in [
        (
            "/page",
            ErrorKind::InvalidRequest,
            " (200 OK, text/plain; charset=utf-8) is no image but an HTML page",
        ),
        ("/half.png", ErrorKind::InvalidRequest, "is cut off"),
        (
            "/sound.wav",
            ErrorKind::InvalidRequest,
            "is an audio file (audio/x-wav) and no picture",
        ),
        ("/drawing.svg", ErrorKind::InvalidRequest, "is an SVG"),
        ("/huge.png", ErrorKind::InvalidRequest, "has 30000 x 30000 pixels"),
        ("/empty", ErrorKind::InvalidRequest, "is empty"),
        ("/large.png", ErrorKind::TooLarge, "it has more than 1000 bytes"),
        ("/endless", ErrorKind::TooLarge, "it has more than 1000 bytes"),
        (
            "/forbidden",
            ErrorKind::InvalidRequest,
            "its server answered 403 Forbidden",
        ),
        (
            "/nowhere",
            ErrorKind::InvalidRequest,
            "its server answered 404 Not Found",
        ),
        ("/inside", ErrorKind::InvalidRequest, "169.254.169.254 is refused"),
    ] {
        let error = fetched(&fetcher, &format!("{url}{path}?signature=4711"))
            .await
            .unwrap_err();
        let text = error.full_text();
        assert_eq!((error.kind, error.field.as_deref()), (kind, Some("image_1")), "{text}");
        assert!(text.contains(words), "{path}: {text}");
        assert!(text.starts_with("the image `image_1` "), "{text}");
        assert!(
            text.contains(&format!("{url}{path}")) && !text.contains("4711"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_private_address_a_dead_one_and_a_slow_one() {
    let (url, _) = server().await;
    let error = fetched(&fetcher("false", Duration::from_mins(1)), &format!("{url}/pixel.png"))
        .await
        .unwrap_err();
    assert!(error.message.contains("127.0.0.1 is refused"), "{}", error.message);

    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("http://{}/a.png?signature=4711", free.local_addr().unwrap());
    drop(free);
    let error = fetched(&fetcher("127.0.0.1", Duration::from_mins(1)), &dead)
        .await
        .unwrap_err();
    assert!(error.message.contains("refused"), "{}", error.message);
    assert!(!error.full_text().contains("4711"), "{}", error.full_text());

    let error = fetched(
        &fetcher("127.0.0.1", Duration::from_millis(200)),
        &format!("{url}/never"),
    )
    .await
    .unwrap_err();
    assert!(
        error.full_text().contains("not complete after 200ms") && error.full_text().contains("answer sooner"),
        "{}",
        error.full_text()
    );
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_early_and_not_asked_again() {
    let (url, asked) = server().await;
    let fetcher = fetcher_with_silence("127.0.0.1", Duration::from_mins(10), Duration::from_millis(200));
    for (path, words) in [
        ("/never", "its server said nothing for 200ms. Let"),
        (
            "/stuck",
            "its server said nothing for 200ms in the midst of its answer. Let",
        ),
        // Its first answer is one that passes.
        ("/tired", "its server said nothing for 200ms. Let"),
    ] {
        let text = fetched(&fetcher, &format!("{url}{path}"))
            .await
            .unwrap_err()
            .full_text();
        assert!(text.contains(words) && text.contains("answer sooner"), "{text}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let seconds = |timeout| longest_silence(Duration::from_secs(timeout)).as_secs();
    assert_eq!([4, 10, 20, 60, 600].map(seconds), [10, 10, 10, 20, 200]);
}

#[tokio::test]
async fn a_graph_takes_audio_and_a_template_does_not() {
    let (url, _) = server().await;
    let fetcher = fetcher("127.0.0.1", Duration::from_mins(1));
    let mut request = request([&*format!("{url}/sound.wav")]);
    fetcher.fetch_all(&mut request.clone()).await.unwrap_err();
    let graph = serde_json::json!({"1": {"class_type": "LoadAudio", "inputs": {"audio": "image_1"}}});
    request.work = Work::Workflow(crate::workflow::Graph::parse(&graph).unwrap());
    fetcher.fetch_all(&mut request).await.unwrap();
    assert!(request.images[0].url().is_none());
}

#[tokio::test]
async fn a_file_is_called_after_the_place_where_it_stood() {
    let (url, _) = server().await;
    let fetcher = fetcher("127.0.0.1", Duration::from_mins(1));
    let place = crate::workflow::FileInput {
        node: "5".to_owned(),
        class: "LoadAudio".to_owned(),
        input: "audio".to_owned(),
    };
    let of_graph = Origin::Graph(Box::new(place));
    for (origin, path, begin, field) in [
        (
            &Origin::Files,
            "/nowhere",
            "the file `image_1` cannot be fetched from http",
            "image_1",
        ),
        (
            &of_graph,
            "/nowhere",
            "the file in `audio` of node 5 (LoadAudio) cannot be fetched from http",
            "workflow",
        ),
        (
            &of_graph,
            "/page",
            "the file in `audio` of node 5 (LoadAudio) from http",
            "workflow",
        ),
        (
            &of_graph,
            "/large.png",
            "the file in `audio` of node 5 (LoadAudio) cannot",
            "workflow",
        ),
    ] {
        let mut image = request([&*format!("{url}{path}")]).images.remove(0);
        image.origin = origin.clone();
        let told = fetcher.fetch_images(vec![image], None, Takes::Media).await;
        let error = told.unwrap_err();
        assert!(error.message.starts_with(begin), "{error}");
        assert_eq!(error.field.as_deref(), Some(field));
    }
}

#[tokio::test]
async fn what_went_wrong_before_the_time_was_over_is_told() {
    let (url, _) = server().await;
    let error = fetched(&fetcher("127.0.0.1", Duration::from_secs(1)), &format!("{url}/tired"))
        .await
        .unwrap_err();
    assert!(
        error.message.ends_with(
            "not complete after 1s; an attempt before that failed: its server answered 503 Service Unavailable"
        ),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn the_images_of_a_job_have_a_limit_together() {
    let (url, _) = server().await;
    let fetcher = fetcher("127.0.0.1", Duration::from_mins(1));
    let just = format!("{url}/just.png");
    fetcher.fetch_all(&mut request([just.as_str(); 4])).await.unwrap();
    let error = fetcher.fetch_all(&mut request([just.as_str(); 5])).await.unwrap_err();
    assert_eq!(
        (error.kind, error.field.as_deref()),
        (ErrorKind::TooLarge, Some("image_5"))
    );
    assert!(
        error.message.contains("more than 4000 bytes together"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn a_mask_is_looked_at_once_it_and_its_image_are_here() {
    let (url, _) = server().await;
    let fetcher = fetcher("127.0.0.1", Duration::from_mins(1));
    let (pixel_at, wide_at) = (format!("{url}/pixel.png"), format!("{url}/wide.png"));
    let wide_here = STANDARD.encode(wide());
    for (image, mask, fits) in [
        (&*wide_at, &*wide_at, true),
        (&wide_here, &wide_at, true),
        (&wide_at, PIXEL, false),
        (PIXEL, &wide_at, false),
        (&wide_at, &pixel_at, false),
    ] {
        let mut request = request([image, mask]);
        request.work = Work::Template(TemplateRequest {
            mask: Some("image_2".to_owned()),
            ..TemplateRequest::default()
        });
        let told = fetcher.fetch_all(&mut request).await;
        let expected = "pixels, and its image has";
        match told {
            Ok(()) => assert!(fits, "{image} {mask}"),
            Err(error) => {
                assert_eq!((fits, error.field.as_deref()), (false, Some("image_2")), "{error}");
                assert!(error.message.contains(expected), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_bucket_without_keys_is_told() {
    let error = fetched(&fetcher("false", Duration::from_mins(1)), "s3://pictures/a b.png")
        .await
        .unwrap_err();
    insta::assert_snapshot!(error.full_text(), @"the image `image_1` cannot be fetched from s3://pictures/a%20b.png: the worker has no bucket, so no keys to read it with. Send s3Config beside input, or an https address, or set BUCKET_ENDPOINT_URL and its keys.");
}
