//! Address of the client: that of the connection, or behind a trusted reverse proxy the one that
//! the proxy names in `X-Forwarded-For` or `Forwarded` (RFC 7239).
//!
//! Both headers are lists to which each proxy appends the address that it was called from. They are
//! read from the end, for as long as the entries are proxies of ours: what stands before may have
//! been written by the client. A proxy writes one of the two and may pass the other on as the
//! client sent it; so when both are there and disagree, neither is believed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED: &str = "forwarded";

/// Headers that no client but a proxy sends.
const PROXY_HEADERS: [&str; 5] = [X_FORWARDED_FOR, FORWARDED, "x-forwarded-host", "x-real-ip", "via"];

/// Whether the request came through a proxy, trusted or not.
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    PROXY_HEADERS.iter().any(|name| headers.contains_key(*name))
}

/// Returns the client's address.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_proxy = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    if !is_proxy(peer) {
        return peer;
    }
    // An entry that is no address ("unknown", "_hidden") ends the search at the proxy that wrote it.
    let last_untrusted = |entries: Vec<Option<IpAddr>>| {
        let mut client = peer;
        for entry in entries.into_iter().rev() {
            match entry {
                Some(address) if is_proxy(client) => client = address,
                _ => break,
            }
        }
        client
    };
    let (old, new) = (x_forwarded_for(headers), forwarded(headers));
    match (old.is_empty(), new.is_empty()) {
        (false, true) => last_untrusted(old),
        (true, false) => last_untrusted(new),
        _ => match (last_untrusted(old), last_untrusted(new)) {
            (a, b) if a == b => a,
            _ => peer,
        },
    }
}

/// The key under which the requests of a client are counted: its address, or its network of 64
/// bits, since a single IPv6 client has all addresses of one.
pub fn counted_as(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

fn texts<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().flat_map(|value| value.to_str().unwrap_or("unreadable").split(','))
}

fn x_forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    texts(headers, X_FORWARDED_FOR).map(|entry| address(entry.trim())).collect()
}

fn forwarded(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    texts(headers, FORWARDED)
        .map(|entry| {
            let mut pairs = entry.split(';').filter_map(|pair| pair.split_once('='));
            let (_, client) = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case("for"))?;
            address(client.trim().trim_matches('"'))
        })
        .collect()
}

/// Reads `10.0.0.1`, `10.0.0.1:80`, `2001:db8::1`, `[2001:db8::1]` and `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse().ok().map(|socket: SocketAddr| socket.ip());
    bare.parse().ok().or_else(with_port).map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str, headers: &[(&str, &str)]) -> String {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"].map(|n| n.parse().expect("a network")).into();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: axum::http::HeaderName = name.parse().expect("a name");
            map.append(name, value.parse().expect("a value"));
        }
        client_address(peer.parse().expect("an address"), &map, &trusted).to_string()
    }

    #[test]
    fn headers_count_from_trusted_proxies_alone() {
        let claimed = [("x-forwarded-for", "192.0.2.7")];
        assert_eq!(of("10.0.0.1", &claimed), "192.0.2.7");
        assert_eq!(of("203.0.113.9", &claimed), "203.0.113.9");
        assert_eq!(of("::ffff:10.0.0.1", &claimed), "192.0.2.7");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn lists_are_read_from_the_end() {
        for (headers, client) in [
            (vec![("x-forwarded-for", "127.0.0.1, 192.0.2.7, 10.2.3.4")], "192.0.2.7"),
            (vec![("x-forwarded-for", "127.0.0.1"), ("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
            (vec![("x-forwarded-for", "10.9.9.9, 10.2.3.4")], "10.9.9.9"),
            (vec![("x-forwarded-for", "127.0.0.1, nonsense, 10.2.3.4")], "10.2.3.4"),
            (vec![("forwarded", "for=127.0.0.1, for=192.0.2.7;proto=https;by=10.0.0.1")], "192.0.2.7"),
            (vec![("forwarded", "proto=http;For=\"[2001:db8::17]:4711\"")], "2001:db8::17"),
            (vec![("forwarded", "for=unknown")], "10.0.0.1"),
            (vec![("forwarded", "for=192.0.2.7"), ("x-forwarded-for", "192.0.2.7")], "192.0.2.7"),
            (vec![("forwarded", "for=127.0.0.1"), ("x-forwarded-for", "192.0.2.7")], "10.0.0.1"),
        ] {
            assert_eq!(of("10.0.0.1", &headers), client, "{headers:?}");
        }
    }

    #[test]
    fn an_ipv6_client_is_one_however_many_addresses_it_has() {
        let key = |a: &str| counted_as(a.parse().expect("an address"));
        assert_eq!(key("2001:db8:1:2:3::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
