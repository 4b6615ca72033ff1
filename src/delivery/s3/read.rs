//! One object on its way from a bucket.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectError;
use bytes::{Bytes, BytesMut};

use super::error::BucketError;
use super::send::Sender;
use crate::display::error_chain;

impl Sender<'_> {
    /// Reads one object; [`None`]: it has more than `limit` bytes. The caller limits the time.
    pub(super) async fn get(&self, key: &str, limit: usize) -> Result<Option<Bytes>, BucketError> {
        let request = self.client.get_object().bucket(&self.place.bucket).key(key);
        let object = request.send().await.map_err(|error| self.unread(key, &error))?;
        let fits = |length: i64| usize::try_from(length).is_ok_and(|length| length <= limit);
        if object.content_length.is_some_and(|length| !fits(length)) {
            return Ok(None);
        }
        let mut body = object.body;
        let mut whole = BytesMut::new();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| BucketError::Unreachable {
                place: self.place.clone(),
                reason: format!("the object broke off: {}", error_chain(&error)),
            })?;
            if whole.len() + piece.len() > limit {
                return Ok(None);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole.freeze()))
    }

    fn unread(&self, key: &str, error: &SdkError<GetObjectError, HttpResponse>) -> BucketError {
        if let SdkError::ServiceError(answer) = error
            && (answer.err().is_no_such_key() || answer.err().code() == Some("NoSuchKey"))
        {
            return BucketError::NoObject {
                place: self.place.clone(),
                key: key.to_owned(),
            };
        }
        BucketError::of(error, &self.place)
    }
}
