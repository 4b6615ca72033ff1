//! What stands around `input`: the policy, the webhook, the priority, and the parameters of the routes.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;
use url::Url;

use super::fields::{
    ASPECT_RATIO, AUDIOS, COMMON, ENVELOPE, EXECUTION_TIMEOUT, FALLBACK, FILES, HEIGHT, IMAGE, IMAGE_URL, IMAGES,
    INPUT, INPUTS, LORAS, LOW_PRIORITY, MASK, MEGAPIXELS, OF_TEMPLATE, POLICY, POLICY_FIELDS, PRIORITY, PROMPT, SIZE,
    TEMPLATE, TTL, VIDEOS, WEBHOOK, WIDTH, WORKFLOW,
};
use super::input::Wishes;
use super::{SHAPE, input, status_word, strange};
use crate::config::{BucketAccess, Fallback};
use crate::dialect::field::{Object, names};
use crate::dialect::fields::{Fields, describe, object_of};
use crate::dialect::schema::Schema;
use crate::echo;
use crate::error::JobError;
use crate::job::{JobRequest, JobState, Policy};
use crate::json;

/// What RunPod's queue adds, and a field of RunPod's that asks for nothing here.
const PASSED_OVER: &[&str] = &["id", "webhookV2"];

/// The fields of `input` without which the picture is another: beside it they are an error.
const WORK: &[&str] = &[
    WORKFLOW.name,
    INPUTS.name,
    PROMPT.name,
    IMAGE.name,
    IMAGE_URL.name,
    IMAGES.name,
    FILES.name,
    AUDIOS.name,
    VIDEOS.name,
    MASK.name,
    SIZE.name,
    WIDTH.name,
    HEIGHT.name,
    MEGAPIXELS.name,
    ASPECT_RATIO.name,
    LORAS.name,
    TEMPLATE.name,
];

/// What RunPod's `policy.lowPriority` means as a priority.
const LOW_PRIORITY_VALUE: i32 = -1;

/// How long `/runsync` and `/status-sync` wait under `/v2` unless `?wait=` says otherwise (operation reference).
pub const WAIT: Duration = Duration::from_millis(WAIT_MS);
/// The same in milliseconds.
pub const WAIT_MS: u64 = 90_000;
/// The range of `?wait=`, in milliseconds (operation reference).
const WAITS_MS: RangeInclusive<u64> = 1_000..=300_000;

/// Reads a request body: the job, and what it says about its handling. Decodes images, so a large body belongs on a
/// blocking thread.
pub fn parse(body: &[u8]) -> Result<(JobRequest, Policy), JobError> {
    read(body, Sender::Client).map(|(request, policy, _)| (request, policy))
}

/// Who wrote what stands around `input`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// Whoever wants the picture.
    Client,
    /// The platform's queue, which adds fields of its own.
    Platform,
}

/// [`parse`], with what only the platform's queue can grant.
pub(super) fn read(body: &[u8], sender: Sender) -> Result<(JobRequest, Policy, Wishes), JobError> {
    let shape = SHAPE;
    let mut envelope = object_of(body, shape)?;
    let input = match envelope.get_mut(INPUT.name).map(Value::take) {
        None | Some(Value::Null) => return Err(JobError::invalid("The request has no `input`").hint(shape)),
        Some(Value::String(text)) => json::read(text.as_bytes()).map_err(|error| {
            error.of_request(|error| {
                JobError::invalid(format!("`input` is a string that holds no JSON: {error}")).hint(shape)
            })
        })?,
        Some(input) => input,
    };
    let Value::Object(input) = input else {
        return Err(JobError::invalid(format!("`input` must be an object, not {}", describe(&input))).hint(shape));
    };
    let mut warnings = Vec::new();
    let has_graph = input.get(WORKFLOW.name).is_some_and(|graph| !graph.is_null());
    let (policy, bucket) = beside(&mut envelope, sender, has_graph, &mut warnings)?;
    let (mut request, wishes) = input::parse(input)?;
    request.delivery.bucket = bucket.or(request.delivery.bucket);
    request.warnings.extend(warnings);
    Ok((request, policy, wishes))
}

