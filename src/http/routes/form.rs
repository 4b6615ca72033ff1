//! Forms (`multipart/form-data`) in the bodies of requests.

use std::convert::Infallible;

use axum::http::{HeaderMap, header};
use bytes::Bytes;

use crate::dialect::part::Part;
use crate::error::JobError;

/// The most parts of a form: far more than there are fields.
const MOST_PARTS: usize = 100;

/// What a request says that its body is, where that is a form.
pub(super) fn kind(headers: &HeaderMap) -> Option<&str> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.filter(|kind| kind.trim_start().to_ascii_lowercase().starts_with("multipart/"))
}

/// Takes a form of this [`kind`] apart.
pub(super) async fn parts(kind: &str, bytes: Bytes) -> Result<Vec<Part>, JobError> {
    let wrong = |error: multer::Error| {
        JobError::invalid(format!("The form cannot be read: {error}"))
            .hint("Send multipart/form-data with the boundary in its Content-Type, as `curl -F` does.")
    };
    let boundary = multer::parse_boundary(kind).map_err(wrong)?;
    let whole = futures_util::stream::iter([Ok::<_, Infallible>(bytes)]);
    let mut form = multer::Multipart::new(whole, boundary);
    let mut parts = Vec::new();
    while let Some(field) = form.next_field().await.map_err(wrong)? {
        if parts.len() == MOST_PARTS {
            let error = JobError::invalid(format!("The form has more than {MOST_PARTS} parts"));
            return Err(error.hint("Send the fields that the API names, each picture as one part."));
        }
        let name = field.name().unwrap_or_default().to_owned();
        let is_file = field.file_name().is_some();
        let content = field.bytes().await.map_err(wrong)?;
        parts.push(Part { name, is_file, content });
    }
    Ok(parts)
}
