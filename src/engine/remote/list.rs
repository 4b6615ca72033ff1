//! The list of engines: what each `[[engine]]` of it says.

use std::time::Duration;

use serde::Deserialize;
use url::{Host, Url};

use crate::config::{BrokerAddress, EnginesConfig, EnginesSource, ManifestSource, NotABroker, Secret, variables};
use crate::echo::cut;
use crate::net::address::not_public;
use crate::net::guard::AddressGuard;
use crate::net::manifest;

/// The most engines of a list.
const MOST: usize = 100;
/// The longest name of an engine.
const LONGEST_NAME: usize = 64;
/// Jobs that an engine gets at the same time, where the list does not say.
const CAPACITY: usize = 4;
/// The same of a fleet, whose broker has room for those that wait.
const FLEET_CAPACITY: usize = 64;
/// How long a worker of a fleet may be silent, where the list does not say.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// The longest that a job may take at an engine, where the list does not say.
const TIMEOUT: Duration = Duration::from_mins(15);
/// Where RunPod's endpoints are.
const RUNPOD: &str = "https://api.runpod.ai/v2/";
/// The sides of a picture that an images API takes, where the list does not say: those of Modelverse's Qwen-Image.
const SIDES: (u32, u32) = (256, 1536);
/// How the list names a variable of the environment.
const OF_ENVIRONMENT: &str = "env:";

/// One engine of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineSpec {
    /// What it is called; no other has the name.
    pub name: String,
    /// Where it is, without a slash at the end.
    pub url: Url,
    /// What opens it.
    pub key: Option<Secret>,
    /// Those of a lower group come first.
    pub group: u32,
    /// Jobs that it gets at the same time, at least 1.
    pub capacity: usize,
    /// The longest that a job may take there, from when it is sent.
    pub timeout: Duration,
    /// The longest that a job may wait in the queue of a RunPod endpoint, or of a fleet, before it is taken back; [`None`]: as long as it may take.
    pub queue_timeout: Option<Duration>,
    /// The templates that it gets, by name; [`None`]: all that it can run.
    pub templates: Option<Vec<String>>,
    /// Whether a job goes to another engine where nobody knows whether this one took it: it may be run, and charged, twice.
    pub sends_unknown_again: bool,
    /// Whether somebody else may have written it, whose names are not to lead into this network by themselves.
    pub is_from_afar: bool,
    /// What it costs, in words.
    pub cost: Option<String>,
    /// What it speaks.
    pub kind: EngineKind,
}

/// What an engine speaks.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineKind {
    /// RunPod's API of serverless endpoints, before any worker of the form of worker-comfyui 5.
    Runpod {
        /// Whether the workers behind it are this program, and so take all that it takes.
        is_ours: bool,
    },
    /// OpenAI's Images API.
    Images(ImagesApi),
    /// The broker of workers of one's own.
    Fleet(FleetSpec),
}

/// A fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetSpec {
    /// Its broker.
    pub address: BrokerAddress,
    /// How long a worker may be silent before another gets its job.
    pub ack_wait: Duration,
    /// On how many servers the broker keeps everything.
    pub replicas: usize,
}

/// An API of OpenAI's form.
#[derive(Debug, Clone, PartialEq)]
pub struct ImagesApi {
    /// The model of pictures from text; [`None`]: it makes none.
    pub model: Option<String>,
    /// The model of edits; [`None`]: it makes none.
    pub edit_model: Option<String>,
    /// What it takes beside a prompt, a size and a model.
    pub sends: Vec<Extra>,
    /// The shortest and the longest side in pixels.
    pub sides: (u32, u32),
    /// The most images that an edit takes.
    pub most_images: usize,
    /// How edits are sent.
    pub edits: Edits,
}

/// How an images API takes edits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edits {
    /// As OpenAI: a form at `/images/edits`.
    #[default]
    Form,
    /// As Modelverse: JSON at `/images/generations`, with `image` as a data URI.
    Json,
}

/// A field that not every images API has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extra {
    /// `seed`.
    Seed,
    /// `n`.
    N,
    /// `negative_prompt`.
    NegativePrompt,
    /// `num_inference_steps`.
    Steps,
    /// `guidance_scale`.
    Cfg,
    /// `response_format: b64_json`. Without it the API answers as it likes.
    ResponseFormat,
}

impl EngineKind {
    /// As the list writes it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Runpod { .. } => "runpod",
            Self::Images(_) => "openai",
            Self::Fleet(_) => "fleet",
        }
    }
}