/// Reads what stands beside `input`.
fn beside(
    envelope: &mut Object,
    sender: Sender,
    has_graph: bool,
    warnings: &mut Vec<String>,
) -> Result<(Policy, Option<BucketAccess>), JobError> {
    let mut fields = Fields::new(envelope, ENVELOPE);
    fields.also_knows(PASSED_OVER);
    let mut policy = Policy::default();
    let mut low_priority = false;
    if let Some(mut object) = fields.read(&POLICY) {
        let mut inner = Fields::within("policy.", &mut object, POLICY_FIELDS);
        policy.execution_timeout = inner.read(&EXECUTION_TIMEOUT).map(Duration::from_millis);
        policy.ttl = inner.read(&TTL).map(Duration::from_millis);
        low_priority = inner.read_or_usual(&LOW_PRIORITY);
        policy.fallback = inner.read(&FALLBACK).and_then(|text| {
            let fallback = Fallback::parse(&text);
            if fallback.is_none() {
                inner.problem(
                    FALLBACK.name,
                    format!("must be {}, not {}", Fallback::WORDS.join(", "), describe(&text.into())),
                );
            }
            fallback
        });
        warnings.extend(inner.unknown());
        fields.adopt(inner);
    }
    let priority = fields.read(&PRIORITY);
    if low_priority && priority.is_some() {
        fields.problem(PRIORITY.name, "stands beside `policy.lowPriority`; send one of them");
    }
    policy.priority = priority.unwrap_or(if low_priority { LOW_PRIORITY_VALUE } else { 0 });
    policy.webhook = webhook(&mut fields);
    let bucket = input::s3_config(&mut fields, warnings);
    for name in input_fields(&fields) {
        fields.also_knows(&[name]);
        if WORK.contains(&name) && fields.says_something(name) {
            fields.problem(name, "stands beside `input` and belongs into it");
        } else {
            warnings.push(format!(
                "`{name}` stands beside `input`, where it has no effect; it belongs into it"
            ));
        }
    }
    if sender == Sender::Client {
        strange::unasked(&mut fields, "input.", has_graph);
        warnings.extend(fields.unknown());
    }
    fields.finish()?;
    Ok((policy, bucket))
}

/// The fields beside `input` that are fields of `input`.
fn input_fields(fields: &Fields<'_>) -> Vec<&'static str> {
    let of_input = names(&[COMMON, OF_TEMPLATE].concat());
    let found = |name: &str| of_input.iter().copied().find(|known| *known == name);
    fields.strange().filter_map(found).collect()
}

/// Where the answer goes. Whether we may go there is decided when we do.
fn webhook(fields: &mut Fields<'_>) -> Option<Url> {
    let text = fields.read(&WEBHOOK)?;
    // The address may hold a secret, so the message does not repeat it.
    match Url::parse(&text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Some(url),
        Ok(url) => {
            fields.problem(
                WEBHOOK.name,
                format!(
                    "must be an http or https address, not one of `{}`",
                    echo::cut(url.scheme())
                ),
            );
            None
        }
        Err(error) => {
            fields.problem(WEBHOOK.name, format!("is no address: {error}; send https://…"));
            None
        }
    }
}

/// What `?wait=` may be.
pub fn wait() -> Schema {
    Schema::integer(&WAITS_MS).means("The longest wait, in milliseconds.")
}

/// Reads `?wait=`, in milliseconds.
pub fn parse_wait(text: Option<&str>) -> Result<Option<Duration>, JobError> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(wait) if WAITS_MS.contains(&wait) => Ok(Some(Duration::from_millis(wait))),
        _ => Err(JobError::invalid(format!(
            "Invalid request: wait: must be milliseconds from {} to {}, not {}",
            WAITS_MS.start(),
            WAITS_MS.end(),
            describe(&text.into())
        ))),
    }
}

