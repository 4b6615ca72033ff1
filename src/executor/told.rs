//! What the client of ComfyUI's own API is told of its prompt: ComfyUI's own words, under the id that the client knows.
//!
//! In ComfyUI each attempt runs under an id of its own ([`super::generate`]), as long as the job's. What comes from there has
//! the job's id in its place: frames of the websocket as they come, and the history entry when the prompt is over. The end
//! of a prompt is not told here: a client that hears of it asks for the history, so the job must have ended first.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use memchr::memmem::Finder;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::comfy::message::Message;
use crate::comfy::relay::{Frame, Listener, Relay, Running};
use crate::config::Secret;
use crate::error::JobError;
use crate::job::{JobId, PromptOwner};

/// The key of ours in what goes to ComfyUI beside a graph, read by the hook in its process
/// (`src/comfy/process/hook/start.py`).
pub(super) const MARK: &str = "qwen_image_worker";
/// Keys for API nodes, as `SENSITIVE_EXTRA_DATA_KEYS` in ComfyUI's `execution.py` has them.
const SENSITIVE: [&str; 2] = ["auth_token_comfy_org", "api_key_comfy_org"];
/// What stands in the place of one.
const STARS: &str = "***";
/// A shorter one is blanked only where it stands alone: it may be a part of any word.
const SHORTEST_PART: usize = 8;

/// A binary frame of a preview that names its prompt.
const PREVIEW_WITH_METADATA: u32 = 4;

/// The client of a prompt of ComfyUI's own API.
#[derive(Debug)]
pub struct Told {
    /// The job's id, which is the prompt's to the client.
    pub id: JobId,
    /// When the job came.
    pub created: SystemTime,
    /// Whose prompt it is.
    pub owner: PromptOwner,
    /// Gets ComfyUI's history entry, as JSON, when the prompt is over. It is dropped when the execution is.
    pub entry: watch::Sender<Option<Arc<str>>>,
}

impl Told {
    /// Whom its events go to.
    pub(super) fn listener(&self) -> Option<Listener> {
        Some(Listener {
            key: self.owner.key.clone(),
            client_id: self.owner.client_id.clone()?,
        })
    }

    /// Another prompt runs for the job.
    pub(super) fn another_prompt(&self) {
        self.entry.send_replace(None);
    }

    /// The prompt is over, and this is its entry: `outputs`, and the rest. `secrets` went to ComfyUI with it.
    pub(super) fn over(
        &self,
        mut rest: Map<String, Value>,
        outputs: &Map<String, Value>,
        prompt_id: &str,
        secrets: &[Secret],
    ) {
        if let Some(Value::Object(none)) = rest.get_mut("outputs") {
            none.clone_from(outputs);
        }
        self.entry.send_replace(Some(self.entry_text(rest, prompt_id, secrets)));
    }

    fn entry_text(&self, mut whole: Map<String, Value>, prompt_id: &str, secrets: &[Secret]) -> Arc<str> {
        let mut secrets = secrets.to_vec();
        // Number, id, graph, further data, output nodes.
        if let Some(Value::Array(prompt)) = whole.get_mut("prompt") {
            if let Some(number) = prompt.get_mut(0) {
                *number = self.owner.number.into();
            }
            // A prompt of a previous run of the worker may have had others.
            let data = prompt.iter().skip(3).filter_map(Value::as_object);
            secrets.extend(data.flat_map(secrets_in));
            // What older versions keep behind that holds keys.
            prompt.truncate(5);
            if let Some(Value::Object(extra_data)) = prompt.get_mut(3) {
                self.shown(extra_data);
            }
        }
        // Where a node raises, ComfyUI tells what went into it, keys too.
        if !secrets.is_empty() {
            whole.values_mut().for_each(|value| blank(value, &secrets));
        }
        let text = Value::Object(whole).to_string();
        let (finder, id) = (Finder::new(prompt_id), self.id.as_str());
        match replaced(text.as_bytes(), &finder, id).map(String::from_utf8) {
            Some(Ok(text)) => text.into(),
            _ => text.into(),
        }
    }

    /// What is shown of what went to ComfyUI beside the graph.
    fn shown(&self, extra_data: &mut Map<String, Value>) {
        // The mark is between us and the hook.
        for key in SENSITIVE.into_iter().chain([MARK]) {
            extra_data.shift_remove(key);
        }
        match &self.owner.client_id {
            Some(client_id) => drop(extra_data.insert("client_id".to_owned(), client_id.as_str().into())),
            None => drop(extra_data.shift_remove("client_id")),
        }
        // ComfyUI has the time at which it came there.
        if let Some(time) = extra_data.get_mut("create_time") {
            let created = self.created.duration_since(UNIX_EPOCH).unwrap_or_default();
            *time = u64::try_from(created.as_millis()).unwrap_or_default().into();
        }
    }
}