/// What is written in the list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    kind: String,
    url: Option<String>,
    endpoint: Option<String>,
    key: Option<String>,
    group: Option<u32>,
    capacity: Option<usize>,
    timeout_s: Option<u64>,
    queue_timeout_s: Option<u64>,
    templates: Option<Vec<String>>,
    unknown: Option<String>,
    cost: Option<String>,
    worker: Option<String>,
    model: Option<String>,
    edit_model: Option<String>,
    sends: Option<Vec<Extra>>,
    min_side: Option<u32>,
    max_side: Option<u32>,
    max_images: Option<usize>,
    edits: Option<Edits>,
    ack_wait_s: Option<u64>,
    replicas: Option<usize>,
}

/// Reads the list that the configuration names. The error says what is wrong with it, all mistakes at once.
pub async fn read(
    config: &EnginesConfig,
    source: &EnginesSource,
    guard: &AddressGuard,
) -> Result<Vec<EngineSpec>, String> {
    if let EnginesSource::Manifest(ManifestSource::Url(url)) = source
        && url.scheme() != "https"
        && !guard.allows_privately(url)
    {
        return Err(format!(
            "{source}: a list of engines comes by https, or from a host that ALLOW_PRIVATE_URLS names"
        ));
    }
    let (text, is_from_afar) = match source {
        EnginesSource::Inline(text) => (text.clone(), false),
        EnginesSource::Manifest(manifest) => {
            let text = manifest::text(manifest, "the list of engines", None, |_| String::new()).await;
            let is_from_afar = matches!(manifest, ManifestSource::Url(_));
            (
                text.map_err(|why| format!("{source} cannot be read: {why}"))?,
                is_from_afar,
            )
        }
    };
    // What somebody else writes may not lead into this network by itself.
    let guard = is_from_afar.then_some(guard);
    parse(&text, config, guard).map_err(|mistakes| format!("{source} cannot be used: {}", mistakes.join("; ")))
}

/// Reads a list. `guard` judges the addresses, where they are somebody else's.
pub(super) fn parse(
    text: &str,
    config: &EnginesConfig,
    guard: Option<&AddressGuard>,
) -> Result<Vec<EngineSpec>, Vec<String>> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| vec![one_line(&error)])?;
    let mut mistakes: Vec<String> = table
        .keys()
        .filter(|key| *key != "engine")
        .map(|key| format!("`{}` is unknown; each engine is a table [[engine]]", cut(key)))
        .collect();
    let engines = table.get("engine").and_then(toml::Value::as_array);
    let engines = engines.map_or(&[][..], Vec::as_slice);
    if engines.is_empty() {
        mistakes.push("it names no engine: write a table [[engine]] for each".to_owned());
    }
    if engines.len() > MOST {
        mistakes.push(format!("it names {} engines; the limit is {MOST}", engines.len()));
    }
    let mut specs: Vec<EngineSpec> = Vec::new();
    for (number, engine) in (1..).zip(engines.iter().take(MOST)) {
        let name = engine.get("name").and_then(toml::Value::as_str);
        let called = name.map_or_else(|| format!("engine {number}"), |name| format!("engine `{}`", cut(name)));
        match spec(engine, config, guard) {
            Ok(spec) if specs.iter().any(|other| other.name == spec.name) => {
                mistakes.push(format!("{called} is there twice; give each a name of its own"));
            }
            Ok(spec) => specs.push(spec),
            Err(why) => mistakes.push(format!("{called}: {why}")),
        }
    }
    if mistakes.is_empty() { Ok(specs) } else { Err(mistakes) }
}

fn one_line(error: &toml::de::Error) -> String {
    // The whole text shows the line, which may hold anything.
    error.message().replace('\n', " ")
}

