//! Websockets of node packs: the connection is joined with one to ComfyUI, and what comes on either goes out on the other.

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::{Passed, answered, ask, headers};
use crate::comfy::Connection as Comfyui;
use crate::error::JobError;

/// Whether a request asks for another protocol.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    let mut names = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    headers.contains_key(UPGRADE)
        && names.any(|names| names.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")))
}

pub(super) async fn pass(comfyui: &Comfyui, mut request: Request) -> Result<Response, JobError> {
    let client = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let protocol = parts.headers.get(UPGRADE).cloned();
    let asked = switched(headers::onward(&parts.headers), protocol);
    let answer = ask(comfyui, &parts, asked, None).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answered(comfyui, answer));
    }
    let protocol = answer.headers().get(UPGRADE).cloned();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = switched(headers::back(answer.headers(), comfyui.client.base()), protocol);
    response.extensions_mut().insert(Passed);
    tokio::spawn(join(client, answer));
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
