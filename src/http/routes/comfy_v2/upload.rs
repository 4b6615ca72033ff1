//! `POST /api/v2/assets`: a form whose file goes to the disk as it comes. Its parts come in any order.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use multer::Field;

use super::Told;
use super::assets::{body_of, idempotency_key, judge_path, judge_weights, new_asset, owner};
use crate::assets::{Upload, Uploaded};
use crate::dialect::comfy_v2::assets::{self, BYTES, Said};
use crate::dialect::comfy_v2::{Code, Refusal};
use crate::error::{ErrorKind, JobError};
use crate::http::multipart::{Parts, file_name};
use crate::http::state::State;

/// What an upload is.
const SHAPE: &str = "Send multipart/form-data with the bytes in `file`, and with `content_type` and `file_path`.";
/// The field of the bytes.
const FILE: &str = "file";
/// The longest that all texts of a form may be, in bytes, with some for each.
const LONGEST_TEXTS: usize = 128 * 1024;
/// What each costs beside itself.
const PER_TEXT: usize = 256;

/// Takes an upload in.
pub(super) async fn upload(Shared(state): Shared<Arc<State>>, request: Request) -> Told {
    let (parts, body) = request.into_parts();
    let base = state.origin(&parts.headers)?;
    let owner = owner(&parts.extensions);
    let key = idempotency_key(&parts.headers)?;
    if let Some(key) = &key
        && state.assets.key_used(&owner, key).await?
    {
        return Err(assets::key_reused().into());
    }
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let Ok(boundary) = multer::parse_boundary(header(CONTENT_TYPE).unwrap_or_default()) else {
        return Err(JobError::invalid("The body is no form").hint(SHAPE).into());
    };
    let announced = header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let upload = state.assets.begin(announced).await?;
    let mut form = Form::new(body, boundary);
    let File { uploaded, own_type } = form.read(&state, upload).await?;
    let said = form.said;
    let received = uploaded.received();
    if let Some(expected) = said.expected_hash.filter(|expected| *expected != received.hash) {
        let message = format!(
            "The bytes have the hash {}, not {expected}; nothing is kept",
            received.hash
        );
        return Err(Refusal::new(Code::HashMismatch, message).into());
    }
    if let Some(path) = &said.file_path {
        judge_weights(path, &received.head)?;
    }
    let own_type = own_type.unwrap_or_else(|| BYTES.to_owned());
    let new = new_asset(owner, said, Some(own_type));
    let (asset, is_new) = state.assets.mint(new, uploaded, key).await?;
    Ok(body_of(&state, &base, &asset).made(is_new))
}

/// A form that is read as it comes.
struct Form {
    parts: Parts,
    said: Said,
    /// What its texts have cost so far, in bytes.
    texts: usize,
}

/// The file of a form.
struct File {
    uploaded: Uploaded,
    /// The media type that its part has.
    own_type: Option<String>,
}

impl Form {
    fn new(body: Body, boundary: String) -> Self {
        Self {
            parts: Parts::new(body, boundary, SHAPE),
            said: Said::default(),
            texts: 0,
        }
    }

    /// Reads it to its end.
    async fn read(&mut self, state: &State, upload: Upload) -> Told<File> {
        let (mut upload, mut file, mut its_name) = (Some(upload), None, None);
        while let Some(field) = self.parts.next().await? {
            let name = field.name().unwrap_or_default().to_owned();
            let named_file = file_name(&field);
            if name == FILE {
                let Some(upload) = upload.take() else {
                    return Err(JobError::invalid("The form has more than one field `file`")
                        .hint("Send each file by a request of its own.")
                        .into());
                };
                its_name = named_file;
                file = Some(self.take(field, upload).await?);
            } else if named_file.is_some() {
                let what = format!("The form has a file in the field `{}`", crate::echo::cut(&name));
                return Err(JobError::invalid(what).hint(SHAPE).into());
            } else {
                self.hear(field, &name).await?;
                judge_path(state, &self.said)?;
            }
        }
        let Some(file) = file else {
            return Err(JobError::invalid("The form has no field `file`").hint(SHAPE).into());
        };
        self.said.or_file_name(its_name.as_deref().unwrap_or_default())?;
        judge_path(state, &self.said)?;
        Ok(file)
    }

    async fn take(&self, mut field: Field<'static>, mut upload: Upload) -> Told<File> {
        let own_type = field.content_type().map(ToString::to_string);
        // One that is none counts for nothing: the request need not be refused for what its client did not choose.
        let own_type = own_type.and_then(|own_type| assets::media_type(&own_type).ok());
        while let Some(piece) = self.parts.piece(&mut field).await? {
            upload.push(&piece).await?;
        }
        Ok(File {
            uploaded: upload.finish().await?,
            own_type,
        })
    }

    async fn hear(&mut self, field: Field<'static>, name: &str) -> Told<()> {
        let text = self.parts.text(field, name).await?;
        self.texts += text.len() + PER_TEXT;
        if self.texts > LONGEST_TEXTS {
            let what = format!("The texts of the form are longer than {LONGEST_TEXTS} bytes");
            return Err(JobError::new(ErrorKind::TooLarge, what).hint(SHAPE).into());
        }
        Ok(self.said.take(name, &text)?)
    }
}