fn spec(engine: &toml::Value, config: &EnginesConfig, guard: Option<&AddressGuard>) -> Result<EngineSpec, String> {
    let read = |engine: &toml::Value| engine.clone().try_into::<Written>();
    let written = read(engine).map_err(|error| match wrong_field(engine, read) {
        Some(field) => format!("{}: {}", cut(field), one_line(&error)),
        None => one_line(&error),
    })?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if written.name.is_empty() || written.name.len() > LONGEST_NAME || !written.name.chars().all(is_plain) {
        return Err(format!(
            "name: use letters, digits, `-`, `_` and `.`, at most {LONGEST_NAME} of them"
        ));
    }
    let key = written
        .key
        .as_deref()
        .map(|text| key(text, config, guard.is_some()))
        .transpose()?;
    let kind = kind(&written, key.as_ref())?;
    let url = address(&written, &kind)?;
    let (open, safe) = if matches!(kind, EngineKind::Fleet(_)) {
        ("nats", "tls://")
    } else {
        ("http", "https")
    };
    // A fleet may have several.
    let servers = match &kind {
        EngineKind::Fleet(fleet) => fleet.address.servers(),
        EngineKind::Runpod { .. } | EngineKind::Images(_) => vec![url.to_string()],
    };
    for server in &servers {
        let server: Url = server.parse().map_err(|_| "url: is no URL".to_owned())?;
        let place = as_web(&server);
        if key.is_some() && server.scheme() == open && !is_near(&place) {
            return Err(format!("url: its key would travel in the open; use {safe}"));
        }
        if let Some(refused) = guard.and_then(|guard| guard.check_url(&place).err()) {
            return Err(format!("url: {refused}"));
        }
    }
    let seconds = |field: &str, given: Option<u64>| match given {
        None => Ok(None),
        Some(seconds @ 1..=604_800) => Ok(Some(Duration::from_secs(seconds))),
        Some(_) => Err(format!("{field}: must be 1 to 604800 seconds")),
    };
    let sends_unknown_again = match written.unknown.as_deref() {
        None | Some("fail") => false,
        Some("retry") => true,
        Some(other) => return Err(format!("unknown: `{}` is neither fail nor retry", cut(other))),
    };
    if written.templates.as_ref().is_some_and(Vec::is_empty) {
        return Err("templates: names none; leave it out for all".to_owned());
    }
    Ok(EngineSpec {
        name: written.name,
        key,
        group: written.group.unwrap_or(1),
        capacity: match written.capacity {
            None if matches!(kind, EngineKind::Fleet(_)) => FLEET_CAPACITY,
            None => CAPACITY,
            Some(capacity @ 1..=1000) => capacity,
            Some(_) => return Err("capacity: must be 1 to 1000 jobs".to_owned()),
        },
        timeout: seconds("timeout_s", written.timeout_s)?.unwrap_or(TIMEOUT),
        queue_timeout: seconds("queue_timeout_s", written.queue_timeout_s)?,
        templates: written.templates,
        sends_unknown_again,
        is_from_afar: guard.is_some(),
        cost: written.cost.map(|cost| cut(&cost)),
        url,
        kind,
    })
}

/// The first field that cannot be read by itself: the reader's own words do not name it.
fn wrong_field<T, E>(engine: &toml::Value, read: impl Fn(&toml::Value) -> Result<T, E>) -> Option<&str> {
    let mut fields = engine.as_table()?.iter();
    let is_wrong = |(field, value): &(&String, &toml::Value)| {
        let mut alone = toml::Table::new();
        for needed in ["name", "kind"] {
            alone.insert(needed.to_owned(), "x".into());
        }
        alone.insert((*field).clone(), (*value).clone());
        read(&alone.into()).is_err()
    };
    fields.find(is_wrong).map(|(field, _)| field.as_str())
}

/// What the engine speaks. A field of the other kind is a mistake.
fn kind(written: &Written, key: Option<&Secret>) -> Result<EngineKind, String> {
    let of_images = [
        ("model", written.model.is_some()),
        ("edit_model", written.edit_model.is_some()),
        ("sends", written.sends.is_some()),
        ("min_side", written.min_side.is_some()),
        ("max_side", written.max_side.is_some()),
        ("max_images", written.max_images.is_some()),
        ("edits", written.edits.is_some()),
    ];
    let of_runpod = [
        ("endpoint", written.endpoint.is_some()),
        ("worker", written.worker.is_some()),
    ];
    let of_fleet = [
        ("ack_wait_s", written.ack_wait_s.is_some()),
        ("replicas", written.replicas.is_some()),
    ];
    let waits = [("queue_timeout_s", written.queue_timeout_s.is_some())];
    let unknown = [("unknown", written.unknown.is_some())];
    let none_of = |others: &[(&str, bool)], kind: &str| match others.iter().find(|(_, is_set)| *is_set) {
        Some((field, _)) => Err(format!("{field}: an engine of the kind {kind} has none")),
        None => Ok(()),
    };
    match written.kind.as_str() {
        "runpod" => {
            none_of(&of_images, "runpod")?;
            none_of(&of_fleet, "runpod")?;
            match written.worker.as_deref() {
                None | Some("worker-comfyui") => Ok(EngineKind::Runpod { is_ours: false }),
                Some("qwen-image-worker") => Ok(EngineKind::Runpod { is_ours: true }),
                Some(other) => Err(format!(
                    "worker: `{}` is neither worker-comfyui nor qwen-image-worker",
                    cut(other)
                )),
            }
        }
        "openai" => {
            none_of(&of_runpod, "openai")?;
            none_of(&waits, "openai")?;
            none_of(&of_fleet, "openai")?;
            let sides = (written.min_side.unwrap_or(SIDES.0), written.max_side.unwrap_or(SIDES.1));
            if sides.0 == 0 || sides.0 > sides.1 {
                return Err("min_side: must be 1 to max_side".to_owned());
            }
            if written.model.is_none() && written.edit_model.is_none() {
                return Err("model: name the model that makes the pictures, or edit_model".to_owned());
            }
            Ok(EngineKind::Images(ImagesApi {
                model: written.model.clone(),
                edit_model: written.edit_model.clone(),
                sends: written.sends.clone().unwrap_or_default(),
                sides,
                most_images: written.max_images.unwrap_or(1),
                edits: written.edits.unwrap_or_default(),
            }))
        }
        "fleet" => {
            none_of(&of_images, "fleet")?;
            none_of(&of_runpod, "fleet")?;
            // What became of a job can always be asked.
            none_of(&unknown, "fleet")?;
            let url = written.url.as_deref().ok_or("url: is missing")?;
            let address: BrokerAddress = url.parse().map_err(|why: NotABroker| format!("url: {why}"))?;
            if address.login().is_some() {
                return Err(
                    "url: has a name or a password; env:NAME of key may hold NAME:PASSWORD or a token".to_owned(),
                );
            }
            Ok(EngineKind::Fleet(FleetSpec {
                address: key.map_or(address.clone(), |key| address.with_key(key)),
                ack_wait: match written.ack_wait_s {
                    None => ACK_WAIT,
                    Some(seconds @ 2..=3600) => Duration::from_secs(seconds),
                    Some(_) => return Err("ack_wait_s: must be 2 to 3600 seconds".to_owned()),
                },
                replicas: match written.replicas {
                    None => 1,
                    Some(replicas @ 1..=5) => replicas,
                    Some(_) => return Err("replicas: must be 1 to 5".to_owned()),
                },
            }))
        }
        other => Err(format!("kind: `{}` is none of runpod, openai, fleet", cut(other))),
    }
}

