//! Comfy API v2, as its SDKs speak it to a ComfyUI of one's own: jobs, and assets that their graphs name. Written after Comfy's
//! OpenAPI document (2.0.0), and after what PyPI's `comfy-sdk` 0.5.0 and npm's `@comfyorg/sdk` 0.1.9 send and read.

pub mod assets;
mod events;
mod input;
mod jobs;
mod list;
mod outputs;
mod refusal;
#[cfg(test)]
mod tests;
mod time;

pub use events::{Cursor, events, is_urgent};
pub use input::{Submission, Workflow, not_converted, of_graph, parse, submission};
pub use jobs::{Status, V2Job, V2Workflow, graph, job, saved, statuses};
pub use list::{Asked, JobList, MOST_JOBS, USUAL_LIMIT, page};
pub use outputs::{ContentLink, Places, content_type, created};
pub use refusal::{Code, Refusal, V2Error, render_error};
pub use time::time;

/// Where it is served.
pub const BASE: &str = "/api/v2";

/// What follows [`BASE`] in the paths of this API. Others are of packs of ComfyUI: its page asks for `/v2/manager/…` under
/// `/api` too.
const OWN: [&str; 3] = ["jobs", "assets", "health"];

/// Whether a path is one of this API.
pub fn is_own(path: &str) -> bool {
    let below = path.strip_prefix(BASE).and_then(|rest| rest.strip_prefix('/'));
    below.is_some_and(|rest| OWN.contains(&rest.split('/').next().unwrap_or_default()))
}
