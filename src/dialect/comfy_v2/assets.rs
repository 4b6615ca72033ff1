//! Assets on the wire: what may be said of one, and how one is told.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;
use utoipa::ToSchema;

use super::refusal::{Code, Refusal};
use super::time::time;
use crate::dialect::answer::Answer;
use crate::dialect::schema::{FORM, JSON, Operation, Schema};
use crate::echo::cut;
use crate::job::ContentHash;

/// The media type of what says nothing of itself.
pub const BYTES: &str = "application/octet-stream";

/// The longest path of an asset, in bytes.
const LONGEST_PATH: usize = 1024;
/// The longest media type, in bytes.
const LONGEST_TYPE: usize = 255;
/// The most tags of an asset.
const MOST_TAGS: usize = 64;
/// The longest tag, in bytes.
const LONGEST_TAG: usize = 256;
/// How long an asset may be kept where its request says so, in seconds.
const LIFETIMES: std::ops::RangeInclusive<u64> = 60..=604_800;
/// The longest key by which a request is known that comes twice, in characters.
const LONGEST_KEY: usize = 255;

/// The longest name of a file in a graph, in bytes: there is room for an id before it.
const LONGEST_NAME: usize = 120;

/// An asset as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Asset)]
pub struct AssetBody {
    /// Its id, a UUID.
    pub id: String,
    /// What is in it: `blake3:` and 64 hexadecimal digits.
    #[schema(required)]
    pub hash: Option<String>,
    /// Its length.
    pub size_bytes: u64,
    /// Its media type.
    pub content_type: String,
    /// What whoever uploaded it calls it.
    #[schema(required)]
    pub file_path: Option<String>,
    /// What else was said of it.
    pub tags: Vec<String>,
    /// Whether nothing of this content was there before. Only where one is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_new: Option<bool>,
    /// When it came.
    #[schema(format = DateTime)]
    pub created_at: String,
    /// Where its content can be fetched without a key.
    #[schema(format = "uri")]
    pub url: String,
    /// Until when.
    #[schema(format = DateTime)]
    pub url_expires_at: String,
    /// Until when it is kept.
    #[schema(format = DateTime)]
    #[schema(required)]
    pub expires_at: Option<String>,
    /// The job that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
}

/// An asset that is to be told.
#[derive(Debug, Clone)]
pub struct Told<'a> {
    /// Its id.
    pub id: &'a str,
    /// What is in it, where that is known.
    pub hash: Option<ContentHash>,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its media type.
    pub content_type: &'a str,
    /// What it is called.
    pub file_path: Option<&'a str>,
    /// What else is said of it.
    pub tags: &'a [String],
    /// When it came.
    pub created: SystemTime,
    /// Until when it is kept.
    pub expires: Option<SystemTime>,
    /// Where its content is, and until when the link works.
    pub link: (Url, SystemTime),
    /// The job that made it.
    pub job: Option<&'a str>,
}

impl From<Told<'_>> for AssetBody {
    fn from(told: Told<'_>) -> Self {
        let (url, until) = told.link;
        Self {
            id: told.id.to_owned(),
            hash: told.hash.map(|hash| hash.to_string()),
            size_bytes: told.bytes,
            content_type: told.content_type.to_owned(),
            file_path: told.file_path.map(str::to_owned),
            tags: told.tags.to_vec(),
            created_new: None,
            created_at: time(told.created),
            url: url.into(),
            url_expires_at: time(until),
            expires_at: told.expires.map(time),
            job_id: told.job.map(str::to_owned),
        }
    }
}

impl AssetBody {
    /// The answer to a request that made it: 201, or 200 where its content was there before.
    pub fn made(mut self, is_new: bool) -> Answer {
        self.created_new = Some(is_new);
        Answer::json(if is_new { 201 } else { 200 }, &self)
    }

    /// The answer to a request that made a record over a content that was there.
    pub fn made_of_known(mut self) -> Answer {
        self.created_new = Some(false);
        Answer::json(201, &self)
    }
}

fn invalid(field: &str, message: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidRequest, message).detail("field", field)
}

/// Where an asset is to be in a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement<'a> {
    /// Among the inputs, under this name.
    Input(&'a str),
    /// Among the models: the folder, and the name of the file.
    Model(&'a str, &'a str),
}

impl<'a> Placement<'a> {
    /// Reads the path of an asset: a name, `input/…`, or `models/FOLDER/NAME`. What would lead elsewhere is refused. No path
    /// on a disk is ever made of it.
    pub fn parse(path: &'a str) -> Result<Self, Refusal> {
        let refused = |why: &str| {
            let message = format!(
                "`file_path` `{}` {why}. Use a file's name, such as photo.png, or input/photo.png",
                cut(path)
            );
            Err(invalid("file_path", message))
        };
        if path.trim().is_empty() {
            return refused("is empty");
        }
        if path.len() > LONGEST_PATH {
            return refused("is longer than 1024 bytes");
        }
        if path.chars().any(char::is_control) {
            return refused("has a control character");
        }
        let is_drive = matches!(path.as_bytes(), [_, b':', b'/' | b'\\', ..]);
        if path.starts_with(['/', '\\', '~']) || is_drive {
            return refused("is absolute");
        }
        let is_no_name = |part: &str| part.trim().is_empty() || matches!(part.trim(), "." | "..");
        if path.split(['/', '\\']).any(is_no_name) {
            return refused("has a part that is no name");
        }
        match path.split_once('/') {
            None => Ok(Self::Input(path)),
            Some(("input", name)) => Ok(Self::Input(name)),
            Some(("models", rest)) => match rest.split_once('/') {
                Some((folder, name)) if is_model(name) && is_plain(folder) => Ok(Self::Model(folder, name)),
                Some((folder, _)) if is_plain(folder) => refused("names no .safetensors or .gguf file"),
                _ => refused("names no folder of models, as models/loras/mine.safetensors does"),
            },
            Some(_) => refused("is in no folder that uploads may be in"),
        }
    }

