//! `POST /upload/image` and `/upload/mask`: into ComfyUI's input folder, past what is not theirs.
//!
//! A form is read as it comes and written anew, so that ComfyUI sees exactly the fields that were judged. A field that is
//! refused ends the form in its midst: ComfyUI reads a form to its end before it writes a file.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State as Shared};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{Stream, try_unfold};
use multer::Field;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::timeout;

use super::guard::Destination;
use super::{answered, ask, headers, refusal, upload_here, waiting};
use crate::comfy::{Comfy, Connection};
use crate::display::{error_chain, redacted};
use crate::echo;
use crate::error::{ErrorKind, JobError};
use crate::executor::INPUTS;
use crate::http::multipart::{Parts, file_name};
use crate::http::state::State;

/// What an upload is.
pub(super) const SHAPE: &str = "Send multipart/form-data with the field `image`.";

/// What is written as a code in the name of a file.
const CODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_');

/// Why a form was refused, as its reader tells whoever sends it on.
type Refusal = Arc<Mutex<Option<JobError>>>;

pub(super) async fn upload(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    if Destination::of(request.uri().path()) != Destination::Comfyui {
        let error = JobError::new(ErrorKind::NotFound, "Uploads are for /upload/image and /upload/mask");
        return refusal::answer(&error);
    }
    if state.comfy.is_elsewhere() {
        return upload_here::upload(&state, request).await;
    }
    let Some(connection) = state.comfy.connection_now() else {
        return refusal::answer(&waiting::reason(&state).await);
    };
    let (parts, body) = request.into_parts();
    let given = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let Ok(boundary) = multer::parse_boundary(given.unwrap_or_default()) else {
        let error = JobError::invalid("The body is no form").hint(SHAPE);
        return refusal::answer(&error);
    };
    let refused = Refusal::default();
    let form = Form::new(body, boundary);
    let overwrites = Arc::clone(&form.judge.overwrites);
    let mut headers = headers::onward(&parts.headers);
    headers.remove(CONTENT_LENGTH);
    let media_type = format!("multipart/form-data; boundary={}", form.boundary);
    if let Ok(media_type) = HeaderValue::from_str(&media_type) {
        headers.insert(CONTENT_TYPE, media_type);
    }
    let body = reqwest::Body::wrap_stream(form.pieces(Arc::clone(&refused)));
    let answer = ask(&connection, &parts, headers, Some(body)).await;
    // Whatever ComfyUI makes of half a form.
    if let Some(error) = refused.lock().take() {
        return refusal::answer(&error);
    }
    match answer {
        Ok(answer) if answer.status().is_success() && needs_copies(&state) => {
            copied_to_others(&state, &connection, answer, overwrites.load(Ordering::Relaxed)).await
        }
        Ok(answer) => answered(&connection, answer),
        Err(error) => refusal::answer(&error),
    }
}

/// Whether there are ComfyUIs with input folders of their own, any of which may get the prompt that names the upload.
fn needs_copies(state: &State) -> bool {
    state.comfy.folders().is_none() && state.comfy.are_several()
}

/// Copies what one ComfyUI has taken to the others, under the name that it gave. One that is not there has not got it, and says
/// so when a prompt of it names the file.
async fn copied_to_others(state: &State, taken: &Connection, answer: reqwest::Response, overwrites: bool) -> Response {
    let (parts, body) = axum::http::Response::<reqwest::Body>::from(answer).into_parts();
    let body = match to_bytes(Body::new(body), LONGEST_ANSWER).await {
        Ok(body) => body,
        Err(error) => return refusal::answer(&JobError::internal(format!("ComfyUI's answer broke off: {error}"))),
    };
    let told = serde_json::from_slice(&body).ok();
    if let Some(Taken { name, subfolder, .. }) = told.filter(|taken: &Taken| taken.kind == INPUT) {
        // One that is not there would hold up the answer.
        let others = state
            .comfy
            .all()
            .filter(|comfy| comfy.is_ready())
            .filter_map(Comfy::connection_now);
        let others = others.filter(|other| other.client.base() != taken.client.base());
        let copies = others.map(async |other| {
            let copied = other.client.copy_input(&taken.client, (&name, &subfolder), overwrites);
            let why = match timeout(COPY_TIME, copied).await {
                Ok(Ok(as_named)) if as_named => return,
                Ok(Ok(_)) => "it has another file of that name".to_owned(),
                Ok(Err(error)) => error_chain(&error),
                Err(_) => format!("it took longer than {} s", COPY_TIME.as_secs()),
            };
            let base = redacted(other.client.base());
            tracing::warn!("an upload is not at the ComfyUI at {base}: {why}");
        });
        join_all(copies).await;
    }
    let answer = axum::http::Response::from_parts(parts, reqwest::Body::from(body));
    answered(taken, answer.into())
}

