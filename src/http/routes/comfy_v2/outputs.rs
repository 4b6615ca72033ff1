//! What jobs made, where it is asked for as an asset.

#![expect(clippy::unused_async, reason = "whoever looks for them waits for the store")]

use axum::http::HeaderMap;
use axum::response::Response;
use url::Url;

use super::Told;
use crate::dialect::comfy_v2::assets::AssetBody;
use crate::http::state::State;

/// An output of this owner's as it is told, with links below `base`; [`None`]: there is none of this id.
pub(super) async fn describe(_state: &State, _owner: &str, _base: &Url, _id: &str) -> Told<Option<AssetBody>> {
    Ok(None)
}

/// The bytes of an output, as far as these headers ask for them; [`None`]: there is none of this id. `owner`: the mark of the
/// key that asks, empty where none is asked for; [`None`]: whoever has a link to it, which was checked.
pub(super) async fn content(
    _state: &State,
    _owner: Option<&str>,
    _id: &str,
    _headers: &HeaderMap,
) -> Told<Option<Response>> {
    Ok(None)
}

/// Whether this owner has an output of this id, which goes with its job alone.
pub(super) async fn is_output(_state: &State, _owner: &str, _id: &str) -> Told<bool> {
    Ok(false)
}
