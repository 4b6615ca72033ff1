//! A server of pictures, good and bad, on a real socket.

use std::convert::Infallible;
use std::io::Cursor;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::{Redirect, Response};
use axum::routing::get;
use futures_util::{StreamExt as _, stream};
use image::{ImageFormat, RgbaImage};

/// A page where a picture was meant.
pub(crate) const PAGE: &str = "<!DOCTYPE html><html><body>Log in</body></html>";
/// A drawing that ComfyUI cannot draw.
pub(crate) const DRAWING: &str = "<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>";

/// A PNG of one colour, without transparency but for `alpha` below 255.
pub(crate) fn png(width: u32, height: u32, alpha: u8) -> Vec<u8> {
    let mut content = Cursor::new(Vec::new());
    let picture = RgbaImage::from_pixel(width, height, image::Rgba([200, 40, 40, alpha]));
    picture.write_to(&mut content, ImageFormat::Png).expect("an encoder");
    content.into_inner()
}

/// A PNG of one pixel whose header says 30000 x 30000.
pub(crate) fn huge() -> Vec<u8> {
    let mut content = png(1, 1, 255);
    content[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
    content[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
    content
}

/// The first half of a PNG.
pub(crate) fn half() -> Vec<u8> {
    let mut content = png(64, 64, 255);
    content.truncate(content.len() / 2);
    content
}

/// A PNG whose header is right and whose picture is none.
pub(crate) fn damaged() -> Vec<u8> {
    let mut content = png(8, 8, 255);
    let at = content.windows(4).position(|name| name == b"IDAT").expect("a picture");
    // Of a kind that a reader must know, and none does.
    content[at..at + 4].copy_from_slice(b"QQQQ");
    content
}

/// Begins well, and goes on for ever, in pieces with a pause between them.
fn endless(begin: Vec<u8>, piece: &'static [u8], pause: Duration) -> Response {
    let rest = stream::repeat(Bytes::from_static(piece)).then(move |piece| async move {
        tokio::time::sleep(pause).await;
        piece
    });
    let pieces = stream::iter([Bytes::from(begin)]).chain(rest);
    Response::new(Body::from_stream(pieces.map(Ok::<_, Infallible>)))
}

/// Starts a server; gives its address. `/pixel.png` is good.
pub(crate) async fn start() -> String {
    let router = Router::new()
        .route("/pixel.png", get(|| async { png(1, 1, 255) }))
        .route("/huge.png", get(|| async { huge() }))
        .route("/damaged.png", get(|| async { damaged() }))
        .route("/half.png", get(|| async { half() }))
        .route("/page", get(|| async { PAGE }))
        .route("/drawing.svg", get(|| async { DRAWING }))
        .route("/empty", get(|| async { "" }))
        .route("/never", get(std::future::pending::<String>))
        .route(
            "/dripping",
            get(|| async { endless(png(1, 1, 255), b"x", Duration::from_millis(100)) }),
        )
        .route(
            "/endless",
            get(|| async { endless(png(1, 1, 255), &[7; 512], Duration::ZERO) }),
        )
        .route(
            "/inside",
            get(|| async { Redirect::temporary("http://169.254.169.254/latest/meta-data") }),
        )
        .route("/round", get(|| async { Redirect::temporary("/round") }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}
