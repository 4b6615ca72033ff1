//! The broker of a fleet: where it is, and what lets us in.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

use super::variable::{Reader, Secret, Variable, parsed};

/// The servers of a broker, and what lets us in. Prints without the latter.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerAddress {
    servers: Vec<Url>,
    login: Option<BrokerLogin>,
}

/// What lets us in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerLogin {
    /// A token.
    Token(Secret),
    /// A user's name and password.
    User(String, Secret),
}

// Its name and password are secrets.
const FLEET_URL: Variable<BrokerAddress> = parsed("FLEET_URL", "nats or tls URLs, comma-separated", |text| {
    text.parse().map_err(|error: NotABroker| error.to_string())
})
.hidden()
.example("nats://worker:0123456789abcdef@nats:4222")
.meaning("The broker of a fleet (NATS with JetStream): `serve` takes jobs from it too, one for each ComfyUI that has nothing to do. A name and password, or a token, stand in the URL. See [scaling](scaling.md#fleet).");

pub(super) fn read(reader: &mut Reader) -> Option<BrokerAddress> {
    reader.optional(&FLEET_URL)
}

/// Why a text is no address of a broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotABroker {
    /// It is no URL of NATS.
    #[error("is no URL such as nats://host:4222, or several with commas between them")]
    Url,
    /// There is more than a server in it.
    #[error("has a path or a query; a server has none")]
    More,
    /// Its servers have different names and passwords.
    #[error("has different names or passwords; one is for all of its servers")]
    Logins,
}

impl BrokerAddress {
    /// The same with a key: `USER:PASSWORD`, or a token.
    #[must_use]
    pub fn with_key(mut self, key: &Secret) -> Self {
        self.login = Some(match key.reveal().split_once(':') {
            Some((user, password)) => BrokerLogin::User(user.to_owned(), Secret::new(password)),
            None => BrokerLogin::Token(key.clone()),
        });
        self
    }

    /// The servers, without what lets us in.
    pub fn servers(&self) -> Vec<String> {
        self.servers.iter().map(|url| url.as_str().to_owned()).collect()
    }

    /// Whether something secret goes there unprotected, as far as that can be told: a server may want TLS without being called
    /// `tls://`.
    pub fn is_in_the_open(&self) -> bool {
        self.login.is_some() && self.servers.iter().any(|url| url.scheme() == "nats")
    }

    /// What lets us in, where something is needed.
    pub fn login(&self) -> Option<&BrokerLogin> {
        self.login.as_ref()
    }
}

impl FromStr for BrokerAddress {
    type Err = NotABroker;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut servers, mut login) = (Vec::new(), None);
        for part in text.split(',').map(str::trim) {
            let mut url: Url = part.parse().map_err(|_| NotABroker::Url)?;
            if !matches!(url.scheme(), "nats" | "tls") || url.host_str().is_none_or(str::is_empty) {
                return Err(NotABroker::Url);
            }
            if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
                return Err(NotABroker::More);
            }
            let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            let own = match (url.username(), url.password()) {
                ("", _) => None,
                (token, None) => Some(BrokerLogin::Token(Secret::new(decoded(token)))),
                (user, Some(password)) => Some(BrokerLogin::User(decoded(user), Secret::new(decoded(password)))),
            };
            if own.is_some() && login.is_some() && own != login {
                return Err(NotABroker::Logins);
            }
            login = own.or(login);
            // A URL that has a host takes both.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.set_path("");
            servers.push(url);
        }
        Ok(Self { servers, login })
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.servers().join(","))
    }
}

impl fmt::Debug for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_prints_without_what_opens_it() {
        let address: BrokerAddress = "nats://worker:47%3A11@a:4222, tls://b".parse().unwrap();
        assert_eq!(address.servers(), ["nats://a:4222", "tls://b"]);
        assert_eq!(
            format!("{address} {address:?}"),
            "nats://a:4222,tls://b nats://a:4222,tls://b"
        );
        assert!(address.is_in_the_open());
        assert!(address.login == Some(BrokerLogin::User("worker".to_owned(), Secret::new("47:11"))));
        let token: BrokerAddress = "nats://4711@a".parse().unwrap();
        assert!(token.login == Some(BrokerLogin::Token(Secret::new("4711"))));
        let open: BrokerAddress = "nats://a".parse().unwrap();
        assert!(!open.is_in_the_open());
        let keyed = open.clone().with_key(&Secret::new("4711"));
        assert!(keyed.login == token.login);
        assert!(open.with_key(&Secret::new("worker:47:11")).login == address.login);
    }

    #[test]
    fn what_is_no_address_is_told() {
        for (text, why) in [
            ("", NotABroker::Url),
            ("host:4222", NotABroker::Url),
            ("http://host", NotABroker::Url),
            ("nats://", NotABroker::Url),
            ("nats://a,", NotABroker::Url),
            ("nats://a/jobs", NotABroker::More),
            ("nats://a?x=1", NotABroker::More),
            ("nats://a:b@x,nats://c:d@y", NotABroker::Logins),
        ] {
            assert_eq!(text.parse::<BrokerAddress>().unwrap_err(), why, "{text}");
        }
    }
}
