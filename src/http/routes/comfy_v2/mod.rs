//! Comfy API v2: jobs of our queue, and assets. Served on the port of everything, and on that of the Edit Plus API, where its
//! clients look for a ComfyUI of one's own.

mod assets;
mod jobs;
mod outputs;
mod references;
mod upload;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use axum::routing;

use super::unmet::{Told, Unmet};
use crate::dialect::comfy_v2::assets::{AssetBody, from_hash_operation, upload_operation};
use crate::dialect::comfy_v2::{self, MOST_JOBS, Places, USUAL_LIMIT};
use crate::dialect::schema::{JSON, Operation, Schema};
use crate::error::JobError;
use crate::http::auth::Caller;
use crate::http::route::Route;
use crate::http::state::State;
use crate::job::{Dialect, Policy};

/// The shortest time between two events of progress, or previews.
const PACE: Duration = Duration::from_millis(500);

/// The largest body of a request that brings neither a file nor a graph, in bytes.
const LARGEST_BODY: usize = 1024 * 1024;

/// The routes of this API that are about jobs.
pub(in crate::http) const JOBS: &[Route] = &[
    Route::post(
        "/api/v2/jobs",
        "Comfy API v2: take a workflow in and answer with its job. Its graph may name assets by their ids.",
        || {
            Operation::default()
                .reply(201, "The job.", JSON, Schema::of::<comfy_v2::V2Job<'_>>())
                .takes(comfy_v2::submission())
        },
        |_| routing::post(jobs::submit),
    ),
    Route::get(
        "/api/v2/jobs",
        "Comfy API v2: the caller's jobs in pages, the newest first: `?limit=`, `?cursor=`, `?status=a,b`, `?metadata[KEY]=VALUE`.",
        || {
            Operation::answers::<comfy_v2::JobList<'_>>()
                .query("limit", Schema::integer(&(1..=MOST_JOBS)).or(USUAL_LIMIT))
                .query("cursor", Schema::text().means("`next_cursor` of the page before."))
                .query("status", comfy_v2::statuses())
        },
        |_| routing::get(jobs::list),
    ),
    Route::get(
        "/api/v2/jobs/{id}",
        "Comfy API v2: the job as it is now, with what it has made so far.",
        Operation::answers::<comfy_v2::V2Job<'_>>,
        |_| routing::get(jobs::one),
    ),
    Route::get(
        "/api/v2/jobs/{id}/events",
        "Comfy API v2: the job as a stream of events: `status`, `progress`, `preview`, `output`.",
        || Operation::events("The job's state, each change, and its end."),
        |_| routing::get(jobs::events),
    ),
    Route::get(
        "/api/v2/jobs/{id}/workflow",
        "Comfy API v2: what the job runs.",
        Operation::answers::<comfy_v2::V2Workflow<'_>>,
        |_| routing::get(jobs::workflow),
    ),
    Route::post(
        "/api/v2/jobs/{id}/cancel",
        "Comfy API v2: end the job, whether it waits or runs.",
        Operation::answers::<comfy_v2::V2Job<'_>>,
        |_| routing::post(jobs::cancel),
    ),
];

/// The routes of this API that are about assets.
pub(in crate::http) const ASSETS: &[Route] = &[
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

/// Whether a job came by this API, under the caller's key.
fn own(policy: &Policy, caller: &Caller) -> bool {
    let owner = policy.v2.as_deref();
    policy.dialect == Dialect::ComfyV2 && owner.is_some_and(|owner| owner.key == caller.key)
}

/// Where the links of an answer lead.
fn places(state: &State, headers: &HeaderMap) -> Result<Places, JobError> {
    let base = state.origin(headers)?;
    let prefix = base.path().trim_end_matches('/').to_owned();
    let links = state.file_links.clone();
    let content = move |id: &str| {
        let (url, until) = links.asset_url(&base, id, SystemTime::now() + assets::LINKS_WORK);
        (url.into(), until)
    };
    Ok(Places {
        prefix,
        content: Arc::new(content),
        kept: state.result_ttl,
    })
}
