//! The list of engines: what each `[[engine]]` of it says.

mod kind;

use std::time::Duration;

use serde::Deserialize;
use url::{Host, Url};

use super::terms::Approximate;
use crate::config::{EnginesConfig, EnginesSource, ManifestSource, Secret, variables};
use crate::echo::cut;
use crate::net::address::not_public;
use crate::net::guard::AddressGuard;
use crate::net::manifest;

pub(super) use kind::{Edits, Extra, ImagesApi};
pub use kind::{EngineKind, FleetSpec};

/// The most engines of a list.
const MOST: usize = 100;
/// The longest name of an engine.
const LONGEST_NAME: usize = 64;
/// Jobs that an engine gets at the same time, where the list does not say.
const CAPACITY: usize = 4;
/// The same of a fleet, whose broker has room for those that wait.
const FLEET_CAPACITY: usize = 64;
/// The longest that a job may take at an engine, where the list does not say.
const TIMEOUT: Duration = Duration::from_mins(15);
/// Where RunPod's endpoints are.
const RUNPOD: &str = "https://api.runpod.ai/v2/";
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
    /// The longest that a job may wait there for its turn before it is taken back; [`None`]: as long as it may take.
    pub queue_timeout: Option<Duration>,
    /// The templates that it gets, by name; [`None`]: all that it can run.
    pub templates: Option<Vec<String>>,
    /// What it may do otherwise than a request asks for.
    pub approximates: Vec<Approximate>,
    /// Whether a job goes to another engine where nobody knows whether this one took it: it may be run, and charged, twice.
    pub sends_unknown_again: bool,
    /// Whether somebody else may have written it, whose names are not to lead into this network by themselves.
    pub is_from_afar: bool,
    /// What it costs, in words.
    pub cost: Option<String>,
    /// What it speaks.
    pub kind: EngineKind,
}

/// What is written in the list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    kind: String,
    url: Option<String>,
    endpoint: Option<String>,
    space: Option<String>,
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
    approximates: Option<Vec<Approximate>>,
    upload_url: Option<String>,
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
    let kind = kind::kind(engine, &written, key.as_ref())?;
    let url = address(&written, &kind)?;
    let (open, safe) = if matches!(kind, EngineKind::Fleet(_)) {
        ("nats", "tls://")
    } else {
        ("http", "https")
    };
    // A fleet may have several.
    let servers = match &kind {
        EngineKind::Fleet(fleet) => fleet.address.servers(),
        EngineKind::Kie { uploads: Some(uploads) } => vec![url.to_string(), uploads.to_string()],
        _ => vec![url.to_string()],
    };
    for server in &servers {
        let server: Url = server.parse().map_err(|_| "url: is no URL".to_owned())?;
        let place = as_web(&server);
        if key.is_some() && server.scheme() == open && !is_near(&place) {
            return Err(format!("url: its key would travel in the open; use {safe}"));
        }
        let Some(guard) = guard else { continue };
        if let Err(refused) = guard.check_url(&place) {
            return Err(format!("url: {refused}"));
        }
        // Nobody judges where the name of a broker leads to when it is dialled.
        let is_name = matches!(place.host(), Some(Host::Domain(_)));
        if matches!(kind, EngineKind::Fleet(_)) && is_name && !guard.allows_privately(&place) {
            return Err(
                "url: a list from afar names a broker by its IP address, or ALLOW_PRIVATE_URLS names its host"
                    .to_owned(),
            );
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
        approximates: written.approximates.unwrap_or_default(),
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
    let by_id = match (&written.endpoint, &written.space) {
        (Some(endpoint), _) => Some(("endpoint", of_endpoint(endpoint)?)),
        (None, Some(space)) => Some(("space", of_space(space)?)),
        (None, None) => None,
    };
    let text = match (&written.url, by_id) {
        (Some(_), Some((field, _))) => return Err(format!("url: stands beside {field}; give one of them")),
        (Some(url), None) => url.clone(),
        (None, Some((_, url))) => url,
        (None, None) => kind.usual_address()?.to_owned(),
    };
    plain_address(&text).map_err(|why| format!("url: {why}"))
}

fn of_endpoint(id: &str) -> Result<String, String> {
    if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err("endpoint: is no id of an endpoint".to_owned());
    }
    Ok(format!("{RUNPOD}{id}"))
}

/// Where a Space is, by its name on the Hub: `Qwen/Qwen-Image` is at `qwen-qwen-image.hf.space`.
fn of_space(name: &str) -> Result<String, String> {
    let is_plain =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    match name.split_once('/') {
        Some((owner, space)) if is_plain(owner) && is_plain(space) => {
            let host = format!("{owner}-{space}").to_ascii_lowercase().replace(['.', '_'], "-");
            Ok(format!("https://{host}.hf.space"))
        }
        _ => Err("space: is no name such as Qwen/Qwen-Image".to_owned()),
    }
}

/// The address of an API, without a slash at the end.
fn plain_address(text: &str) -> Result<Url, &'static str> {
    let url = text.trim_end_matches('/').parse::<Url>();
    let url = url
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or("is no http or https URL")?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("has a name, a password or a query; a key goes into key");
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
