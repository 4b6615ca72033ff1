//! Websockets of node packs: the connection is joined with one to ComfyUI, and what comes on either goes out on the other.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, UPGRADE};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::{Passed, answered, ask, headers};
use crate::comfy::Connection as Comfyui;
use crate::error::{ErrorKind, JobError};
use crate::http::websocket::Upgrades;

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

/// Carries what comes to and fro until both sides are done, or one is gone.
async fn join(client: OnUpgrade, comfyui: reqwest::Response) {
    let carried = async {
        let (mut comfyui, mut client) = (comfyui.upgrade().await?, TokioIo::new(client.await?));
        copy_bidirectional(&mut client, &mut comfyui).await?;
        anyhow::Ok(())
    };
    if let Err(error) = carried.await {
        tracing::debug!(%error, "a websocket that was passed on ended");
    }
}