    /// The name by which a graph can load it: one part, without what file systems or ComfyUI read otherwise.
    pub fn file_name(&self) -> String {
        let (Self::Input(name) | Self::Model(_, name)) = self;
        let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
        // ComfyUI takes `[input]` at the end for a mark.
        let is_odd = |c: char| c.is_control() || matches!(c, ':' | '[' | ']');
        let name: String = name.chars().map(|c| if is_odd(c) { '_' } else { c }).collect();
        let name = name.trim();
        if name.len() <= LONGEST_NAME {
            return name.to_owned();
        }
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
        let ending = ending.filter(|ending| ending.len() <= 16).unwrap_or_default();
        let dot = if ending.is_empty() { "" } else { "." };
        let room = LONGEST_NAME - ending.len() - dot.len();
        format!("{}{dot}{ending}", name[..name.floor_char_boundary(room)].trim())
    }
}

/// Whether a name is that of a file of weights.
fn is_model(name: &str) -> bool {
    let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
    let is_known = ending.is_some_and(|ending| ["safetensors", "gguf"].contains(&ending.to_ascii_lowercase().as_str()));
    is_known && !name.contains(['/', '\\', ':'])
}

fn is_plain(folder: &str) -> bool {
    folder
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// What a request says of a new asset, beside its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Its media type.
    pub content_type: Option<String>,
    /// What it is called.
    pub file_path: Option<String>,
    /// What its content should be.
    pub expected_hash: Option<ContentHash>,
    /// What else is said of it.
    pub tags: Vec<String>,
    /// How long it is kept.
    pub lifetime: Option<Duration>,
}