/// `is_from_afar`: whoever writes the list must not get at what is for other purposes.
fn key(text: &str, config: &EnginesConfig, is_from_afar: bool) -> Result<Secret, String> {
    let Some(name) = text.strip_prefix(OF_ENVIRONMENT) else {
        return Err(
            "key: write env:NAME, and set the variable NAME to the key; a list is no place for secrets".to_owned(),
        );
    };
    let is_ours = || {
        variables()
            .iter()
            .any(|variable| variable.name.eq_ignore_ascii_case(name))
    };
    if is_from_afar && is_ours() {
        return Err(format!(
            "key: {} is the worker's own, and no key of an engine",
            cut(name)
        ));
    }
    let missing = || format!("key: the variable {} is not set", cut(name));
    config.key(name).cloned().ok_or_else(missing)
}

fn address(written: &Written, kind: &EngineKind) -> Result<Url, String> {
    if let EngineKind::Fleet(fleet) = kind {
        // By the first of its servers it is known again.
        let first = fleet.address.servers().into_iter().next().unwrap_or_default();
        return first.parse().map_err(|_| "url: is missing".to_owned());
    }
    let text = match (&written.url, &written.endpoint) {
        (Some(_), Some(_)) => return Err("url: stands beside endpoint; give one of them".to_owned()),
        (Some(url), None) => url.clone(),
        (None, Some(endpoint)) => {
            if endpoint.is_empty() || !endpoint.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                return Err("endpoint: is no id of an endpoint".to_owned());
            }
            format!("{RUNPOD}{endpoint}")
        }
        (None, None) if matches!(kind, EngineKind::Runpod { .. }) => {
            return Err("url: is missing; give it, or the id of the endpoint as endpoint".to_owned());
        }
        (None, None) => return Err("url: is missing".to_owned()),
    };
    let url = text.trim_end_matches('/').parse::<Url>();
    let url = url
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or("url: is no http or https URL")?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("url: has a name, a password or a query; a key goes into key".to_owned());
    }
    Ok(url)
}

/// The same place as an address of the web: only those tell whether a host is an address or a name.
fn as_web(url: &Url) -> Url {
    let host = url.host_str().unwrap_or_default();
    let web = match url.scheme() {
        "nats" | "tls" => format!("http://{host}/").parse(),
        _ => return url.clone(),
    };
    web.unwrap_or_else(|_| url.clone())
}

/// Whether an address is on this machine or in a network of somebody's own, as far as it tells by itself.
fn is_near(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => not_public(address.into()).is_some(),
        Some(Host::Ipv6(address)) => not_public(address.into()).is_some(),
        Some(Host::Domain(name)) => {
            let ends = [".internal", ".local", ".lan", ".svc", ".localhost"];
            !name.contains('.') || ends.iter().any(|end| name.ends_with(end))
        }
        None => false,
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
