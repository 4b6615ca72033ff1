//! What jobs made, where it is asked for as an asset.

use std::time::SystemTime;

use axum::http::HeaderMap;
use axum::response::Response;
use url::Url;

use super::Told;
use super::assets::LINKS_WORK;
use crate::dialect::comfy_v2::assets::{self, AssetBody};
use crate::dialect::comfy_v2::{Code, Refusal, content_type, created};
use crate::error::{ErrorKind, JobError};
use crate::http::routes::{files, kept_file};
use crate::http::state::State;
use crate::job::{Committed, Dialect, JobView, Source};

/// An output, with its job.
pub(super) struct Found {
    pub(super) output: Committed,
    job: JobView,
}

/// The output of this id; [`None`]: there is none. `owner`: the mark of the key that asks, empty where none is asked for;
/// [`None`]: whoever has a link to it, which was checked.
pub(super) async fn find(state: &State, owner: Option<&str>, id: &str) -> Result<Option<Found>, JobError> {
    let Some(job) = state.queue.store().job_of_output(id).await? else {
        return Ok(None);
    };
    let job = match state.queue.view(job.as_str()).await {
        Ok(job) => job,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let key = job
        .policy
        .v2
        .as_ref()
        .map(|owner| owner.key.as_deref().unwrap_or_default());
    let is_seen = job.policy.dialect == Dialect::ComfyV2 && owner.is_none_or(|owner| key == Some(owner));
    let output = job.outputs.iter().find(|output| output.id == id).cloned();
    Ok(output.filter(|_| is_seen).map(|output| Found { output, job }))
}

/// An output of this owner's as it is told, with links below `base`; [`None`]: there is none of this id.
pub(super) async fn describe(state: &State, owner: &str, base: &Url, id: &str) -> Told<Option<AssetBody>> {
    let Some(Found { output, job }) = find(state, Some(owner), id).await? else {
        return Ok(None);
    };
    let expires = job.created + state.result_ttl;
    let until = SystemTime::now() + LINKS_WORK;
    let told = assets::Told {
        id,
        hash: output.hash,
        bytes: output.bytes,
        content_type: content_type(&output),
        file_path: Some(&output.name),
        tags: &[],
        created: created(&output),
        expires: Some(expires),
        link: state.file_links.asset_url(base, id, until),
        job: Some(job.id.as_str()),
    };
    Ok(Some(told.into()))
}

/// The bytes of an output, as far as these headers ask for them; [`None`]: there is none of this id. `owner` as in [`find`].
pub(super) async fn content(
    state: &State,
    owner: Option<&str>,
    id: &str,
    headers: &HeaderMap,
) -> Told<Option<Response>> {
    let Some(Found { output, .. }) = find(state, owner, id).await? else {
        return Ok(None);
    };
    let Some(file) = output.as_file() else {
        let Source::Text(text) = output.source else {
            return Ok(None);
        };
        let text = bytes::Bytes::from(text.to_string());
        return Ok(Some(kept_file::send_bytes(&text, &output.name, headers).await));
    };
    match files::send(state, headers, &file).await {
        Ok(response) => Ok(Some(response)),
        Err(error) if error.kind == ErrorKind::NotFound => {
            let message = "The file that the job made is gone; run the job again";
            Err(Refusal::new(Code::OutputUnavailable, message).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether this owner has an output of this id, which goes with its job alone.
pub(super) async fn is_output(state: &State, owner: &str, id: &str) -> Told<bool> {
    Ok(find(state, Some(owner), id).await?.is_some())
}
