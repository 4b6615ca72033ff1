//! Forms with files (RFC 7578), read as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::{Stream, poll_fn};
use multer::{Field, Multipart};
use percent_encoding::percent_decode_str;

use super::body;
use crate::echo;
use crate::error::{ErrorKind, JobError};

/// The longest text of a field, in bytes.
pub(super) const LONGEST_TEXT: usize = 64 * 1024;
/// How much of a body the reader of forms is given at once, in bytes.
const PIECE: usize = 32 * 1024;
/// The most that it may take without making anything of it, in bytes: the head of a field, or what stands before the first. It
/// keeps all of that, and looks through it anew for each piece that comes.
pub(super) const MOST_UNREAD: usize = 2 * PIECE;

/// A body as it comes, a little at a time; fails where more of it is taken than [`MOST_UNREAD`] and nothing made of it.
fn counted(body: Body, taken: Arc<AtomicUsize>, shape: &'static str) -> impl Stream<Item = Result<Bytes, JobError>> {
    let mut coming = Box::pin(body::coming(body));
    let mut rest = Bytes::new();
    let mut given = 0;
    poll_fn(move |context| {
        // The reader takes all that is there before it makes something of it, unless it has to wait.
        if given >= PIECE {
            given = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if rest.is_empty() {
            match ready!(coming.as_mut().poll_next(context)) {
                Some(Ok(piece)) => rest = piece,
                end => return Poll::Ready(end),
            }
        }
        let piece = rest.split_to(rest.len().min(PIECE - given));
        given += piece.len();
        if taken.fetch_add(piece.len(), Ordering::Relaxed) + piece.len() > MOST_UNREAD {
            let what = format!("The form has more than {MOST_UNREAD} bytes before the content of a field");
            let error = JobError::new(ErrorKind::TooLarge, what).hint(shape);
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(Some(Ok(piece)))
    })
}

/// The name of a field's file, also where it is written as RFC 5987 has it; [`None`]: the field is a text, as it is to ComfyUI
/// where the name is empty. What ComfyUI's server takes off its begin is off.
pub(super) fn file_name(field: &Field<'_>) -> Option<String> {
    let name = match field.file_name() {
        Some(name) => name.to_owned(),
        None => coded_file_name(field)?,
    };
    let name = name.trim_start_matches(['/', '\\']);
    (!name.is_empty()).then(|| name.to_owned())
}

fn coded_file_name(field: &Field<'_>) -> Option<String> {
    let disposition = field.headers().get("content-disposition")?.to_str().ok()?;
    let (_, name) = disposition.split_once("filename*=")?;
    let name = name.split(';').next().unwrap_or_default().trim();
    let (_, name) = name.split_once("''")?;
    Some(percent_decode_str(name).decode_utf8_lossy().into_owned())
}

/// A form that is read part by part, as it comes.
pub(super) struct Parts {
    fields: Multipart<'static>,
    /// How many bytes the reader of the form has taken since it last gave something.
    taken: Arc<AtomicUsize>,
    /// What it should look like, for who sends another.
    shape: &'static str,
}

impl Parts {
    /// The form in a body, whose parts this boundary divides.
    pub(super) fn new(body: Body, boundary: String, shape: &'static str) -> Self {
        let taken = Arc::default();
        let fields = Multipart::new(counted(body, Arc::clone(&taken), shape), boundary);
        Self { fields, taken, shape }
    }

    /// The next part; [`None`] after the last. The one before must be over.
    pub(super) async fn next(&mut self) -> Result<Option<Field<'static>>, JobError> {
        self.gave();
        let field = self.fields.next_field().await;
        field.map_err(|error| unreadable(error, self.shape))
    }

    /// The next piece of a part; [`None`] after its end.
    pub(super) async fn piece(&self, field: &mut Field<'static>) -> Result<Option<Bytes>, JobError> {
        self.gave();
        field.chunk().await.map_err(|error| unreadable(error, self.shape))
    }

    /// A part that is a text, as far as it is not too long.
    pub(super) async fn text(&self, mut field: Field<'static>, name: &str) -> Result<String, JobError> {
        let mut text = Vec::new();
        while let Some(piece) = self.piece(&mut field).await? {
            if text.len() + piece.len() > LONGEST_TEXT {
                let what = format!("The field `{}` is longer than {LONGEST_TEXT} bytes", echo::cut(name));
                return Err(JobError::new(ErrorKind::TooLarge, what).hint("A file needs a file name."));
            }
            text.extend_from_slice(&piece);
        }
        String::from_utf8(text).map_err(|_| {
            let what = format!("The field `{}` is no UTF-8", echo::cut(name));
            JobError::invalid(what).hint("A file needs a file name.")
        })
    }

    /// The reader has given what it took.
    fn gave(&self) {
        self.taken.store(0, Ordering::Relaxed);
    }
}

/// What is wrong with a form.
fn unreadable(error: multer::Error, shape: &'static str) -> JobError {
    match error {
        multer::Error::StreamReadFailed(error) => match error.downcast::<JobError>() {
            Ok(error) => *error,
            Err(error) => JobError::invalid(format!("The request body broke off: {error}")).hint("Send it again."),
        },
        error => JobError::invalid(format!("The form cannot be read: {error}")).hint(shape),
    }
}
