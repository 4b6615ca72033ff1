//! Files: `GET /view`, the one that a result names, under ComfyUI's own route and parameters; and
//! `GET /files/{job}/{index}/{name}`, for whoever has its link.
//!
//! A file of this machine is sent from its disk. What must be made of it first ComfyUI makes, such as a small preview.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path as InPath, Query, Request, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use serde::Deserialize;

use super::kept_file;
use crate::comfy::Folders;
use crate::delivery::links::BadLink;
use crate::dialect::schema::{Operation, Schema};
use crate::disk::blocking;
use crate::echo;
use crate::error::{ErrorKind, JobError};
use crate::http::pass;
use crate::http::route::Route;
use crate::http::state::State;
use crate::job::{OutputFile, OutputFolder};

/// `GET /view`.
pub(in crate::http) const VIEW: Route = Route::get(
    "/view",
    "The file that a result names: `?filename=&subfolder=&type=`, as ComfyUI sends it: in parts too (`Range`), smaller with `preview=webp;75`, and one `channel` of it.",
    || {
        Operation::default()
            .needs("filename", Schema::said())
            .query("subfolder", Schema::text().or(""))
            .query("type", Schema::one_of(["output", "temp", "input"]).or("output"))
            .query("preview", Schema::text().means("`webp` or `jpeg`, and a quality from 1 to 100 after `;`."))
            .query("channel", Schema::one_of(["rgba", "rgb", "a"]).or("rgba"))
            .reply(200, "The file.", "*/*", Schema::file())
    },
    |_| routing::get(view),
)
.api();

/// What to ask for.
const SHAPE: &str = "Ask for /view?filename=…&subfolder=…&type=output as a result names them.";

/// ComfyUI's parameters.
#[derive(Debug, Deserialize)]
struct Parameters {
    #[serde(default)]
    filename: String,
    #[serde(default)]
    subfolder: String,
    #[serde(default, rename = "type")]
    folder: Option<String>,
    preview: Option<String>,
    channel: Option<String>,
}

impl Parameters {
    /// Whether ComfyUI has to open the file: it makes a picture of it, or knows it by its content.
    fn are_comfyuis(&self) -> bool {
        let channel = self.channel.as_deref().unwrap_or_default();
        self.preview.is_some() || matches!(channel, "rgb" | "a") || self.filename.starts_with("blake3:")
    }
}

/// What ComfyUI lets stand behind a file's name, for its folder.
const MARKS: &[(&str, OutputFolder)] = &[
    ("[output]", OutputFolder::Output),
    ("[input]", OutputFolder::Input),
    ("[temp]", OutputFolder::Temp),
];

/// Sends a file of ComfyUI's folders.
async fn view(
    Shared(state): Shared<Arc<State>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    request: Request,
) -> Result<Response, JobError> {
    let Query(parameters) = parameters.map_err(|rejected| {
        let why = rejected.body_text();
        JobError::invalid(format!("The query cannot be read: {}", echo::cut(&why))).hint(SHAPE)
    })?;
    if parameters.filename.is_empty() {
        return Err(JobError::invalid("`filename` is missing").hint(SHAPE));
    }
    let is_comfyuis = parameters.are_comfyuis();
    let Parameters {
        filename,
        subfolder,
        folder,
        ..
    } = parameters;
    let marked = MARKS.iter().find_map(|(mark, folder)| {
        let name = filename.strip_suffix(mark)?;
        // ComfyUI takes one more character off, for the space.
        let end = name.char_indices().next_back().map_or(0, |(at, _)| at);
        Some((name[..end].to_owned(), *folder))
    });
    let (filename, folder) = match (marked, folder.as_deref()) {
        (Some(marked), _) => marked,
        (None, None | Some("" | "output")) => (filename, OutputFolder::Output),
        (None, Some("temp")) => (filename, OutputFolder::Temp),
        (None, Some("input")) => (filename, OutputFolder::Input),
        (None, Some(other)) => {
            return Err(JobError::invalid(format!(
                "`type` is `{}`; it must be output, temp or input",
                echo::cut(other)
            )));
        }
    };
    match state.comfy.folders() {
        Some(folders) if !is_comfyuis || state.comfy.is_elsewhere() => {
            from_disk(folders, request.headers(), folder, &subfolder, &filename).await
        }
        _ => from_comfy(&state, request, [folder.as_str(), &filename, &subfolder], is_comfyuis).await,
    }
}

