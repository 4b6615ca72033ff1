//! Who a client is, for its quota.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap};

use crate::http::auth::Admitted;
use crate::net::address::not_public;

/// What a client is known by: its key, else its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// The digest of its key.
    Key([u8; 32]),
    /// Its address.
    Address(IpAddr),
    /// Nothing is known of it.
    Unknown,
}

impl Client {
    /// The client that sent a request, by the key that let it in where requests must bring one.
    ///
    /// Where the connection comes from an address that is not public, a proxy of ours stands in front, and the client
    /// is the last address that it put into `X-Forwarded-For`; what stands before that, anybody could have written.
    pub(super) fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        if let Some(Admitted(digest)) = extensions.get() {
            return Self::Key(*digest);
        }
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let behind_proxy = peer.is_none_or(|peer| not_public(peer).is_some());
        let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
        let forwarded = forwarded
            .and_then(|value| value.to_str().ok())
            .and_then(|list| list.rsplit(',').next())
            .and_then(|address| address.trim().parse().ok())
            .filter(|_| behind_proxy);
        forwarded.or(peer).map_or(Self::Unknown, Self::Address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, headers: &[(&'static str, &str)], admitted: Option<Admitted>) -> Client {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 4711)));
        if let Some(admitted) = admitted {
            extensions.insert(admitted);
        }
        Client::of(&map, &extensions)
    }

    fn address(text: &str) -> Client {
        Client::Address(text.parse().unwrap())
    }

    #[test]
    fn a_proxy_of_ours_is_believed_and_nobody_else() {
        let forwarded = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2, 9.9.9.9")];
        assert_eq!(client("10.0.0.1", &forwarded, None), address("9.9.9.9"));
        assert_eq!(client("8.8.8.8", &forwarded, None), address("8.8.8.8"));
        assert_eq!(
            client("10.0.0.1", &[("x-forwarded-for", "nobody")], None),
            address("10.0.0.1")
        );
        assert_eq!(Client::of(&HeaderMap::new(), &Extensions::new()), Client::Unknown);
    }

    #[test]
    fn the_key_that_let_it_in_names_a_client_and_no_other() {
        let key = [("authorization", "Bearer 4711")];
        assert_eq!(client("8.8.8.8", &key, Some(Admitted([7; 32]))), Client::Key([7; 32]));
        // Anybody could send any.
        assert_eq!(client("8.8.8.8", &key, None), address("8.8.8.8"));
    }
}
