//! URLs that users name: where they may lead, how images are fetched from them, and how webhooks are sent to them.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use ipnet::IpNet;

use super::retired::{
    IMAGE_BUCKETS, IMAGE_MAX_BYTES, IMAGE_TIMEOUT_S, WEBHOOK_ATTEMPTS, WEBHOOK_RETRY_DELAY_S, WEBHOOK_TIMEOUT_S,
};
use super::variable::{Reader, Variable, boolean, listed, parsed};
use crate::encoding::STANDARD;

/// What users' URLs may name beside public addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PrivateUrls {
    /// Nothing.
    #[default]
    None,
    /// Everything: the guard is off.
    All,
    /// These networks, and these names whatever they resolve to.
    Listed {
        /// The networks; a single address is a network of one.
        networks: Vec<IpNet>,
        /// The host names, in lower case, without a trailing dot.
        names: Vec<String>,
    },
}

impl PrivateUrls {
    /// Reads `true`, `false`, or networks, addresses and host names with commas between them.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(all) = boolean(text) {
            return Ok(if all { Self::All } else { Self::None });
        }
        let mut networks = Vec::new();
        let mut names = Vec::new();
        for part in listed(text) {
            if let Ok(network) = part.parse::<IpNet>() {
                networks.push(network.trunc());
            } else if let Ok(address) = part.parse::<IpAddr>() {
                networks.push(IpNet::from(address));
            } else if is_host_name(part) {
                names.push(part.trim_end_matches('.').to_ascii_lowercase());
            } else {
                return Err(format!(
                    "has `{part}`, which is neither a network, nor an address, nor a host name"
                ));
            }
        }
        if networks.is_empty() && names.is_empty() {
            return Err("lists nothing".to_owned());
        }
        Ok(Self::Listed { networks, names })
    }
}

/// Letters, digits, hyphens, underscores and dots, and not what was meant as an address (`10.0.0.300`).
fn is_host_name(text: &str) -> bool {
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    !last.is_empty()
        && !last.bytes().all(|byte| byte.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// How input images are fetched that a request names by URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagesConfig {
    /// The most bytes of one image.
    pub max_bytes: usize,
    /// The longest that one image may take, all attempts included.
    pub timeout: Duration,
    /// The buckets that `s3://` may name with the configured keys, beside the one for results.
    pub buckets: Vec<String>,
}

/// What a signing secret in the form of Standard Webhooks begins with.
const PREFIX: &str = "whsec_";

/// A key that webhooks are signed with. Prints as stars.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// Reads a secret: `whsec_` and base64, as standardwebhooks.com writes it, or any text, whose bytes are the key then.
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

const WEBHOOK_SECRET: Variable<Vec<SigningKey>> = parsed("WEBHOOK_SECRET", "secrets, comma-separated", signing_keys)
    .hidden()
    .example("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    .meaning("Signs webhooks as Standard Webhooks (`webhook-signature`). `whsec_` and base64, or plain text, whose bytes are the key then. Several, while the receivers change to a new one: each signs. Not set: webhooks are not signed.");
pub(super) const ALLOW_PRIVATE_URLS: Variable<PrivateUrls> =
    parsed("ALLOW_PRIVATE_URLS", "true, false, or networks, addresses and host names, comma-separated", PrivateUrls::parse)
        .default_and_example("false", "10.1.0.0/16,fd12::/16,hooks.internal")
        .meaning("Where users' URLs (webhooks, input images, models) may lead beside public addresses. A host name listed may resolve to anything. `true`: anywhere, so any user reaches what this machine reaches.");

pub(super) fn images(reader: &mut Reader) -> ImagesConfig {
    ImagesConfig {
        max_bytes: reader.value(&IMAGE_MAX_BYTES),
        timeout: reader.value(&IMAGE_TIMEOUT_S),
        buckets: reader.optional(&IMAGE_BUCKETS).unwrap_or_default(),
    }
}

pub(super) fn webhook(reader: &mut Reader) -> WebhookConfig {
    WebhookConfig {
        keys: reader.optional(&WEBHOOK_SECRET).unwrap_or_default(),
        attempts: reader.value(&WEBHOOK_ATTEMPTS),
        first_delay: reader.value(&WEBHOOK_RETRY_DELAY_S),
        timeout: reader.value(&WEBHOOK_TIMEOUT_S),
    }
}

fn signing_keys(text: &str) -> Result<Vec<SigningKey>, String> {
    text.split(',').map(|secret| SigningKey::parse(secret.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_or_a_list() {
        assert_eq!(PrivateUrls::parse("True"), Ok(PrivateUrls::All));
        assert_eq!(PrivateUrls::parse("false"), Ok(PrivateUrls::None));
        assert_eq!(
            PrivateUrls::parse("10.1.2.3/16, ::1, Hooks.Internal.,localhost"),
            Ok(PrivateUrls::Listed {
                networks: vec!["10.1.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()],
                names: vec!["hooks.internal".to_owned(), "localhost".to_owned()],
            })
        );
    }

    #[test]
    fn what_is_neither_is_named() {
        for wrong in [
            "10.0.0.0/33",
            "10.0.0.300",
            "http://hooks.internal",
            "a b",
            "host:80",
            ",",
        ] {
            let message = PrivateUrls::parse(wrong).unwrap_err();
            assert!(wrong == "," || message.contains(wrong), "{message}");
        }
    }

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
