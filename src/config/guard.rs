//! Which of the addresses that are not public users' URLs may name.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::variable::{Reader, Variable, boolean};

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
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
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

/// How users' URLs are guarded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardConfig {
    /// What is allowed beside public addresses.
    pub private_urls: PrivateUrls,
}

const ALLOW_PRIVATE_URLS: Variable = Variable {
    name: "ALLOW_PRIVATE_URLS",
    kind: "true, false, or networks, addresses and host names, comma-separated",
    default: Some("false"),
    example: "10.1.0.0/16,fd12::/16,hooks.internal",
    meaning: "Where users' URLs (webhooks, input images) may lead beside public addresses. A host name listed may resolve to anything. `true`: anywhere, so any user reaches what this machine reaches.",
    secret: false,
};

pub(super) const VARIABLES: &[&Variable] = &[&ALLOW_PRIVATE_URLS];

#[derive(Deserialize, Default)]
struct Raw {
    allow_private_urls: Option<String>,
}

pub(super) fn read(reader: &mut Reader, vars: &[(String, String)]) -> Option<GuardConfig> {
    let raw: Raw = reader.raw(vars);
    let private_urls = reader.value(&ALLOW_PRIVATE_URLS, raw.allow_private_urls, PrivateUrls::parse);
    Some(GuardConfig {
        private_urls: private_urls?,
    })
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
}