impl Said {
    /// Takes a text of a form; what is not known is passed over.
    pub fn take(&mut self, name: &str, text: &str) -> Result<(), Refusal> {
        match name {
            // A form has no other way to say nothing.
            "content_type" | "expected_hash" | "expires_in" if text.trim().is_empty() => {}
            "content_type" => self.content_type = Some(media_type(text)?),
            "file_path" => self.file_path = Some(path(text)?),
            "expected_hash" => self.expected_hash = Some(hash(name, text)?),
            "tags" => self.tag(text)?,
            "expires_in" => {
                let seconds = text.trim().parse().ok();
                self.lifetime = Some(lifetime(seconds)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn tag(&mut self, tag: &str) -> Result<(), Refusal> {
        if tag.len() > LONGEST_TAG || tag.chars().any(char::is_control) {
            let message = format!(
                "A tag has at most {LONGEST_TAG} bytes and no control characters; `{}` is none",
                cut(tag)
            );
            return Err(invalid("tags", message));
        }
        if self.tags.len() >= MOST_TAGS {
            return Err(invalid("tags", format!("An asset has at most {MOST_TAGS} tags")));
        }
        self.tags.push(tag.to_owned());
        Ok(())
    }

    /// The name of the file itself, where no path was said: browsers send the name alone, and some clients all of its path.
    pub fn or_file_name(&mut self, name: &str) -> Result<(), Refusal> {
        let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
        if self.file_path.is_none() && !name.is_empty() {
            self.file_path = Some(path(name)?);
        }
        Ok(())
    }
}

fn path(text: &str) -> Result<String, Refusal> {
    Placement::parse(text)?;
    Ok(text.to_owned())
}

/// Reads a media type.
pub fn media_type(text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    let is_token = |part: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !part.is_empty() && part.bytes().all(is_part)
    };
    let essence = text.split(';').next().unwrap_or_default().trim();
    let is_whole = essence
        .split_once('/')
        .is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
    let is_printable = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if text.len() > LONGEST_TYPE || !is_whole || !is_printable {
        let message = format!("`content_type` `{}` is no media type, such as image/png", cut(text));
        return Err(invalid("content_type", message));
    }
    Ok(text.to_owned())
}

/// Reads the hash of a content.
pub fn hash(field: &str, text: &str) -> Result<ContentHash, Refusal> {
    ContentHash::parse(text.trim()).ok_or_else(|| {
        let message = format!(
            "`{field}` `{}` is no hash: write blake3: and 64 hexadecimal digits",
            cut(text)
        );
        invalid(field, message)
    })
}

fn lifetime(seconds: Option<u64>) -> Result<Duration, Refusal> {
    seconds
        .filter(|seconds| LIFETIMES.contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| {
            let message = "`expires_in` is a whole number of seconds, from 60 to 604800";
            invalid("expires_in", message)
        })
}

/// Judges the key by which a request is known that comes twice.
pub fn idempotency_key(text: &str) -> Result<String, Refusal> {
    let length = text.chars().count();
    if length == 0 || length > LONGEST_KEY {
        let message =
            format!("Idempotency-Key has {length} characters; it must have 1 to {LONGEST_KEY}, such as a UUID");
        return Err(invalid("Idempotency-Key", message));
    }
    Ok(text.to_owned())
}

/// The refusal of a request whose key has been used.
pub fn key_reused() -> Refusal {
    let message = "The Idempotency-Key has been used by another request within 24 hours. Look for what that made, or send another key";
    Refusal::new(Code::IdempotencyKeyReuse, message)
}

/// The refusal of a request for an asset that is not there.
pub fn unknown(id: &str) -> Refusal {
    let message = format!(
        "There is no asset `{}`, or no more: they are kept until their `expires_at`. Upload it again",
        cut(id)
    );
    Refusal::new(Code::NotFound, message)
}

#[derive(Deserialize)]
struct FromHash {
    hash: serde_json::Value,
    #[serde(default)]
    file_path: Option<String>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

/// Reads a request for a record over a content that is there.
pub fn parse_from_hash(body: &[u8]) -> Result<(ContentHash, Said), Refusal> {
    let request: FromHash = serde_json::from_slice(body).map_err(|error| {
        let why = error.to_string();
        let message = format!(
            "The body must be a JSON object with `hash`, and perhaps `file_path`, `tags` and `expires_in`: {}",
            cut(&why)
        );
        Refusal::new(Code::InvalidRequest, message)
    })?;
    let Some(text) = request.hash.as_str() else {
        return Err(invalid(
            "hash",
            "`hash` must be a text: blake3: and 64 hexadecimal digits",
        ));
    };
    let hash = hash("hash", text)?;
    let mut said = Said::default();
    if let Some(path) = &request.file_path {
        said.take("file_path", path)?;
    }
    for tag in request.tags.iter().flatten() {
        said.tag(tag)?;
    }
    if let Some(seconds) = request.expires_in {
        said.lifetime = Some(lifetime(seconds.as_u64())?);
    }
    Ok((hash, said))
}

/// The media type by which a content may be sent: its own, unless a browser could run it as a page of ours.
pub fn sent_as(content_type: &str) -> &str {
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let is_shown = match essence.split_once('/') {
        Some(("image", subtype)) => !subtype.contains("svg") && !subtype.contains("xml"),
        Some(("video" | "audio" | "model", subtype)) => !subtype.contains("xml") && !subtype.contains("html"),
        _ => matches!(essence.as_str(), "text/plain" | "application/json" | BYTES),
    };
    if is_shown { content_type } else { BYTES }
}

/// A hash in examples.
pub const HASH: &str = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

fn lifetime_schema() -> Schema {
    Schema::integer(&LIFETIMES).means("How long it is kept, in seconds; not said: RESULT_TTL.")
}

fn path_schema() -> Schema {
    Schema::said().means("What it is called: a file's name, or `input/NAME`. With ASSET_MODELS and API_KEY also `models/FOLDER/NAME.safetensors`.")
}

fn tags_schema() -> Schema {
    Schema::list(Schema::text().with("maxLength", LONGEST_TAG)).with("maxItems", MOST_TAGS)
}

/// What a route takes that takes an asset in.
pub fn upload_operation() -> Operation {
    let form = Schema::object()
        .needs("file", Schema::file().means("The bytes."))
        .takes(
            "content_type",
            Schema::text().means("Their media type; not said: that of the part `file`."),
        )
        .takes(
            "file_path",
            path_schema().means("What it is called; not said: the name of the file."),
        )
        .takes(
            "expected_hash",
            Schema::text()
                .means("The hash that it must have, `blake3:` and 64 hexadecimal digits; else nothing is kept."),
        )
        .takes("tags", tags_schema())
        .takes("expires_in", lifetime_schema())
        .example(json!({"file": "hello", "content_type": "text/plain", "file_path": "hello.txt"}));
    Operation::default()
        .body(FORM, form)
        .reply(201, "It is kept.", JSON, Schema::of::<AssetBody>())
        .reply(
            200,
            "It is kept; its bytes were here before.",
            JSON,
            Schema::of::<AssetBody>(),
        )
}

/// What a route takes that makes a record over bytes that are here.
pub fn from_hash_operation() -> Operation {
    let hash = Schema::text().with("pattern", "^blake3:[0-9a-fA-F]{64}$");
    let body = Schema::object()
        .needs("hash", hash.means("What the bytes are."))
        .takes("file_path", path_schema())
        .takes("tags", tags_schema())
        .takes("expires_in", lifetime_schema())
        .example(json!({"hash": HASH, "file_path": "photo.png"}));
    Operation::default()
        .takes(body)
        .reply(201, "The record.", JSON, Schema::of::<AssetBody>())
}

#[cfg(test)]
#[path = "assets_tests.rs"]
mod tests;
