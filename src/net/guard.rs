//! The guard for users' URLs: a worker must not fetch, or post to, what only the inside of its network should reach
//! (server-side request forgery).
//!
//! ```text
//!  URL ──► check_url: scheme, host, literal address ──► DNS ──► each address judged ──► dialled
//!                           ▲                                                              │
//!                           └──────────────── each redirect, at most five ◄────────────────┘
//! ```
//!
//! Names are judged in the resolver that the HTTP client itself uses, so the address judged is the address dialled and
//! a name that changes in between (DNS rebinding) gains nothing. A literal address never comes by the resolver; it is
//! judged before the request and at each redirect. [`GuardedClient`] hands out no request without that.
//!
//! Proxies of the environment (`HTTPS_PROXY` …) are not used: a proxy would look names up and dial by itself, behind
//! the guard's back.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use reqwest::{Method, RequestBuilder, Response};
use url::{Host, Url};

use super::address::{not_public, reached};
use crate::config::PrivateUrls;

/// The most redirects that are followed.
const MOST_REDIRECTS: usize = 5;
/// The longest that a name's look-up and the connection may take together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a URL is not fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It is no http URL.
    #[error("the scheme `{scheme}` is refused; only http and https are taken")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// It names no host.
    #[error("the URL names no host")]
    NoHost,
    /// It holds an address that is not public.
    #[error(
        "the address {address} is refused: it is not public but {range}; ALLOW_PRIVATE_URLS={address} would allow it"
    )]
    Address {
        /// The address.
        address: IpAddr,
        /// The range it is of.
        range: &'static str,
    },
    /// Its name resolves to nothing but addresses that are not public.
    #[error(
        "the name {name} is refused: its address {address} is not public but {range}; ALLOW_PRIVATE_URLS={name} would allow it"
    )]
    Name {
        /// The name.
        name: String,
        /// The first of its addresses.
        address: IpAddr,
        /// The range it is of.
        range: &'static str,
    },
    /// One redirect led to the next.
    #[error("more than {most} redirects are not followed")]
    Redirects {
        /// The most that are followed.
        most: usize,
    },
}

impl Refused {
    /// The refusal within an error of the HTTP client's: the resolver and the redirects report theirs that way.
    pub fn within<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(refused) = error.downcast_ref() {
                return Some(refused);
            }
            next = error.source();
        }
        None
    }
}

/// Judges users' URLs. Cheap to clone.
#[derive(Clone)]
pub struct AddressGuard {
    allowed: Arc<PrivateUrls>,
    lookup: Arc<dyn Resolve>,
}

impl std::fmt::Debug for AddressGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddressGuard")
            .field("allowed", &self.allowed)
            .finish_non_exhaustive()
    }
}

impl AddressGuard {
    /// A guard that looks names up as this machine does.
    pub fn new(allowed: PrivateUrls) -> Self {
        Self::with_lookup(allowed, Arc::new(SystemLookup))
    }

    /// A guard with a look-up of its own, for tests.
    pub fn with_lookup(allowed: PrivateUrls, lookup: Arc<dyn Resolve>) -> Self {
        Self {
            allowed: Arc::new(allowed),
            lookup,
        }
    }

