//! What stands around `input`: the policy, the webhook, the priority, and the parameters of the routes.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};
use url::Url;

use super::input::Wishes;
use super::{input, status_word, strange};
use crate::config::BucketAccess;
use crate::dialect::fields::{Fields, describe, object_of};
use crate::echo;
use crate::error::JobError;
use crate::job::{JobRequest, JobState, Policy};
use crate::json;

/// Every field that a request may have beside `input`. `id` is what RunPod's queue adds; `s3Config` and `webhookV2` are
/// RunPod's too.
pub(super) const FIELDS: &[&str] = &["input", "policy", "webhook", "priority", "id", "s3Config", "webhookV2"];
pub(super) const POLICY_FIELDS: &[&str] = &["executionTimeout", "ttl", "lowPriority"];

/// The fields of `input` without which the picture is another: beside it they are an error.
const WORK: &[&str] = &[
    "workflow",
    "prompt",
    "image",
    "image_url",
    "images",
    "size",
    "width",
    "height",
    "megapixels",
    "aspect_ratio",
    "loras",
    "template",
];

const WEEK_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// RunPod's range of `policy.executionTimeout`, in milliseconds
/// (docs.runpod.io/serverless/endpoints/send-requests, execution policies).
pub(super) const EXECUTION_TIMEOUT_MS: RangeInclusive<u64> = 5_000..=WEEK_MS;
/// RunPod's range of `policy.ttl`, in milliseconds (the same page).
pub(super) const TTL_MS: RangeInclusive<u64> = 10_000..=WEEK_MS;
/// The range of `priority`, which is ours.
pub(super) const PRIORITY: RangeInclusive<i32> = -100..=100;
/// What RunPod's `policy.lowPriority` means as a priority.
const LOW_PRIORITY: i32 = -1;

/// How long `/runsync` and `/status-sync` wait under `/v2` unless `?wait=` says otherwise (operation reference).
pub const WAIT: Duration = Duration::from_secs(90);
/// The range of `?wait=`, in milliseconds (operation reference).
pub(super) const WAIT_MS: RangeInclusive<u64> = 1_000..=300_000;

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
    let shape = "Send {\"input\": {\"workflow\": {…}}} or {\"input\": {\"prompt\": \"…\"}}";
    let mut envelope = object_of(body, shape)?;
    let input = match envelope.get_mut("input").map(Value::take) {
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
    let has_graph = input.get("workflow").is_some_and(|graph| !graph.is_null());
    let (policy, bucket) = beside(&mut envelope, sender, has_graph, &mut warnings)?;
    let (mut request, wishes) = input::parse(input)?;
    request.delivery.bucket = bucket.or(request.delivery.bucket);
    request.warnings.extend(warnings);
    Ok((request, policy, wishes))
}

/// Reads what stands beside `input`.
fn beside(
    envelope: &mut Map<String, Value>,
    sender: Sender,
    has_graph: bool,
    warnings: &mut Vec<String>,
) -> Result<(Policy, Option<BucketAccess>), JobError> {
    let mut fields = Fields::new(envelope);
    let mut policy = Policy::default();
    let mut low_priority = false;
    if let Some(mut object) = fields.object("policy") {
        let mut inner = Fields::within("policy.", &mut object);
        policy.execution_timeout = inner
            .integer("executionTimeout", EXECUTION_TIMEOUT_MS)
            .map(Duration::from_millis);
        policy.ttl = inner.integer("ttl", TTL_MS).map(Duration::from_millis);
        low_priority = inner.truth("lowPriority").unwrap_or_default();
        warnings.extend(inner.unknown(POLICY_FIELDS));
        fields.adopt(inner);
    }
    let priority = fields.signed("priority", PRIORITY);
    if low_priority && priority.is_some() {
        fields.problem("priority", "stands beside `policy.lowPriority`; send one of them");
    }
    policy.priority = priority.unwrap_or(if low_priority { LOW_PRIORITY } else { 0 });
    policy.webhook = webhook(&mut fields);
    let bucket = input::s3_config(&mut fields, warnings);
    let mut known = FIELDS.to_vec();
    for name in input_fields(&fields) {
        known.push(name);
        if WORK.contains(&name) && fields.says_something(name) {
            fields.problem(name, "stands beside `input` and belongs into it");
        } else {
            warnings.push(format!(
                "`{name}` stands beside `input`, where it has no effect; it belongs into it"
            ));
        }
    }
    if sender == Sender::Client {
        strange::unasked(&mut fields, &known, "input.", has_graph);
        warnings.extend(fields.unknown(&known));
    }
    fields.finish()?;
    Ok((policy, bucket))
}

/// The fields beside `input` that are fields of `input`.
fn input_fields(fields: &Fields<'_>) -> Vec<&'static str> {
    fields.strange(FIELDS).filter_map(input::field).collect()
}

/// Where the answer goes. Whether we may go there is decided when we do.
fn webhook(fields: &mut Fields<'_>) -> Option<Url> {
    let text = fields.text("webhook")?;
    // The address may hold a secret, so the message does not repeat it.
    match Url::parse(&text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Some(url),
        Ok(url) => {
            fields.problem(
                "webhook",
                format!(
                    "must be an http or https address, not one of `{}`",
                    echo::cut(url.scheme())
                ),
            );
            None
        }
        Err(error) => {
            fields.problem("webhook", format!("is no address: {error}; send https://…"));
            None
        }
    }
}

/// Reads `?wait=`, in milliseconds.
pub fn parse_wait(text: Option<&str>) -> Result<Option<Duration>, JobError> {
    let Some(text) = text else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(wait) if WAIT_MS.contains(&wait) => Ok(Some(Duration::from_millis(wait))),
        _ => Err(JobError::invalid(format!(
            "Invalid request: wait: must be milliseconds from {} to {}, not {}",
            WAIT_MS.start(),
            WAIT_MS.end(),
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
