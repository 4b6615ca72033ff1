//! Assets: records over files by their content. Those of another key do not exist; whoever has the link to one may fetch it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Shared};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use url::Url;

use super::outputs;
use super::{LARGEST_BODY, Told, Unmet};
use crate::assets::{Asset, AssetError, NewAsset};
use crate::dialect::answer::Answer;
use crate::dialect::comfy_v2::assets::{self, AssetBody, Placement, Said};
use crate::dialect::comfy_v2::{Code, Refusal};
use crate::disk::blocking;
use crate::error::JobError;
use crate::http::auth::{Caller, SignedLink};
use crate::http::routes::kept_file;
use crate::http::state::State;
use crate::job::{ContentHash, ModelPlace, weights};

/// How long a link to a content works, where that is kept so long.
pub(super) const LINKS_WORK: Duration = Duration::from_hours(24);

pub(super) type Named = Result<Path<String>, PathRejection>;

/// `POST /api/v2/assets/from-hash`.
pub(super) async fn from_hash(Shared(state): Shared<Arc<State>>, request: Request) -> Told {
    let (parts, body) = request.into_parts();
    let base = state.origin(&parts.headers)?;
    let owner = owner(&parts.extensions);
    let received = state.bodies.read_at_most(LARGEST_BODY, &parts.headers, body).await?;
    let (hash, said) = assets::parse_from_hash(&received.content)?;
    judge_path(&state, &said)?;
    let unknown = || Refusal::new(Code::BlobNotFound, "There are no bytes of this hash here; upload them");
    if let Some(path) = said.file_path.as_deref().filter(|path| is_model(path)) {
        if !state.assets.has_hash(&owner, hash).await? {
            return Err(unknown().into());
        }
        let blobs = state.assets.blobs().clone();
        let head = blocking(move || blobs.head(hash)).await.map_err(AssetError::from)?;
        judge_weights(path, &head)?;
    }
    let made = state.assets.from_hash(new_asset(owner, said, None), hash).await?;
    let asset = made.ok_or_else(unknown)?;
    Ok(body_of(&state, &base, &asset).made_of_known())
}

/// `HEAD /api/v2/assets/by-hash/{hash}`.
pub(super) async fn has_hash(Shared(state): Shared<Arc<State>>, hash: Named, request: Request) -> Told<StatusCode> {
    let hash = hash.ok().and_then(|Path(text)| ContentHash::parse(&text));
    let found = match hash {
        Some(hash) => state.assets.has_hash(&owner(request.extensions()), hash).await?,
        None => false,
    };
    Ok(if found { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

/// `GET /api/v2/assets/{id}`.
pub(super) async fn get(Shared(state): Shared<Arc<State>>, id: Named, request: Request) -> Told {
    let id = named(id)?;
    let base = state.origin(request.headers())?;
    let owner = owner(request.extensions());
    if let Some(asset) = state.assets.get(&owner, &id).await? {
        return Ok(Answer::json(200, &body_of(&state, &base, &asset)));
    }
    let output = outputs::describe(&state, &owner, &base, &id).await?;
    let body = output.ok_or_else(|| assets::unknown(&id))?;
    Ok(Answer::json(200, &body))
}

/// `DELETE /api/v2/assets/{id}`.
pub(super) async fn delete(Shared(state): Shared<Arc<State>>, id: Named, request: Request) -> Told<StatusCode> {
    let id = named(id)?;
    let owner = owner(request.extensions());
    if state.assets.delete(&owner, &id).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    if outputs::is_output(&state, &owner, &id).await? {
        let message = "The asset is what a job made: it goes with its job, at the `expires_at` of that";
        return Err(Refusal::new(Code::AssetInUse, message).into());
    }
    Err(assets::unknown(&id).into())
}

/// `GET /api/v2/assets/{id}/content`.
pub(super) async fn content(Shared(state): Shared<Arc<State>>, id: Named, request: Request) -> Told<Response> {
    let id = named(id)?;
    let by_link = request.extensions().get::<SignedLink>().is_some();
    let owner = owner(request.extensions());
    let found = if by_link {
        state.assets.get_by_link(&id).await?
    } else {
        state.assets.get(&owner, &id).await?
    };
    let Some(asset) = found else {
        let output = outputs::content(&state, (!by_link).then_some(owner.as_str()), &id, request.headers()).await?;
        return output.ok_or_else(|| assets::unknown(&id).into());
    };
    send(&state, &asset, request.headers()).await
}

async fn send(state: &State, asset: &Asset, headers: &HeaderMap) -> Told<Response> {
    let path = state.assets.path(asset.hash);
    let placement = asset.file_path.as_deref().map(Placement::parse);
    let name = placement
        .and_then(Result::ok)
        .map_or_else(String::new, |place| place.file_name());
    let sent = kept_file::send(&path, &name, headers).await;
    let mut response = sent.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Unmet::from(Refusal::new(
            Code::BlobNotFound,
            "The bytes of the asset are gone; upload them again",
        )),
        _ => AssetError::from(error).into(),
    })?;
    let answer = response.headers_mut();
    // What its name says counts for nothing.
    let media_type = HeaderValue::from_str(assets::sent_as(&asset.content_type));
    if answer.contains_key(header::CONTENT_TYPE) {
        answer.insert(
            header::CONTENT_TYPE,
            media_type.unwrap_or(HeaderValue::from_static(assets::BYTES)),
        );
    }
    Ok(response)
}

/// The mark of the key that let a request in; empty: none was asked for.
pub(super) fn owner(extensions: &Extensions) -> String {
    Caller::of(extensions).key.unwrap_or_default()
}

/// The id in a path. What is no text names nothing.
pub(super) fn named(id: Named) -> Told<String> {
    match id {
        Ok(Path(id)) => Ok(id),
        Err(_) => Err(assets::unknown("").into()),
    }
}

/// The key by which a request is known that comes twice.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Told<Option<String>> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.next().is_some() {
        return Err(Refusal::new(Code::InvalidRequest, "The request has more than one Idempotency-Key").into());
    }
    let text = String::from_utf8_lossy(key.as_bytes());
    Ok(Some(assets::idempotency_key(&text)?))
}

