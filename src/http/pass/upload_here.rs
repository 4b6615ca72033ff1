//! `POST /upload/image` at a front, which has no ComfyUI to pass it on to: the file goes into the front's own input folder, from
//! where it goes to an engine with the prompts that name it.

use std::path::{Path, PathBuf};

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::refusal;
use super::upload::{Judge, SHAPE};
use crate::comfy::Folders;
use crate::disk::blocking;
use crate::echo;
use crate::error::{ErrorKind, JobError};
use crate::http::multipart::{Parts, file_name};
use crate::http::state::State;
use crate::job::OutputFolder;

/// The most numbers that are tried for a name that is taken, as ComfyUI tries them.
const MOST_NUMBERS: u32 = 10_000;

/// How a file is called while it comes.
const UPLOADING: &str = ".upload-";

/// A form's fields.
#[derive(Debug, Default)]
struct Upload {
    name: Option<String>,
    subfolder: String,
    overwrites: bool,
}

pub(super) async fn upload(state: &State, request: Request) -> Response {
    let taken = match state.comfy.folders() {
        Some(folders) => take(folders, state.http.max_body_bytes, request).await,
        None => Err(JobError::internal("there is no folder for uploads")),
    };
    match taken {
        Ok((name, subfolder)) => Json(json!({"name": name, "subfolder": subfolder, "type": "input"})).into_response(),
        Err(error) => refusal::answer(&error),
    }
}

async fn take(folders: &Folders, most: usize, request: Request) -> Result<(String, String), JobError> {
    if request.uri().path().ends_with("/mask") {
        let error = JobError::invalid("A front puts no masks into images, which ComfyUI does for /upload/mask");
        return Err(error.hint("Upload the image with its transparency to /upload/image."));
    }
    let (parts, body) = request.into_parts();
    let given = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = multer::parse_boundary(given.unwrap_or_default());
    let boundary = boundary.map_err(|_| JobError::invalid("The body is no form").hint(SHAPE))?;
    // Beside the others, so that it can be renamed to its place.
    let name = format!("{UPLOADING}{}", uuid::Uuid::new_v4().simple());
    let unnamed = Unnamed(folders.input.join(name));
    let upload = read(Parts::new(Body::new(body), boundary, SHAPE), &unnamed.0, most).await?;
    let folders = folders.clone();
    blocking(move || place(&folders, &unnamed.0, upload)).await
}

/// A file that comes. It goes away where it gets no name, also when its client does.
struct Unnamed(PathBuf);

impl Drop for Unnamed {
    fn drop(&mut self) {
        // It has a name of its own by now, or is no more.
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn read(mut parts: Parts, path: &Path, most: usize) -> Result<Upload, JobError> {
    let (mut upload, mut judge) = (Upload::default(), Judge::default());
    while let Some(mut field) = parts.next().await? {
        let name = field.name().unwrap_or_default().to_owned();
        let Some(file_name) = file_name(&field) else {
            let text = parts.text(field, &name).await?;
            judge.take(&name, &text)?;
            match name.as_str() {
                "subfolder" => upload.subfolder = text,
                "overwrite" => upload.overwrites = matches!(text.as_str(), "true" | "1"),
                "type" if !matches!(text.as_str(), "" | "input") => {
                    return Err(JobError::invalid("A front takes uploads for `input` alone").at("type"));
                }
                _ => {}
            }
            continue;
        };
        if name != "image" || upload.name.is_some() {
            let what = format!("The form has a file `{}`", echo::cut(&name));
            return Err(JobError::invalid(what).hint(SHAPE));
        }
        Judge::check_name(&file_name)?;
        let mut file = tokio::fs::File::create(path).await.map_err(|error| unwritten(&error))?;
        let mut length = 0;
        while let Some(piece) = parts.piece(&mut field).await? {
            length += piece.len();
            if length > most {
                let error = JobError::new(ErrorKind::TooLarge, format!("The file has more than {most} bytes"));
                return Err(error.hint("MAX_BODY_BYTES allows more."));
            }
            file.write_all(&piece).await.map_err(|error| unwritten(&error))?;
        }
        file.flush().await.map_err(|error| unwritten(&error))?;
        upload.name = Some(file_name);
    }
    Ok(upload)
}

fn unwritten(error: &std::io::Error) -> JobError {
    JobError::internal(format!("The file cannot be written: {error}")).hint("Free some space in DATA_DIR.")
}

/// Gives the file its name: the one that it came with, or as ComfyUI makes one where another file has that. Blocks.
fn place(folders: &Folders, unnamed: &Path, upload: Upload) -> Result<(String, String), JobError> {
    let wanted = upload
        .name
        .ok_or_else(|| JobError::invalid("The form has no `image`").hint(SHAPE))?;
    let outside = || JobError::invalid("The names lead out of the input folder").at("subfolder");
    let (subfolder, name) = folders
        .plain_names(OutputFolder::Input, &upload.subfolder, &wanted)
        .ok_or_else(outside)?;
    let path = |name: &str| folders.path(OutputFolder::Input, &subfolder, name).ok_or_else(outside);
    let first = path(&name)?;
    if let Some(folder) = first.parent() {
        std::fs::create_dir_all(folder).map_err(|error| unwritten(&error))?;
    }
    let (stem, ending) = match name.rsplit_once('.') {
        Some((stem, ending)) => (stem.to_owned(), format!(".{ending}")),
        None => (name.clone(), String::new()),
    };
    let names =
        std::iter::once(name.clone()).chain((1..MOST_NUMBERS).map(|number| format!("{stem} ({number}){ending}")));
    for name in names {
        let to: PathBuf = path(&name)?;
        if upload.overwrites {
            std::fs::rename(unnamed, &to).map_err(|error| unwritten(&error))?;
            return Ok((name, subfolder));
        }
        // Of two at the same moment one gets the name.
        match std::fs::hard_link(unnamed, &to) {
            Ok(()) => return Ok((name, subfolder)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(unwritten(&error)),
        }
        if is_same(unnamed, &to) {
            return Ok((name, subfolder));
        }
    }
    Err(JobError::new(ErrorKind::Conflict, "Too many files have this name"))
}

fn is_same(one: &Path, other: &Path) -> bool {
    let length = |path: &Path| std::fs::metadata(path).map(|facts| facts.len()).ok();
    let read = |path: &Path| std::fs::read(path).ok();
    length(one).is_some() && length(one) == length(other) && read(one) == read(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_gets_a_number_as_at_comfyui() {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders {
            input: root.path().join("input"),
            ..Folders::default()
        };
        std::fs::create_dir_all(&folders.input).unwrap();
        let put = |content: &str, subfolder: &str, overwrites| {
            let unnamed = Unnamed(folders.input.join(".upload"));
            std::fs::write(&unnamed.0, content).unwrap();
            let upload = Upload {
                name: Some("a.png".to_owned()),
                subfolder: subfolder.to_owned(),
                overwrites,
            };
            place(&folders, &unnamed.0, upload).map(|(name, subfolder)| format!("{subfolder}/{name}"))
        };
        assert_eq!(put("one", "", false).unwrap(), "/a.png");
        assert_eq!(put("one", "", false).unwrap(), "/a.png");
        assert_eq!(put("two", "", false).unwrap(), "/a (1).png");
        assert_eq!(put("three", "", true).unwrap(), "/a.png");
        assert_eq!(put("four", "b/c", false).unwrap(), "b/c/a.png");
        assert!(put("five", "../..", false).is_err());
        assert_eq!(std::fs::read(folders.input.join("a.png")).unwrap(), b"three");
        assert!(!folders.input.join(".upload").exists());
    }
}
