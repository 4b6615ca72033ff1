//! A stand-in for ComfyUI that records what arrives, and does what the real one cannot be made to do.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{RUNTIME, Worker};

/// Marks the requests of a test: the worker has some of its own.
pub(crate) const MARK: &str = "x-of-a-test";

/// What came, and what is to be seen of it.
#[derive(Default)]
pub(crate) struct Upstream {
    pub(crate) came: Mutex<Vec<(String, HeaderMap)>>,
    /// Pieces of bodies, as they come.
    pub(crate) pieces: Mutex<Option<mpsc::UnboundedSender<Option<Bytes>>>>,
    /// Whether the endless answer was given up.
    pub(crate) given_up: AtomicBool,
}

struct GivenUp(Arc<Upstream>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.given_up.store(true, Ordering::SeqCst);
    }
}

async fn answer(State(upstream): State<Arc<Upstream>>, mut request: Request) -> Response {
    if request.uri().path() == "/system_stats" && !request.headers().contains_key(MARK) {
        return r#"{"system": {}, "devices": []}"#.into_response();
    }
    let target = request
        .uri()
        .path_and_query()
        .map(ToString::to_string)
        .unwrap_or_default();
    let line = format!("{} {target}", request.method());
    upstream.came.lock().push((line, request.headers().clone()));
    match request.uri().path() {
        "/endless" => {
            let given_up = GivenUp(Arc::clone(&upstream));
            let pieces = stream::unfold(given_up, async |given_up| {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Some((Ok::<_, Infallible>(Bytes::from_static(b"more")), given_up))
            });
            Body::from_stream(pieces).into_response()
        }
        "/moved" => (
            StatusCode::FOUND,
            [
                ("location", "/elsewhere"),
                ("access-control-allow-origin", "*"),
                ("cache-control", "public, max-age=60"),
            ],
        )
            .into_response(),
        "/packed" => (
            [("content-encoding", "gzip"), ("content-type", "text/plain")],
            "not unpacked",
        )
            .into_response(),
        "/socket" => {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = hyper_util::rt::TokioIo::new(upgraded.await.expect("a stream"));
                let mut said = [0; 4];
                stream.read_exact(&mut said).await.expect("four bytes");
                stream.write_all(&said).await.expect("an echo");
            });
            let headers = [
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-accept", "yes"),
            ];
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }
        "/upload/image" | "/api/upload/image" | "/take" => {
            let tell = upstream.pieces.lock().clone();
            let mut body = request.into_body().into_data_stream();
            while let Some(piece) = body.next().await {
                let Ok(piece) = piece else {
                    return StatusCode::BAD_REQUEST.into_response();
                };
                if let Some(tell) = &tell {
                    let _ = tell.send(Some(piece));
                }
            }
            if let Some(tell) = &tell {
                let _ = tell.send(None);
            }
            r#"{"name": "a.png"}"#.into_response()
        }
        "/known" => "here".into_response(),
        _ if *request.method() != "GET" => {
            let kind = [("content-type", "text/plain; charset=utf-8")];
            (StatusCode::METHOD_NOT_ALLOWED, kind, "405: Method Not Allowed").into_response()
        }
        _ => (
            StatusCode::NOT_FOUND,
            [("content-type", "text/plain; charset=utf-8")],
            "404: Not Found",
        )
            .into_response(),
    }
}

/// The stand-in, and a worker that is attached to it.
pub(crate) async fn worker_on_it(more: &[(&str, &str)]) -> (Arc<Upstream>, Worker) {
    let upstream = Arc::new(Upstream::default());
    let router = Router::new().fallback(answer).with_state(Arc::clone(&upstream));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    RUNTIME.spawn(async move { axum_serve(listener, router).await });
    (upstream, Worker::attached(&url, more).await)
}

async fn axum_serve(listener: TcpListener, router: Router) {
    use qwen_image_worker::http::server::{Port, serve};
    serve(listener, router, Port::Main, tokio_util::sync::CancellationToken::new()).await;
}

impl Upstream {
    /// The requests that came from tests.
    pub(crate) fn lines(&self) -> Vec<String> {
        let came = self.came.lock();
        let ours = came.iter().filter(|(_, headers)| headers.contains_key(MARK));
        ours.map(|(line, _)| line.clone()).collect()
    }
}
