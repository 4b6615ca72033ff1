//! Comfy API v2: jobs of our queue, and assets.

mod assets;
mod outputs;
mod upload;

use axum::response::{IntoResponse, Response};
use axum::routing;

use crate::dialect::answer::Answer;
use crate::dialect::comfy_v2::Refusal;
use crate::dialect::comfy_v2::assets::{AssetBody, from_hash_operation, upload_operation};
use crate::dialect::schema::{JSON, Operation, Schema};
use crate::error::JobError;
use crate::http::route::Route;

/// The largest body of a request that brings neither a file nor a graph, in bytes.
const LARGEST_BODY: usize = 1024 * 1024;

/// The routes of this API.
pub(in crate::http) const ROUTES: &[Route] = &[
    Route::post(
        "/api/v2/assets",
        "Comfy API v2: keep a file that graphs can name. Its bytes are kept once, however often they come.",
        upload_operation,
        |_| routing::post(upload::upload),
    ),
    Route::post(
        "/api/v2/assets/from-hash",
        "The same for bytes that were uploaded before, by their hash.",
        from_hash_operation,
        |_| routing::post(assets::from_hash),
    ),
    Route::new(
        &["HEAD"],
        "/api/v2/assets/by-hash/{hash}",
        "Whether there are such bytes.",
        || {
            Operation::default()
                .empty_reply(200, "There are.")
                .empty_reply(404, "There are none.")
        },
        |_| routing::head(assets::has_hash),
    ),
    Route::get(
        "/api/v2/assets/{id}",
        "What is known of an asset, with a link to its bytes that works for a day.",
        Operation::answers::<AssetBody>,
        |_| routing::get(assets::get),
    ),
    Route::new(
        &["DELETE"],
        "/api/v2/assets/{id}",
        "Remove an asset. Its bytes go where no other asset and no job needs them.",
        || Operation::default().empty_reply(204, "It is removed."),
        |_| routing::delete(assets::delete),
    ),
    Route::get(
        "/api/v2/assets/{id}/content",
        "The bytes of an asset, in parts too (`Range`): with a key, or by the link that `url` of an asset is.",
        || {
            let until = Schema::count().means("Of a link: until when it works, in seconds since 1970.");
            Operation::default()
                .query("expires", until)
                .query(
                    "signature",
                    Schema::text().means("Of a link: what takes the place of a key."),
                )
                .reply(200, "The bytes.", "*/*", Schema::file())
                .reply(206, "The part of them that was asked for.", "*/*", Schema::file())
        },
        |_| routing::get(assets::content),
    ),
    Route::get(
        "/api/v2/health",
        "Whether this API is served.",
        || {
            let status = Schema::object().needs("status", Schema::one_of(["healthy"]));
            Operation::default().reply(200, "It is.", JSON, status)
        },
        |_| routing::get(assets::health),
    ),
];

/// Why a request is not done.
#[derive(Debug)]
enum Unmet {
    /// As this API says it.
    Refused(Refusal),
    /// As all of ours do; it gets this API's words on its way out.
    Failed(JobError),
}

type Told<T = Answer> = Result<T, Unmet>;

impl From<Refusal> for Unmet {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<JobError> for Unmet {
    fn from(error: JobError) -> Self {
        Self::Failed(error)
    }
}

impl IntoResponse for Unmet {
    fn into_response(self) -> Response {
        match self {
            Self::Refused(refusal) => refusal.answer().into_response(),
            Self::Failed(error) => error.into_response(),
        }
    }
}