/// What nobody is shown of what goes to ComfyUI beside a graph.
pub(super) fn secrets_in(extra_data: &Map<String, Value>) -> Vec<Secret> {
    fn add(value: &Value, secrets: &mut Vec<Secret>) {
        match value {
            Value::String(text) if !text.is_empty() => secrets.push(Secret::new(text)),
            Value::Array(items) => items.iter().for_each(|item| add(item, secrets)),
            Value::Object(fields) => fields.values().for_each(|field| add(field, secrets)),
            _ => {}
        }
    }
    let mut secrets = Vec::new();
    for value in SENSITIVE.iter().filter_map(|key| extra_data.get(*key)) {
        add(value, &mut secrets);
    }
    secrets
}

/// The same error with stars for the secrets: a node may tell in its exception what it was given.
pub(super) fn without(mut error: JobError, secrets: &[Secret]) -> JobError {
    let problems = error.problems.iter_mut().map(|problem| &mut problem.message);
    let texts = std::iter::once(&mut error.message)
        .chain(&mut error.hint)
        .chain(problems);
    texts.for_each(|text| blank_text(text, secrets));
    error
}

fn blank_text(text: &mut String, secrets: &[Secret]) {
    for secret in secrets.iter().map(Secret::reveal) {
        if text == secret {
            STARS.clone_into(text);
        } else if secret.len() >= SHORTEST_PART && text.contains(secret) {
            *text = text.replace(secret, STARS);
        }
    }
}

/// Puts stars for the secrets in all texts of a value.
fn blank(value: &mut Value, secrets: &[Secret]) {
    match value {
        Value::String(text) => blank_text(text, secrets),
        Value::Array(items) => items.iter_mut().for_each(|item| blank(item, secrets)),
        Value::Object(fields) => fields.values_mut().for_each(|field| blank(field, secrets)),
        _ => {}
    }
}

/// Passes the events of one prompt on to its client.
#[derive(Debug)]
pub(super) struct Passing {
    relay: Relay,
    listener: Listener,
    finder: Finder<'static>,
    id: JobId,
    /// While it runs.
    runs: Option<Running>,
}

impl Passing {
    /// [`None`] where nobody listens for it. `name` is that of its ComfyUI, where there are several.
    pub(super) fn of(told: Option<&Told>, relay: &Relay, prompt_id: &str, name: Option<&str>) -> Option<Self> {
        let told = told?;
        let listener = told.listener()?;
        if let Some(name) = name {
            relay.runs_at(&listener, told.id.as_str(), name);
        }
        Some(Self {
            relay: relay.clone(),
            listener,
            finder: Finder::new(prompt_id).into_owned(),
            id: told.id.clone(),
            runs: None,
        })
    }

    /// A frame that speaks of the prompt.
    pub(super) fn named(&mut self, message: &Message, frame: &Frame) {
        if let Message::Executing { node: None, .. } = message {
            self.runs = None;
            return;
        }
        if self.runs.is_none() {
            self.runs = Some(self.relay.runs(self.listener.clone()));
        }
        if !message.is_end() {
            let frame = self.translated(frame);
            self.relay.tell_in_turn(&self.listener, self.id.as_str(), &frame);
        }
    }

    /// A frame that names no prompt: while this one runs it is its own, or goes to everybody.
    pub(super) fn nameless(&self, message: &Message, frame: &Frame) {
        if self.runs.is_some() && !message.is_for_one_connection() {
            let own = self.translated(frame);
            self.relay
                .tell_of_running(&self.listener, self.id.as_str(), frame, &own);
        }
    }

    /// The frame with the job's id for the prompt's.
    fn translated(&self, frame: &Frame) -> Frame {
        let id = self.id.as_str();
        match frame {
            Frame::Text(text) => {
                let text_of_job = replaced(text.as_bytes(), &self.finder, id);
                let text_of_job = text_of_job.and_then(|text| Utf8Bytes::try_from(text).ok());
                text_of_job.map_or_else(|| frame.clone(), Frame::Text)
            }
            Frame::Binary(bytes) => {
                let metadata = metadata_of(bytes).unwrap_or_default();
                match self.finder.find(metadata) {
                    Some(_) => {
                        // Event, length, metadata, picture.
                        let end = 8 + metadata.len();
                        let mut whole = bytes.to_vec();
                        replace_in(&mut whole[8..end], &self.finder, id);
                        Frame::Binary(whole.into())
                    }
                    None => frame.clone(),
                }
            }
        }
    }
}

/// The metadata of a preview.
fn metadata_of(frame: &Bytes) -> Option<&[u8]> {
    let (event, rest) = frame.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    if u32::from_be_bytes(*event) != PREVIEW_WITH_METADATA {
        return None;
    }
    rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// The text with the job's id for the prompt's; [`None`] where it does not name that.
fn replaced(text: &[u8], finder: &Finder<'_>, id: &str) -> Option<Vec<u8>> {
    finder.find(text)?;
    let mut text = text.to_vec();
    replace_in(&mut text, finder, id);
    Some(text)
}

fn replace_in(text: &mut [u8], finder: &Finder<'_>, id: &str) {
    let length = finder.needle().len();
    // Ids are of one length.
    if length != id.len() {
        return;
    }
    let mut from = 0;
    while let Some(at) = finder.find(&text[from..]) {
        let at = from + at;
        from = at + length;
        text[at..from].copy_from_slice(id.as_bytes());
    }
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
