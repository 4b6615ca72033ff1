//! Websockets of node packs: the connection is joined with one to ComfyUI, and what comes on either goes out on the other.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, UPGRADE};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::time::timeout;

use super::{Passed, answered, ask, headers};
use crate::comfy::Connection as Comfyui;
use crate::error::{ErrorKind, JobError};
use crate::http::websocket::Upgrades;

/// The longest that either side may take nothing of what is sent to it.
const SEND_TIME: Duration = Duration::from_secs(30);
/// How long the one side has once the other is done.
const FAREWELL_TIME: Duration = Duration::from_secs(8);
/// How much is carried at once, in bytes.
const PIECE: usize = 8 * 1024;

/// Whether a request asks for a websocket.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    let mut names = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    headers
        .get(UPGRADE)
        .is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && names.any(|names| names.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")))
}

pub(super) async fn pass(comfyui: &Comfyui, mut request: Request) -> Result<Response, JobError> {
    let client = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let upgrades = parts.extensions.get::<Upgrades>();
    let place = upgrades.map(|upgrades| Arc::clone(&upgrades.places).try_acquire_owned());
    let Ok(place) = place.transpose() else {
        let error = JobError::new(ErrorKind::Busy, "As many websockets are open as this worker keeps");
        return Err(error.hint("Connect again later, and close those that you no longer need."));
    };
    let closing = upgrades.map(|upgrades| upgrades.closing.clone()).unwrap_or_default();
    let protocol = parts.headers.get(UPGRADE).cloned();
    let mut asked = switched(headers::onward(&parts.headers), protocol);
    // A body would be for nobody.
    asked.remove(CONTENT_LENGTH);
    let answer = ask(comfyui, &parts, asked, None).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answered(comfyui, answer));
    }
    let protocol = answer.headers().get(UPGRADE).cloned();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = switched(headers::back(answer.headers(), comfyui.client.base()), protocol);
    response.extensions_mut().insert(Passed);
    tokio::spawn(async move {
        tokio::select! {
            () = join(client, answer) => {}
            () = closing.cancelled() => {}
        }
        drop(place);
    });
    Ok(response)
}

fn switched(mut headers: HeaderMap, protocol: Option<HeaderValue>) -> HeaderMap {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
    }
    headers
}

/// Carries what comes to and fro until one side is done, or gone.
async fn join(client: OnUpgrade, comfyui: reqwest::Response) {
    let carried = async {
        let (comfyui, client) = (comfyui.upgrade().await?, TokioIo::new(client.await?));
        exchange(client, comfyui).await?;
        anyhow::Ok(())
    };
    if let Err(error) = carried.await {
        tracing::debug!(%error, "a websocket that was passed on ended");
    }
}

async fn exchange(client: impl AsyncRead + AsyncWrite, comfyui: impl AsyncRead + AsyncWrite) -> io::Result<()> {
    let (from_client, to_client) = split(client);
    let (from_comfyui, to_comfyui) = split(comfyui);
    let mut up = pin!(carry(from_client, to_comfyui));
    let mut down = pin!(carry(from_comfyui, to_client));
    // A client may never end its own side.
    let (first, second) = tokio::select! {
        first = &mut up => (first, timeout(FAREWELL_TIME, down).await),
        first = &mut down => (first, timeout(FAREWELL_TIME, up).await),
    };
    first.and(second.unwrap_or(Ok(())))
}

/// Carries all that comes, and then its end.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return timeout(SEND_TIME, to.shutdown()).await?;
        }
        let sent = async {
            to.write_all(&piece[..read]).await?;
            to.flush().await
        };
        timeout(SEND_TIME, sent).await??;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    /// A client and a ComfyUI that are joined.
    fn joined() -> (DuplexStream, DuplexStream, JoinHandle<io::Result<()>>) {
        let (client, outer) = duplex(1024);
        let (comfyui, inner) = duplex(1024);
        (client, comfyui, tokio::spawn(exchange(outer, inner)))
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_on_either_side_goes_out_on_the_other_however_long_it_takes() {
        let (mut client, mut comfyui, _joined) = joined();
        for (one, other) in [(0, 5), (1, 3600)] {
            tokio::time::sleep(Duration::from_secs(other)).await;
            let (from, to) = if one == 0 {
                (&mut client, &mut comfyui)
            } else {
                (&mut comfyui, &mut client)
            };
            let sent = vec![7; 20_000];
            let mut came = vec![0; sent.len()];
            let (sent_all, came_all) = tokio::join!(from.write_all(&sent), to.read_exact(&mut came));
            assert!(sent_all.is_ok() && came_all.is_ok() && came == sent);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn once_one_side_is_done_the_other_has_a_little_time() {
        let (mut client, comfyui, joined) = joined();
        drop(comfyui);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        // The client says nothing, and never ends.
        let begun = Instant::now();
        joined.await.unwrap().unwrap();
        assert_eq!(begun.elapsed().as_secs(), FAREWELL_TIME.as_secs());
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_takes_nothing_ends_it() {
        let (client, mut comfyui, joined) = joined();
        let talk = tokio::spawn(async move { while comfyui.write_all(&[0; 1024]).await.is_ok() {} });
        let begun = Instant::now();
        assert_eq!(joined.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), SEND_TIME + FAREWELL_TIME);
        talk.await.unwrap();
        drop(client);
    }
}
