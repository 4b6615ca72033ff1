//! What travels: the message of a job, how far it is, and what it made.

use std::time::Duration;

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use super::VERSION;
use crate::encoding::STANDARD;
use crate::job::Outcome;
use crate::job::progress::{Progress, Report};

/// The most bytes of a preview that is told.
const LARGEST_PREVIEW: usize = 400_000;

/// Something that is large, perhaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parcel {
    /// It is here.
    Here(String),
    /// It is in the object store, under this name.
    Object(String),
}

/// A job, as it is handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// [`VERSION`] of who wrote it.
    pub version: u32,
    /// The job's id, which is the key of its entry.
    pub job: String,
    /// The round of the entry that it belongs to.
    pub round: u32,
    /// The longest that its execution may take.
    pub timeout_ms: u64,
    /// The request, as [`crate::job::payload`] writes it.
    pub request: Parcel,
    /// The span of a trace that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Why a message cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is none of ours.
    #[error("it is no message of a job: {0}")]
    Strange(String),
    /// It is of another version.
    #[error(
        "it has version {version}, and this worker reads version {VERSION}; run the same release on fronts and workers"
    )]
    Version {
        /// That version.
        version: u32,
        /// The job's id, where it tells.
        job: Option<String>,
    },
}

/// What every version has.
#[derive(Deserialize)]
struct Any {
    version: u32,
    job: Option<String>,
}

impl Message {
    /// Reads one.
    pub fn read(text: &[u8]) -> Result<Self, Unreadable> {
        let strange = |error: serde_json::Error| Unreadable::Strange(error.to_string());
        let Any { version, job } = serde_json::from_slice(text).map_err(strange)?;
        if version != VERSION {
            return Err(Unreadable::Version { version, job });
        }
        serde_json::from_slice(text).map_err(strange)
    }

    /// The longest that its execution may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// By what the broker knows the message, so that it is there once however often it is sent.
    pub fn id(&self) -> String {
        format!("{}.{}", self.job, self.round)
    }
}

/// What a worker tells while it has a job. It may be lost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct News {
    /// The entry has changed: look at it.
    pub has_changed: bool,
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// Steps done, and all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<(u32, u32)>,
    /// The node at work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Its class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_type: Option<String>,
    /// The time left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// A preview: its media type, and the picture in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview: Option<(String, String)>,
}

impl News {
    /// Of a job that is so far; `shown` is the number of the last preview that was told.
    pub fn of(progress: &Progress, shown: u32) -> Self {
        let preview = progress.preview.as_ref().filter(|preview| preview.number > shown);
        // A larger one than the broker takes in a message is not worth another way.
        let preview = preview.filter(|preview| preview.image.len() <= LARGEST_PREVIEW);
        Self {
            has_changed: false,
            percent: Some(progress.percent),
            step: progress.step,
            node_id: progress.node_id.clone(),
            class_type: progress.class_type.clone(),
            eta_ms: progress.eta.and_then(|eta| u64::try_from(eta.as_millis()).ok()),
            preview: preview.map(|preview| (preview.media_type.clone(), STANDARD.encode(&preview.image))),
        }
    }

    /// As an engine tells it.
    pub fn report(self) -> Report {
        Report {
            percent: self.percent,
            step: self.step,
            node_id: self.node_id,
            class_type: self.class_type,
            eta: self.eta_ms.map(Duration::from_millis),
            preview: self
                .preview
                .and_then(|(media_type, data)| Some((media_type, STANDARD.decode(data).ok()?.into()))),
        }
    }
}

/// What a job made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// What its worker says of it.
    pub outcome: Outcome,
    /// The content of each file of [`Outcome::wanted`], in their order.
    pub files: Vec<MadeObject>,
}

/// A file in the object store, which knows the SHA-256 of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeObject {
    /// Its name there.
    pub object: String,
    /// Its length.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::job::progress::PreviewImage;

    #[test]
    fn a_message_is_read_back_and_one_of_another_version_is_refused_with_both() {
        let message = Message {
            version: VERSION,
            job: "0199".to_owned(),
            round: 2,
            timeout_ms: 60_000,
            request: Parcel::Here("{}".to_owned()),
            traceparent: None,
        };
        let text = serde_json::to_vec(&message).unwrap();
        assert_eq!(Message::read(&text).unwrap(), message);
        assert_eq!(message.id(), "0199.2");
        let other = Message::read(br#"{"version": 7, "job": "0199", "graph": {}}"#).unwrap_err();
        let job = Some("0199".to_owned());
        assert_eq!(other, Unreadable::Version { version: 7, job });
        let told = other.to_string();
        assert!(told.contains("version 7") && told.contains("version 1"), "{told}");
        for strange in ["", "hello", "{}", "[]", r#"{"version": 1}"#] {
            let read = Message::read(strange.as_bytes());
            assert!(matches!(read, Err(Unreadable::Strange(_))), "{strange}");
        }
    }

    #[test]
    fn news_are_those_of_the_job() {
        let progress = Progress {
            percent: 40,
            step: Some((2, 8)),
            node_id: Some("3".to_owned()),
            eta: Some(Duration::from_millis(1500)),
            preview: Some(Arc::new(PreviewImage {
                number: 3,
                media_type: "image/png".to_owned(),
                image: Bytes::from_static(b"picture"),
            })),
            ..Progress::default()
        };
        assert_eq!(News::of(&progress, 3).preview, None);
        let text = serde_json::to_vec(&News::of(&progress, 2)).unwrap();
        let news: News = serde_json::from_slice(&text).unwrap();
        let report = news.report();
        assert_eq!((report.percent, report.step), (Some(40), Some((2, 8))));
        assert_eq!(report.eta, progress.eta);
        assert_eq!(
            report.preview.unwrap(),
            ("image/png".to_owned(), Bytes::from_static(b"picture"))
        );
        assert!(!serde_json::from_slice::<News>(b"{}").unwrap().has_changed);
    }
}