/// The folder of inputs, as ComfyUI calls it.
const INPUT: &str = "input";

/// The longest that a copy may take: the client waits for it.
const COPY_TIME: Duration = Duration::from_secs(30);

/// The most bytes of an answer to an upload.
const LONGEST_ANSWER: usize = 64 * 1024;

/// What ComfyUI answers.
#[derive(serde::Deserialize)]
struct Taken {
    name: String,
    #[serde(default)]
    subfolder: String,
    #[serde(rename = "type")]
    kind: String,
}

/// A form that is read, judged, and written anew.
struct Form {
    parts: Parts,
    boundary: String,
    /// The file whose content comes.
    file: Option<Field<'static>>,
    judge: Judge,
    is_over: bool,
}

impl Form {
    fn new(body: Body, boundary: String) -> Self {
        Self {
            parts: Parts::new(body, boundary, SHAPE),
            boundary: format!("form-{}", uuid::Uuid::new_v4().simple()),
            file: None,
            judge: Judge::default(),
            is_over: false,
        }
    }

    fn pieces(self, refused: Refusal) -> impl Stream<Item = Result<Bytes, JobError>> {
        try_unfold(self, move |mut form| {
            let refused = Arc::clone(&refused);
            async move {
                match form.next().await {
                    Ok(piece) => Ok(piece.map(|piece| (piece, form))),
                    Err(error) => {
                        *refused.lock() = Some(error.clone());
                        Err(error)
                    }
                }
            }
        })
    }

    /// The next piece of the form; [`None`] after its end.
    async fn next(&mut self) -> Result<Option<Bytes>, JobError> {
        if let Some(file) = &mut self.file {
            let piece = self.parts.piece(file).await?;
            if piece.is_none() {
                self.file = None;
            }
            return Ok(Some(piece.unwrap_or_else(|| Bytes::from_static(b"\r\n"))));
        }
        if self.is_over {
            return Ok(None);
        }
        let Some(field) = self.parts.next().await? else {
            self.is_over = true;
            return Ok(Some(format!("--{}--\r\n", self.boundary).into()));
        };
        let name = field.name().unwrap_or_default().to_owned();
        if !is_plain(&name) {
            let error = JobError::invalid(format!("The form has a field `{}`", echo::cut(&name)));
            return Err(error.hint("ComfyUI knows image, subfolder, type, overwrite and original_ref."));
        }
        let mut head = format!("--{}\r\ncontent-disposition: form-data; name=\"{name}\"", self.boundary);
        let encoding = field.headers().get("content-transfer-encoding");
        if encoding.is_some_and(|encoding| !matches!(encoding.as_bytes(), b"binary" | b"8bit" | b"7bit")) {
            let what = format!("The field `{}` has a Content-Transfer-Encoding", echo::cut(&name));
            return Err(JobError::invalid(what).hint("Send its bytes as they are."));
        }
        let Some(file_name) = file_name(&field) else {
            let text = self.parts.text(field, &name).await?;
            self.judge.take(&name, &text)?;
            return Ok(Some(format!("{head}\r\n\r\n{text}\r\n").into()));
        };
        Judge::check_name(&file_name)?;
        // The one form of a name that all read alike (RFC 5987): in quotes, ComfyUI's server takes some characters out.
        let coded = utf8_percent_encode(&file_name, CODED);
        let _ = write!(head, "; filename*=utf-8''{coded}");
        if let Some(media_type) = field.content_type() {
            let _ = write!(head, "\r\ncontent-type: {}", media_type.essence_str());
        }
        head.push_str("\r\n\r\n");
        self.file = Some(field);
        Ok(Some(head.into()))
    }
}

