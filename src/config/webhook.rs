//! Webhooks: how they are signed, and how long they are tried.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;

use super::variable::{Reader, Variable, integer};
use crate::encoding::STANDARD;

/// What a signing secret in the form of Standard Webhooks begins with.
const PREFIX: &str = "whsec_";

/// A key that webhooks are signed with. Prints as stars.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// Reads a secret: `whsec_` and base64, as standardwebhooks.com writes it, or any other text, whose bytes are the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let key = match text.strip_prefix(PREFIX) {
            Some(encoded) => STANDARD
                .decode(encoded)
                .map_err(|error| format!("has a secret whose text after `{PREFIX}` is no base64 ({error})"))?,
            None => text.as_bytes().to_vec(),
        };
        if key.is_empty() {
            return Err("has an empty secret".to_owned());
        }
        Ok(Self(key))
    }

    /// The key itself.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How webhooks are signed and tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    /// The keys to sign with, each giving one signature; none: webhooks are not signed.
    pub keys: Vec<SigningKey>,
    /// The most attempts for one webhook, the first included.
    pub attempts: u32,
    /// The wait after the first attempt; later ones grow from it.
    pub first_delay: Duration,
    /// The longest that one attempt may take, from the look-up of the name to the end of the answer.
    pub timeout: Duration,
}

const WEBHOOK_SECRET: Variable = Variable {
    name: "WEBHOOK_SECRET",
    kind: "secrets, comma-separated",
    default: None,
    example: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    meaning: "Signs webhooks as Standard Webhooks (`webhook-signature`). `whsec_` and base64, or plain text, whose bytes are the key then. Several, while the receivers change to a new one: each signs. Not set: webhooks are not signed.",
    secret: true,
};
const WEBHOOK_ATTEMPTS: Variable = Variable {
    name: "WEBHOOK_ATTEMPTS",
    kind: "number, 1 to 100",
    default: Some("12"),
    example: "5",
    meaning: "The most attempts to deliver one webhook. The waits between them grow 2.5-fold from `WEBHOOK_RETRY_DELAY_S` to 6 hours: 12 attempts take about 22 hours.",
    secret: false,
};
const WEBHOOK_RETRY_DELAY_S: Variable = Variable {
    name: "WEBHOOK_RETRY_DELAY_S",
    kind: "seconds, 1 to 21600",
    default: Some("15"),
    example: "60",
    meaning: "The wait between the first and the second attempt to deliver a webhook.",
    secret: false,
};
const WEBHOOK_TIMEOUT_S: Variable = Variable {
    name: "WEBHOOK_TIMEOUT_S",
    kind: "seconds, 1 to 600",
    default: Some("30"),
    example: "10",
    meaning: "The longest that one attempt to deliver a webhook may take, answer included.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[
    &WEBHOOK_SECRET,
    &WEBHOOK_ATTEMPTS,
    &WEBHOOK_RETRY_DELAY_S,
    &WEBHOOK_TIMEOUT_S,
];

#[derive(Deserialize, Default)]
#[expect(clippy::struct_field_names, reason = "they are the variables' names")]
struct Raw {
    webhook_secret: Option<String>,
    webhook_attempts: Option<String>,
    webhook_retry_delay_s: Option<String>,
    webhook_timeout_s: Option<String>,
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<WebhookConfig> {
    let raw: Raw = reader.raw(vars);
    let keys = reader.optional(&WEBHOOK_SECRET, raw.webhook_secret, |text| {
        text.split(',').map(|secret| SigningKey::parse(secret.trim())).collect()
    });
    let attempts = reader.value(&WEBHOOK_ATTEMPTS, raw.webhook_attempts, integer(1..=100_u32));
    let first_delay = reader.value(
        &WEBHOOK_RETRY_DELAY_S,
        raw.webhook_retry_delay_s,
        integer(1..=21_600_u64),
    );
    let timeout = reader.value(&WEBHOOK_TIMEOUT_S, raw.webhook_timeout_s, integer(1..=600_u64));
    Some(WebhookConfig {
        keys: keys?.unwrap_or_default(),
        attempts: attempts?,
        first_delay: Duration::from_secs(first_delay?),
        timeout: Duration::from_secs(timeout?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_base64_or_text() {
        assert_eq!(SigningKey::parse("whsec_aGVsbG8=").unwrap().reveal(), b"hello");
        assert_eq!(SigningKey::parse("hello").unwrap().reveal(), b"hello");
        assert!(SigningKey::parse("whsec_***").unwrap_err().contains("no base64"));
        assert!(SigningKey::parse("whsec_").unwrap_err().contains("empty"));
        assert!(SigningKey::parse("").unwrap_err().contains("empty"));
        assert_eq!(format!("{:?}", SigningKey::parse("hello")), "Ok(***)");
    }
}