    /// Judges what the URL itself shows: scheme, host, and the address if it holds one. The `url` crate has normalised
    /// it: `0x7f.1`, `017700000001` and `2130706433` are 127.0.0.1 by now, and zone ids are no URL. A user name and
    /// password are no concern: they are no part of the host, and are sent to it alone.
    pub fn check_url(&self, url: &Url) -> Result<(), Refused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme {
                scheme: url.scheme().to_owned(),
            });
        }
        let address = match url.host() {
            None | Some(Host::Domain("")) => return Err(Refused::NoHost),
            Some(Host::Domain(_)) => return Ok(()),
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
        };
        match self.judge(address) {
            Some(range) => Err(Refused::Address { address, range }),
            None => Ok(()),
        }
    }

    /// Judges the URL, and what its name resolves to now, so that a user can be told at once. A name that does not
    /// resolve passes: it may later. The client judges again whatever this said.
    pub async fn check_url_and_name(&self, url: &Url) -> Result<(), Refused> {
        self.check_url(url)?;
        let Some(name) = url.domain().and_then(|name| name.parse().ok()) else {
            return Ok(());
        };
        let found = tokio::time::timeout(CONNECT_TIMEOUT, self.resolve(name)).await;
        if let Ok(Err(error)) = found
            && let Some(refused) = Refused::within(&*error)
        {
            return Err(refused.clone());
        }
        Ok(())
    }

    /// Looks a name up, for a client with a resolver of its own kind: the addresses that may be dialled, with port 0. The
    /// error holds a [`Refused`] where none may.
    pub async fn look_up_name(&self, name: &str) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
        self.look_up(name.parse()?).await
    }

    async fn look_up(&self, name: Name) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
        let text = name.as_str().to_owned();
        let found = self.lookup.resolve(name).await?;
        Ok(self.sift(&text, found)?)
    }

    /// An HTTP client that reaches only what the guard allows. A server that sends nothing for as long as `silence` is
    /// given up, before its answer or in the midst of it; the caller sets the limit for the whole.
    pub fn client(&self, redirects: Redirects, silence: Duration) -> Result<GuardedClient, reqwest::Error> {
        let policy = match redirects {
            Redirects::Never => redirect::Policy::none(),
            Redirects::Checked => {
                let guard = self.clone();
                redirect::Policy::custom(move |attempt| {
                    if attempt.previous().len() > MOST_REDIRECTS {
                        return attempt.error(Refused::Redirects { most: MOST_REDIRECTS });
                    }
                    match guard.check_url(attempt.url()) {
                        Ok(()) => attempt.follow(),
                        Err(refused) => attempt.error(refused),
                    }
                })
            }
        };
        let http = reqwest::Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(self.clone())
            .redirect(policy)
            // The query of a URL may hold a signature, which is private after a redirect.
            .referer(false)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(silence)
            .build()?;
        Ok(GuardedClient {
            guard: self.clone(),
            http,
        })
    }

    /// The name of the range that an address is refused for.
    fn judge(&self, address: IpAddr) -> Option<&'static str> {
        let range = not_public(address)?;
        let allowed = match &*self.allowed {
            PrivateUrls::None => false,
            PrivateUrls::All => true,
            PrivateUrls::Listed { networks, .. } => networks
                .iter()
                .any(|network| network.contains(&address) || network.contains(&reached(address))),
        };
        (!allowed).then_some(range)
    }

    /// Whether somebody has allowed the URL's host that is not public: an address, or a name that is listed.
    pub fn allows_privately(&self, url: &Url) -> bool {
        let address = match url.host() {
            Some(Host::Domain(name)) => return *self.allowed == PrivateUrls::All || self.allows_name(name),
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            None => return false,
        };
        not_public(address).is_some() && self.judge(address).is_none()
    }

    fn allows_name(&self, name: &str) -> bool {
        match &*self.allowed {
            PrivateUrls::Listed { names, .. } => {
                let name = name.trim_end_matches('.');
                names.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
            }
            PrivateUrls::None | PrivateUrls::All => false,
        }
    }

    /// Keeps the addresses that may be dialled. A name with both kinds is dialled at its public ones.
    fn sift(&self, name: &str, found: Addrs) -> Result<Vec<SocketAddr>, Refused> {
        if self.allows_name(name) {
            return Ok(found.collect());
        }
        let mut kept = Vec::new();
        let mut refused = None;
        for socket in found {
            match self.judge(socket.ip()) {
                None => kept.push(socket),
                Some(range) => {
                    refused.get_or_insert_with(|| Refused::Name {
                        name: name.to_owned(),
                        address: socket.ip(),
                        range,
                    });
                }
            }
        }
        match refused {
            Some(refused) if kept.is_empty() => Err(refused),
            _ => Ok(kept),
        }
    }
}

impl Resolve for AddressGuard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let kept = guard.look_up(name).await?;
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

/// The look-up of this machine (getaddrinfo).
struct SystemLookup;

impl Resolve for SystemLookup {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The client puts the URL's port in place of 0.
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// What a client does with a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirects {
    /// It is the answer.
    Never,
    /// It is judged as the first URL was, and followed, at most five times.
    Checked,
}

/// An HTTP client that reaches only what its guard allows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GuardedClient {
    guard: AddressGuard,
    http: reqwest::Client,
}

impl GuardedClient {
    /// A request to a user's URL. Once sent, [`Refused::within`] its error tells a refusal from a failure.
    pub fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder, Refused> {
        self.guard.check_url(url)?;
        Ok(self.http.request(method, url.clone()))
    }
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It is larger than the caller takes.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The most bytes taken.
        limit: usize,
    },
    /// It broke off.
    #[error("the answer broke off")]
    Broken {
        /// Why.
        #[source]
        source: reqwest::Error,
    },
}

/// Reads a body of at most `limit` bytes; never holds more than that and one piece of the network's.
pub async fn read_limited(mut response: Response, limit: usize) -> Result<Bytes, ReadError> {
    let fits = |length: u64| usize::try_from(length).is_ok_and(|length| length <= limit);
    let length = response.content_length();
    if length.is_some_and(|length| !fits(length)) {
        return Err(ReadError::TooLarge { limit });
    }
    // What is long is not copied each time that it has outgrown its place.
    let expected = length.and_then(|length| usize::try_from(length).ok());
    let mut whole = BytesMut::with_capacity(expected.unwrap_or_default());
    loop {
        let piece = response.chunk().await;
        let Some(piece) = piece.map_err(|source| ReadError::Broken {
            source: source.without_url(),
        })?
        else {
            return Ok(whole.freeze());
        };
        if whole.len() + piece.len() > limit {
            return Err(ReadError::TooLarge { limit });
        }
        whole.extend_from_slice(&piece);
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
