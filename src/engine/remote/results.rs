//! What a worker answers, in the form of worker-comfyui 5 and what ours has more: its files are fetched.

use base64::Engine as _;
use bytes::Bytes;
use memchr::memchr;
use reqwest::Method;
use serde_json::Value;
use url::Url;

use super::Web;
use super::output::{Output, Text};
use crate::disk::apart;
use crate::display::{error_chain, redacted};
use crate::echo::cut;
use crate::encoding::{LENIENT, STANDARD};
use crate::error::{ErrorKind, JobError};
use crate::executor::elsewhere::{Failed, Made, MadeFile};
use crate::job::OutputText;
use crate::net::guard::{ReadError, Refused, read_limited};
use crate::net::retry::RetryPolicy;

/// The most bytes of a file that is fetched. It is held in memory.
const LARGEST_FILE: usize = 200 * 1024 * 1024;
/// The most bytes of one job's files together.
const MOST_BYTES: usize = 2 * LARGEST_FILE;
/// The most files of one job.
const MOST_FILES: usize = 1_000;

impl Web {
    /// What the output of a completed job holds.
    pub(super) async fn made(&self, mut answer: Output, job: &str) -> Result<Made, Failed> {
        let mut output = answer.value.take();
        let mut taken = |field: &str| match output.get_mut(field).map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        let (files, images) = (taken("files"), taken("images"));
        let list = |field: &str| {
            output
                .get(field)
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice)
        };
        let texts = list("texts").iter().filter_map(|entry| {
            Some(OutputText {
                node_id: text(entry, "node_id")?,
                text: answer.text(text(entry, "text")?).into_string(),
            })
        });
        let told = ["warnings", "errors"]
            .into_iter()
            .flat_map(list)
            .filter_map(Value::as_str);
        let mut made = Made {
            files: Vec::new(),
            texts: texts.collect(),
            warnings: told.map(str::to_owned).collect(),
            seed: output.get("seed").and_then(Value::as_u64),
            ..Made::default()
        };
        // Its list of files names each node; a picture's content stands among the images.
        let node_of = |image: &Value| {
            let same = |file: &&Value| {
                file.get("filename") == image.get("filename") && file.get("subfolder") == image.get("subfolder")
            };
            files.iter().find(same).and_then(|file| text(file, "node_id"))
        };
        let nodes: Vec<_> = images.iter().map(node_of).collect();
        let others = files
            .into_iter()
            .filter(|file| file.get("kind").and_then(Value::as_str) != Some("image"));
        let others = others.map(|file| {
            let node_id = text(&file, "node_id");
            (file, node_id)
        });
        let all: Vec<(Value, Option<String>)> = images.into_iter().zip(nodes).chain(others).collect();
        if all.len() > MOST_FILES {
            let message = format!(
                "engine `{}` made {} files for the job {job}; the limit is {MOST_FILES}",
                self.spec().name,
                all.len()
            );
            return Err(JobError::new(ErrorKind::Undeliverable, message).into());
        }
        let mut bytes = 0;
        for (mut file, node_id) in all {
            let (content, base64) = self.content(&answer, &mut file, job).await?;
            bytes += content.len();
            if bytes > MOST_BYTES {
                let what = format!("has more than {MOST_BYTES} bytes");
                return Err(self.undeliverable(job, &what).into());
            }
            made.files.push(MadeFile {
                node_id,
                filename: text(&file, "filename").unwrap_or_default(),
                subfolder: text(&file, "subfolder").unwrap_or_default(),
                content,
                base64,
            });
        }
        if made.files.is_empty() && made.texts.is_empty() {
            // RunPod's public endpoints name one address.
            let address = ["image_url", "result"]
                .into_iter()
                .find_map(|field| text(&output, field));
            if let Some(address) = address {
                made.files = self.pictures_at(vec![answer.text(address)], "image", job).await?;
            } else if !output.is_object() {
                return Err(self.undeliverable(job, "is no object with images").into());
            }
        }
        Ok(made)
    }

    /// The pictures at these places, each an address, base64 or a data URI. Their names begin with `prefix`.
    pub(super) async fn pictures_at(
        &self,
        places: Vec<impl Into<Text>>,
        prefix: &str,
        job: &str,
    ) -> Result<Vec<MadeFile>, JobError> {
        if places.len() > MOST_FILES {
            return Err(self.undeliverable(
                job,
                &format!("has {} pictures; the limit is {MOST_FILES}", places.len()),
            ));
        }
        let (subfolder, stem) = prefix.rsplit_once('/').unwrap_or(("", prefix));
        let (mut files, mut bytes) = (Vec::with_capacity(places.len()), 0);
        for place in places {
            let (content, base64) = self.content_of(place.into(), job).await?;
            bytes += content.len();
            if bytes > MOST_BYTES {
                return Err(self.undeliverable(job, &format!("has more than {MOST_BYTES} bytes")));
            }
            files.push(MadeFile {
                node_id: None,
                filename: named(&content, stem),
                subfolder: subfolder.to_owned(),
                content,
                base64,
            });
        }
        Ok(files)
    }

    async fn content(&self, answer: &Output, file: &mut Value, job: &str) -> Result<(Bytes, Option<Bytes>), JobError> {
        if let Some(Value::String(data)) = file.get_mut("data").map(Value::take) {
            return self.content_of(answer.text(data), job).await;
        }
        let name = cut(&text(file, "filename").unwrap_or_default());
        let error = self.undeliverable(job, &format!("names the file `{name}` and does not hold it"));
        Err(error.hint("Set RETURN_IMAGES_AS=base64, or a bucket, at the worker behind the engine."))
    }

    /// The content of what is base64, a data URI or an address; and the base64 itself, where it came just as it would be written.
    async fn content_of(&self, data: Text, job: &str) -> Result<(Bytes, Option<Bytes>), JobError> {
        let is_address = |bytes: &[u8]| bytes.starts_with(b"http://") || bytes.starts_with(b"https://");
        if is_address(data.as_bytes()) {
            return Ok((self.fetched(&data.into_string(), job).await?, None));
        }
        let decoded = apart(data.as_bytes().len(), move || decoded(&data)).await;
        decoded.ok_or_else(|| self.undeliverable(job, "holds a file that is no base64"))
    }

    /// Fetches a file. The engine's own host is where its list says; any other address is a stranger's.
    async fn fetched(&self, address: &str, job: &str) -> Result<Bytes, JobError> {
        let url: Url = address
            .parse()
            .map_err(|_| self.undeliverable(job, "names a file at no address"))?;
        let is_its_own = url.origin() == self.spec().url.origin();
        let mut waits = RetryPolicy::BRIEF.delays();
        loop {
            let request = if is_its_own {
                Ok(self.authorized(self.http.get(url.clone())))
            } else {
                self.guarded.request(Method::GET, &url)
            };
            let request = request.map_err(|refused| self.unfetched(job, &url, &refused.to_string()))?;
            let (why, may_pass) = match request.timeout(self.spec().timeout).send().await {
                Ok(response) if response.status().is_success() => match read_limited(response, LARGEST_FILE).await {
                    Ok(content) => return Ok(content),
                    Err(error @ ReadError::TooLarge { .. }) => (error.to_string(), false),
                    Err(error) => (error_chain(&error), true),
                },
                Ok(response) => {
                    let status = response.status();
                    (
                        format!("its server answers {status}"),
                        status.is_server_error() || status == 429,
                    )
                }
                Err(error) => match Refused::within(&error) {
                    Some(refused) => (refused.to_string(), false),
                    None => (error_chain(&error.without_url()), true),
                },
            };
            if !may_pass || !waits.wait().await {
                return Err(self.unfetched(job, &url, &why));
            }
        }
    }

    fn unfetched(&self, job: &str, url: &Url, why: &str) -> JobError {
        self.undeliverable(job, &format!("is at {}, which cannot be fetched: {why}", redacted(url)))
    }

    /// A result that cannot be had. It was made, and paid for: no other engine is asked.
    pub(super) fn undeliverable(&self, job: &str, what: &str) -> JobError {
        let message = format!("the result of engine `{}` for the job {job} {what}", self.spec().name);
        JobError::new(ErrorKind::Undeliverable, message)
    }
}

/// What is base64, or a data URI.
fn decoded(data: &Text) -> Option<(Bytes, Option<Bytes>)> {
    let whole = data.as_bytes();
    let begin = if whole.starts_with(b"data:") {
        memchr(b',', whole).map_or(whole.len(), |comma| comma + 1)
    } else {
        0
    };
    let encoded = &whole[begin..];
    if let Text::Long(bytes) = data
        && let Ok(content) = STANDARD.decode(encoded)
    {
        return Some((content.into(), Some(bytes.slice(begin..))));
    }
    let end = encoded.trim_ascii_end();
    let end = end.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    Some((LENIENT.decode(&encoded[..end]).ok()?.into(), None))
}

/// A name for a picture that has none, by what is in it.
fn named(content: &[u8], stem: &str) -> String {
    let media_type = crate::job::ImageHeader::read(content).map(|header| header.media_type);
    let ending = match media_type {
        Ok("image/jpeg") => "jpg",
        Ok("image/webp") => "webp",
        Ok("image/gif") => "gif",
        _ => "png",
    };
    format!("{stem}.{ending}")
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field)?.as_str().map(str::to_owned)
}