/// Whether a field's name is read alike by all. ComfyUI's server takes some characters out of others, and has `_charset_` say
/// how all texts are to be read.
fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    !name.is_empty() && name.bytes().all(is_plain) && name != "_charset_"
}

/// Knows what an upload may not do. Fields come in any order.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// Whether it leads to the files that jobs make.
    to_results: bool,
    overwrites: Arc<AtomicBool>,
}

impl Judge {
    pub(super) fn take(&mut self, name: &str, value: &str) -> Result<(), JobError> {
        match name {
            "subfolder" => Self::check_name(value)?,
            "type" => self.to_results |= matches!(value, "output" | "temp"),
            // As ComfyUI reads it, and as newer ones may.
            "overwrite" if !matches!(value, "" | "0" | "false") => self.overwrites.store(true, Ordering::Relaxed),
            _ => {}
        }
        if self.to_results && self.overwrites.load(Ordering::Relaxed) {
            let error = JobError::invalid("An upload may not overwrite what jobs made (`type` output or temp)");
            return Err(error
                .at("overwrite")
                .hint("Leave out `overwrite`, or upload to `input`."));
        }
        Ok(())
    }

    /// Judges a path below ComfyUI's folders: one that leads in and out counts too, as ComfyUI resolves it.
    pub(super) fn check_name(path: &str) -> Result<(), JobError> {
        let mut parts = path.split(['/', '\\']);
        if parts.any(|part| part.eq_ignore_ascii_case(INPUTS)) {
            let error = JobError::invalid(format!("The folder `{INPUTS}` is for the inputs of jobs"));
            return Err(error.at("subfolder").hint("Use another `subfolder`."));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use futures_util::StreamExt as _;

    use super::*;
    use crate::http::multipart::{LONGEST_TEXT, MOST_UNREAD};

    async fn written(body: impl Into<Body>) -> Result<String, JobError> {
        let refused = Refusal::default();
        let mut form = Form::new(body.into(), "b".to_owned());
        form.boundary = "c".to_owned();
        let pieces = Body::from_stream(form.pieces(Arc::clone(&refused)));
        match to_bytes(pieces, usize::MAX).await {
            Ok(bytes) => Ok(String::from_utf8(bytes.to_vec()).unwrap()),
            Err(_) => Err(refused.lock().take().unwrap()),
        }
    }

    #[tokio::test]
    async fn a_form_is_written_anew() {
        let form = "preamble\r\n--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a\\\"ö.png\"\r\nContent-Type: image/png; x=y\r\n\r\n\u{1}\r\n--x\r\n--b\r\nContent-Disposition: form-data; name=\"type\"\r\nContent-Type: text/plain; charset=utf-16\r\n\r\ninput\r\n--b\r\nContent-Disposition: form-data; name=\"image\"; filename*=utf-8''%C3%B6.png\r\n\r\nx\r\n--b--\r\nepilogue";
        let wanted = "--c\r\ncontent-disposition: form-data; name=\"image\"; filename*=utf-8''a%22%C3%B6.png\r\ncontent-type: image/png\r\n\r\n\u{1}\r\n--x\r\n--c\r\ncontent-disposition: form-data; name=\"type\"\r\n\r\ninput\r\n--c\r\ncontent-disposition: form-data; name=\"image\"; filename*=utf-8''%C3%B6.png\r\n\r\nx\r\n--c--\r\n";
        assert_eq!(written(form).await.unwrap(), wanted);
    }

    #[tokio::test]
    async fn a_form_that_ends_in_its_midst_or_hides_something_is_refused() {
        for form in [
            "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\nx",
            "--b\r\nContent-Disposition: form-data; name=\"type\"\r\nContent-Transfer-Encoding: base64\r\n\r\nb3V0cHV0\r\n--b--",
            "",
        ] {
            assert_eq!(
                written(form).await.unwrap_err().kind,
                ErrorKind::InvalidRequest,
                "{form}"
            );
        }
    }

    #[tokio::test]
    async fn what_comfyui_would_read_otherwise_than_it_is_judged_is_refused_or_written_plainly() {
        let field = |disposition: &str, text: &str| {
            let form = format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{text}\r\n--b--");
            written(form)
        };
        for name in [
            "/type",
            "over\\write",
            "\\subfolder",
            "_charset_",
            "ty;pe",
            "",
            "type\\\"",
        ] {
            let refused = field(&format!("name=\"{name}\""), "output").await;
            assert_eq!(refused.unwrap_err().kind, ErrorKind::InvalidRequest, "{name}");
        }
        for (name, goes_on_as) in [
            ("qwen\\-image-worker/a.png", "qwen%5C-image-worker%2Fa.png"),
            ("/\\a.png", "a.png"),
            (";filename*=utf-8''b", "%3Bfilename%2A%3Dutf-8%27%27b"),
        ] {
            let form = field(&format!("name=\"image\"; filename=\"{name}\""), "x")
                .await
                .unwrap();
            assert!(form.contains(&format!("; filename*=utf-8''{goes_on_as}\r\n")), "{form}");
        }
        for name in ["qwen-image-worker/a.png", "/\\qwen-image-worker/a.png"] {
            let refused = field(&format!("name=\"image\"; filename=\"{name}\""), "x").await;
            assert!(refused.is_err(), "{name}");
        }
        // A file without a name is a text to ComfyUI.
        for empty in ["", "/"] {
            let hidden = field(&format!("name=\"subfolder\"; filename=\"{empty}\""), INPUTS).await;
            assert!(hidden.is_err(), "{empty}");
        }
    }

    #[tokio::test]
    async fn what_has_no_end_is_given_up() {
        for begin in ["", "--b\r\nContent-Disposition: form-data; name=\"image\"; x=\""] {
            for size in [1024, 1024 * 1024] {
                let piece = Bytes::from(vec![b'x'; size]);
                let pieces =
                    futures_util::stream::repeat_with(move || Ok::<_, std::convert::Infallible>(piece.clone()));
                let begin = futures_util::stream::iter([Ok(Bytes::from(begin))]);
                let refused = written(Body::from_stream(begin.chain(pieces))).await;
                assert_eq!(refused.unwrap_err().kind, ErrorKind::TooLarge);
            }
        }
        let file = "x".repeat(3 * MOST_UNREAD);
        let texts = "x".repeat(LONGEST_TEXT);
        let form = format!(
            "--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\n{file}\r\n--b\r\nContent-Disposition: form-data; name=\"original_ref\"\r\n\r\n{texts}\r\n--b--"
        );
        let form = written(form).await.unwrap();
        assert!(form.contains(&file) && form.contains(&texts));
    }

    fn judged(fields: &[(&str, &str)]) -> Result<(), JobError> {
        let mut judge = Judge::default();
        fields.iter().try_for_each(|(name, value)| judge.take(name, value))
    }

    #[test]
    fn what_jobs_made_and_what_they_need_is_left_alone() {
        for fields in [
            [("type", "output"), ("overwrite", "true")].as_slice(),
            &[("overwrite", "1"), ("type", "temp")],
            &[
                ("type", "input"),
                ("type", "temp"),
                ("overwrite", "0"),
                ("overwrite", "yes"),
            ],
            &[("subfolder", "qwen-image-worker")],
            &[("subfolder", "./Qwen-Image-Worker/x")],
            &[("subfolder", "../input/qwen-image-worker/x")],
            &[("subfolder", "/data/input\\qwen-image-worker")],
        ] {
            assert!(judged(fields).is_err(), "{fields:?}");
        }
        for fields in [
            [("type", "input"), ("overwrite", "true"), ("subfolder", "clipspace")].as_slice(),
            &[("type", "output"), ("overwrite", "false")],
            &[("type", "temp")],
            &[("subfolder", "my-qwen-image-worker")],
        ] {
            assert!(judged(fields).is_ok(), "{fields:?}");
        }
        assert!(Judge::check_name("qwen-image-worker/a.png").is_err());
    }
}