/// An asset as it is told, with a link to its content below `base`.
pub(super) fn body_of(state: &State, base: &Url, asset: &Asset) -> AssetBody {
    let until = asset.expires.min(SystemTime::now() + LINKS_WORK);
    assets::Told {
        id: &asset.id,
        hash: Some(asset.hash),
        bytes: asset.bytes,
        content_type: &asset.content_type,
        file_path: asset.file_path.as_deref(),
        tags: &asset.tags,
        created: asset.created,
        expires: Some(asset.expires),
        link: state.file_links.asset_url(base, &asset.id, until),
        job: None,
    }
    .into()
}

/// What a new record says. `own_type`: the media type of the part that the bytes came in.
pub(super) fn new_asset(owner: String, said: Said, own_type: Option<String>) -> NewAsset {
    NewAsset {
        owner,
        content_type: said.content_type.or(own_type).unwrap_or_default(),
        file_path: said.file_path,
        tags: said.tags,
        lifetime: said.lifetime,
    }
}

fn is_model(path: &str) -> bool {
    matches!(Placement::parse(path), Ok(Placement::Model(..)))
}

/// Refuses what is to be among the models where that is not allowed.
pub(super) fn judge_path(state: &State, said: &Said) -> Result<(), Refusal> {
    let is_model = said.file_path.as_deref().is_some_and(is_model);
    if is_model && !state.assets.takes_models() {
        let message = "Models may not be uploaded here. Whoever runs this worker allows it with ASSET_MODELS=true, together with API_KEY";
        return Err(Refusal::new(Code::Forbidden, message).detail("field", "file_path"));
    }
    if let Some(Err(why)) = said.file_path.as_deref().and_then(ModelPlace::of) {
        return Err(Refusal::new(Code::InvalidRequest, why).detail("field", "file_path"));
    }
    Ok(())
}

/// Refuses what is to be among the models and does not begin as its name says.
pub(super) fn judge_weights(path: &str, head: &[u8]) -> Result<(), Refusal> {
    let Ok(Placement::Model(_, name)) = Placement::parse(path) else {
        return Ok(());
    };
    let is_so = weights(head).is_some_and(|format| {
        let ending = name.rsplit('.').next().unwrap_or_default();
        ending.eq_ignore_ascii_case(format)
    });
    if is_so {
        return Ok(());
    }
    let message = "The bytes are no file of weights of the kind that `file_path` says: a model is a whole .safetensors or .gguf file";
    Err(Refusal::new(Code::InvalidRequest, message).detail("field", "file_path"))
}

impl From<AssetError> for Unmet {
    fn from(error: AssetError) -> Self {
        match &error {
            AssetError::TooLarge { most } => {
                let message = format!(
                    "The file is larger than {most} bytes, the most that all uploads may have together (ASSETS_MAX_BYTES)"
                );
                Refusal::new(Code::PayloadTooLarge, message)
                    .detail("limit", *most)
                    .into()
            }
            AssetError::NoRoom { most } => {
                let message = format!(
                    "There is no room: uploads have {most} bytes together at most (ASSETS_MAX_BYTES), and unfinished jobs or other uploads need them. Try again later"
                );
                Refusal::new(Code::StorageFull, message).into()
            }
            AssetError::DiskFull => {
                let message =
                    "The disk of the worker is full. Make room in DATA_DIR, or set it to a folder on a larger disk";
                Refusal::new(Code::StorageFull, message).into()
            }
            AssetError::KeyUsed => assets::key_reused().into(),
            _ => Self::Failed(JobError::from(error)),
        }
    }
}

/// `GET /api/v2/health`.
pub(super) async fn health() -> Response {
    Answer::json(200, &serde_json::json!({"status": "healthy"})).into_response()
}