/// Reads a state as RunPod writes it.
pub fn parse_status(text: &str) -> Result<JobState, JobError> {
    let found = JobState::ALL.into_iter().find(|state| status_word(*state) == text);
    found.ok_or_else(|| {
        JobError::invalid(format!(
            "Invalid request: status: {} is none of {}",
            describe(&text.into()),
            JobState::ALL.map(status_word).join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn envelope(beside: Value) -> Result<(JobRequest, Policy), JobError> {
        let mut body = json!({"input": {"prompt": "a fox"}});
        let Value::Object(beside) = beside else {
            panic!("an object")
        };
        for (name, value) in beside {
            body[name] = value;
        }
        parse(body.to_string().as_bytes())
    }

    #[test]
    fn nothing_beside_the_input_leaves_everything_to_the_configuration() {
        let (request, policy) = envelope(json!({"policy": {}, "webhook": null})).unwrap();
        assert_eq!(policy, Policy::default());
        assert!(request.warnings.is_empty());
    }

    #[test]
    fn a_policy_is_read() {
        let (request, policy) = envelope(json!({
            "policy": {"executionTimeout": 5000, "ttl": 604_800_000.0, "lowPriority": true},
            "webhook": "https://example.org/hook?key=1",
            "id": "from-the-queue",
            "s3Config": {},
        }))
        .unwrap();
        insta::assert_json_snapshot!(policy, @r#"
        {
          "execution_timeout": {
            "secs": 5,
            "nanos": 0
          },
          "ttl": {
            "secs": 604800,
            "nanos": 0
          },
          "priority": -1,
          "webhook": "https://example.org/hook?key=1",
          "dialect": "runpod"
        }
        "#);
        assert!(request.warnings.is_empty(), "{:?}", request.warnings);
        assert_eq!(envelope(json!({"priority": 7})).unwrap().1.priority, 7);
    }

    #[test]
    fn each_mistake_names_its_field() {
        let refused = |beside: Value| envelope(beside).unwrap_err().full_text();
        insta::assert_snapshot!(refused(json!({"policy": 7})), @"Invalid request: policy: must be an object, not 7");
        insta::assert_snapshot!(refused(json!({"policy": {"executionTimeout": 4999}})), @"Invalid request: policy.executionTimeout: must be a whole number from 5000 to 604800000, not 4999");
        insta::assert_snapshot!(refused(json!({"policy": {"executionTimeout": "1h"}})), @r#"Invalid request: policy.executionTimeout: must be a whole number from 5000 to 604800000, not "1h""#);
        insta::assert_snapshot!(refused(json!({"policy": {"ttl": -1}})), @"Invalid request: policy.ttl: must be a whole number from 10000 to 604800000, not -1");
        insta::assert_snapshot!(refused(json!({"policy": {"lowPriority": "yes"}})), @r#"Invalid request: policy.lowPriority: must be true or false, not "yes""#);
        insta::assert_snapshot!(refused(json!({"policy": {"fallback": "maybe"}})), @r#"Invalid request: policy.fallback: must be never, errors, busy, not "maybe""#);
        insta::assert_snapshot!(refused(json!({"priority": 101})), @"Invalid request: priority: must be a whole number from -100 to 100, not 101");
        insta::assert_snapshot!(refused(json!({"priority": 1, "policy": {"lowPriority": true}})), @"Invalid request: priority: stands beside `policy.lowPriority`; send one of them");
        insta::assert_snapshot!(refused(json!({"webhook": 7})), @"Invalid request: webhook: must be a string, not 7");
        insta::assert_snapshot!(refused(json!({"webhook": "/hook"})), @"Invalid request: webhook: is no address: relative URL without a base; send https://…");
        insta::assert_snapshot!(refused(json!({"webhook": "ftp://example.org/"})), @"Invalid request: webhook: must be an http or https address, not one of `ftp`");
        insta::assert_snapshot!(refused(json!({"webhook": "http://", "policy": {"ttl": 1}})), @r"
        Invalid request: 2 fields are wrong
        - policy.ttl: must be a whole number from 10000 to 604800000, not 1
        - webhook: is no address: empty host; send https://…
        ");
    }

    #[test]
    fn a_slip_of_the_pen_is_a_warning() {
        let (request, _) =
            envelope(json!({"web_hook": "https://example.org", "policy": {"executionTimeOut": 1}})).unwrap();
        assert_eq!(request.warnings.len(), 2, "{:?}", request.warnings);
    }

    #[test]
    fn wait_is_in_milliseconds() {
        assert_eq!(parse_wait(None).unwrap(), None);
        assert_eq!(parse_wait(Some("1000")).unwrap(), Some(Duration::from_secs(1)));
        for wrong in ["", "999", "300001", "-1", "1e4", "soon"] {
            assert!(parse_wait(Some(wrong)).unwrap_err().message.contains("wait"), "{wrong}");
        }
    }

    #[test]
    fn every_status_is_read_back() {
        for state in JobState::ALL {
            assert_eq!(parse_status(status_word(state)).unwrap(), state);
        }
        assert!(parse_status("RUNNING?").is_err());
    }
}