async fn from_disk(
    folders: &Folders,
    headers: &HeaderMap,
    folder: OutputFolder,
    subfolder: &str,
    filename: &str,
) -> Result<Response, JobError> {
    if folders.path(folder, subfolder, filename).is_none() {
        return Err(
            JobError::invalid("`filename` or `subfolder` leads out of ComfyUI's folders")
                .hint("Use the names as a result gives them."),
        );
    }
    let (folders, subfolder, name) = (folders.clone(), subfolder.to_owned(), filename.to_owned());
    let found = blocking(move || folders.existing(folder, &subfolder, &name)).await;
    let path = found.ok_or_else(|| not_found(filename))?;
    kept_file::send(&path, filename, headers)
        .await
        .map_err(|error| JobError::internal(format!("the file `{}` cannot be read: {error}", echo::cut(filename))))
}

/// What ComfyUI sends; `made`: it made a picture of the file, and says itself of what kind.
async fn from_comfy(state: &State, request: Request, file: [&str; 3], made: bool) -> Result<Response, JobError> {
    let [_, filename, _] = file;
    let asked = request.headers().clone();
    let mut response = pass::view(state, request, file).await?;
    if matches!(
        response.status(),
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST
    ) {
        return Err(not_found(filename));
    }
    if response.status().is_success() && !made {
        kept_file::describe(response.headers_mut(), filename, &asked);
    }
    Ok(response)
}

fn not_found(filename: &str) -> JobError {
    JobError::new(
        ErrorKind::NotFound,
        format!("There is no file `{}` here", echo::cut(filename)),
    )
    .hint("Use filename, subfolder and type as a result names them; previews (`temp`) go when ComfyUI starts again.")
}

/// `GET /files/{job}/{index}/{name}`.
pub(in crate::http) const FILE: Route = Route::get(
    "/files/{job}/{index}/{name}",
    "A file of a job, by the link that an answer holds. The link's signature takes the place of a key.",
    || {
        let until = Schema::count().means("Until when the link works, in seconds since 1970.");
        Operation::default()
            .needs("expires", until)
            .needs("signature", Schema::text())
            .reply(200, "The file.", "*/*", Schema::file())
    },
    |_| routing::get(file),
);

/// What signs a link.
#[derive(Debug, Deserialize)]
struct Signed {
    #[serde(default)]
    expires: u64,
    #[serde(default)]
    signature: String,
}

/// Sends the file. 404: the link is none of ours; 410: it was, and its time is over.
async fn file(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    path: Result<InPath<(String, String, String)>, PathRejection>,
    signed: Result<Query<Signed>, QueryRejection>,
) -> Response {
    let (Ok(InPath((job, index, name))), Ok(Query(signed))) = (path, signed) else {
        return wrong(BadLink::Wrong);
    };
    let Ok(index) = index.parse() else {
        return wrong(BadLink::Wrong);
    };
    let checked = state
        .file_links
        .check(&job, index, &name, signed.expires, &signed.signature, SystemTime::now());
    if let Err(bad) = checked {
        return wrong(bad);
    }
    let Some(file) = find_linked(&state, &job, index, &name).await else {
        return gone("The file is no longer kept");
    };
    match send(&state, &headers, &file).await {
        Ok(response) => response,
        Err(error) if error.kind == ErrorKind::NotFound => gone("The file is no longer there"),
        Err(error) => error.into_response(),
    }
}

async fn find_linked(state: &State, job: &str, index: usize, name: &str) -> Option<OutputFile> {
    let view = state.queue.view(job).await.ok()?;
    let outcome = view.result?.ok()?;
    let file = outcome.wanted().nth(index)?;
    (file.filename == name).then(|| file.clone())
}

pub(super) async fn send(state: &State, headers: &HeaderMap, file: &OutputFile) -> Result<Response, JobError> {
    if let Some(folders) = state.comfy.folders() {
        return from_disk(folders, headers, file.folder, &file.subfolder, &file.filename).await;
    }
    let content = state.results.content(file).await?;
    Ok(kept_file::send_bytes(&content, &file.filename, headers).await)
}

fn wrong(bad: BadLink) -> Response {
    match bad {
        BadLink::Wrong => {
            let error = JobError::new(ErrorKind::NotFound, format!("There is no such file: {bad}"));
            let hint = "Use the URL as the answer holds it, with its whole query.";
            error.hint(hint).into_response()
        }
        BadLink::Expired => gone("The link has expired"),
    }
}

fn gone(message: &str) -> Response {
    let error = JobError::new(ErrorKind::NotFound, message);
    let error = error.hint("Ask for the picture again; save it while its link works.");
    (StatusCode::GONE, error).into_response()
}
