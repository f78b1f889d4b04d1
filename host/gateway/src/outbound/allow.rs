//! What a binding's `http.allow` says, and whom it lets a plugin reach.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use url::Host;

use super::address::{canonical, is_private, is_private_net};
use super::request::Target;

/// The hosts that a plugin may reach; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    hosts: Hosts,
    /// `None` is the scheme's own.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    /// This name, in lower case and punycode.
    Name(String),
    /// Names that end with this, which begins with a dot.
    Below(String),
    Net(IpNet),
}

impl AllowList {
    /// Reads `api.example.com`, `*.example.org:8443`, `10.1.2.3`, `10.0.0.0/8`, `[fd00::1]:8080`.
    ///
    /// # Errors
    /// The place of the entry that is none of these, and what is wrong with it.
    pub fn parse(entries: &[String]) -> Result<Self, (usize, String)> {
        let entries = entries.iter().enumerate().map(|(index, text)| {
            entry(text).map_err(|problem| (index, format!("`{text}` {problem}")))
        });
        entries.collect::<Result<_, _>>().map(Self)
    }

    /// Its entries, as a configuration may write them.
    pub fn hosts(&self) -> Vec<String> {
        self.0.iter().map(Entry::to_string).collect()
    }

    /// Whether it names no host.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it has the host of `target`, as the URL names it, and the port.
    pub(super) fn names(&self, target: &Target) -> bool {
        self.0.iter().any(|entry| {
            let port = entry.port.unwrap_or(target.default_port());
            port == target.port && entry.hosts.has(&target.host)
        })
    }

    /// Whether `ip`, an address of a `target` that it [`names`](Self::names), may be connected to.
    /// One that is not the Internet's must be named by itself, or by a network that has no other.
    pub(super) fn reaches(&self, target: &Target, ip: IpAddr) -> bool {
        if !is_private(ip) {
            return true;
        }
        let ip = canonical(ip);
        if ip.is_loopback() && matches!(&target.host, Host::Domain(name) if name == "localhost") {
            return true;
        }
        self.0.iter().any(|entry| {
            entry.port.is_none_or(|port| port == target.port)
                && matches!(entry.hosts, Hosts::Net(net) if net.contains(&ip) && is_private_net(net))
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port.map(|port| format!(":{port}"));
        let port = port.unwrap_or_default();
        match &self.hosts {
            Hosts::Name(name) => write!(f, "{name}{port}"),
            Hosts::Below(suffix) => write!(f, "*{suffix}{port}"),
            Hosts::Net(net) => {
                let text = match net.prefix_len() == net.max_prefix_len() {
                    true => net.addr().to_string(),
                    false => net.to_string(),
                };
                match (net, self.port) {
                    (IpNet::V6(_), Some(_)) => write!(f, "[{text}]{port}"),
                    _ => write!(f, "{text}{port}"),
                }
            }
        }
    }
}

impl Hosts {
    fn has(&self, host: &Host<String>) -> bool {
        let ip = match host {
            Host::Domain(name) => {
                return match self {
                    Self::Name(own) => own == name,
                    Self::Below(suffix) => name.ends_with(suffix),
                    Self::Net(_) => false,
                };
            }
            Host::Ipv4(ip) => IpAddr::V4(*ip),
            Host::Ipv6(ip) => canonical(IpAddr::V6(*ip)),
        };
        matches!(self, Self::Net(net) if net.contains(&ip))
    }
}

fn entry(text: &str) -> Result<Entry, String> {
    if text.contains("://") {
        return Err("is a URL; name its host alone, with `:PORT` or without".to_owned());
    }
    let (hosts, port) = split_port(text)?;
    let port = match port.map(str::parse) {
        None => None,
        Some(Ok(port)) if port != 0 => Some(port),
        Some(_) => return Err("has no port from 1 to 65535 behind its `:`".to_owned()),
    };
    let hosts = net(hosts)?.map_or_else(|| names(hosts), |net| Ok(Hosts::Net(net)))?;
    Ok(Entry { hosts, port })
}

/// The host and the port. An IPv6 address with a port stands in brackets.
fn split_port(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((host, "")) => Ok((host, None)),
            Some((host, port)) if port.starts_with(':') => Ok((host, Some(&port[1..]))),
            _ => Err("has a `[` without `]` or `]:port`".to_owned()),
        };
    }
    match text.split_once(':') {
        // More than one colon: an IPv6 address.
        Some((_, rest)) if rest.contains(':') => Ok((text, None)),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

/// The network or address, if `text` is one.
fn net(text: &str) -> Result<Option<IpNet>, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Some(IpNet::from(canonical(ip))));
    }
    let Some((_, prefix)) = text.split_once('/') else {
        return Ok(None);
    };
    let net = text.parse::<IpNet>();
    let net = net.map_err(|_| {
        format!("is neither a host nor a network such as `10.0.0.0/8` (`/{prefix}` stands behind)")
    })?;
    if net.addr() != net.network() {
        return Err(format!(
            "is not the first address of its network, {}",
            net.trunc()
        ));
    }
    Ok(Some(net))
}

fn names(text: &str) -> Result<Hosts, String> {
    let (name, is_below) = match text.strip_prefix("*.") {
        Some(name) => (name, true),
        None => (text, false),
    };
    let problem = "is not a host name, `*.` and a host name, an address or a network, with `:port` \
                   or without";
    // `example.com/path`, or a whole URL, would be read as the host alone.
    if name.contains(['*', '/', '@', '?', '#', '\\']) || name.is_empty() {
        return Err(problem.to_owned());
    }
    match Host::parse(name) {
        Ok(Host::Domain(name)) if is_below => Ok(Hosts::Below(format!(".{name}"))),
        Ok(Host::Domain(name)) => Ok(Hosts::Name(name)),
        _ => Err(problem.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::request::Target;

    fn list(entries: &[&str]) -> AllowList {
        let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
        AllowList::parse(&entries).expect("entries that can be read")
    }

    fn target(url: &str) -> Target {
        let url = url::Url::parse(url).expect("a URL");
        Target::of(&url).expect("a target")
    }

    fn names(entries: &[&str], url: &str) -> bool {
        list(entries).names(&target(url))
    }

    #[test]
    fn hosts_are_named_exactly_or_below_a_star() {
        let entries = ["api.example.com", "*.example.org:8443", "bücher.example"];
        for allowed in [
            "https://api.example.com/v1?q=1",
            "http://API.example.com/",
            "https://a.example.org:8443/",
            "http://a.b.example.org:8443/",
            "https://xn--bcher-kva.example/",
        ] {
            assert!(names(&entries, allowed), "{allowed}");
        }
        for other in [
            "https://api.example.com:8443/",
            "http://api.example.com:443/",
            "https://evil-api.example.com/",
            "https://api.example.com.evil.example/",
            "https://api.example.com./",
            "https://example.org:8443/",
            "https://evilexample.org:8443/",
            "https://a.example.org/",
            "https://127.0.0.1/",
        ] {
            assert!(!names(&entries, other), "{other}");
        }
    }

    #[test]
    fn addresses_are_named_however_they_are_written() {
        let entries = ["10.0.0.0/8", "127.0.0.1:8080", "[fd00::1]:9000", "::1"];
        for allowed in [
            "http://10.1.2.3/",
            "https://0x0a.1/",
            "http://2130706433:8080/",
            "http://[::ffff:127.0.0.1]:8080/",
            "http://[fd00::1]:9000/",
            "https://[::1]/",
        ] {
            assert!(names(&entries, allowed), "{allowed}");
        }
        for other in [
            "http://11.0.0.1/",
            "http://127.0.0.1/",
            "http://[fd00::1]/",
            "http://localhost:8080/",
        ] {
            assert!(!names(&entries, other), "{other}");
        }
    }

    #[test]
    fn private_addresses_must_be_named_themselves() {
        let reaches = |entries: &[&str], url: &str, ip: &str| {
            list(entries).reaches(&target(url), ip.parse().expect("an address"))
        };
        let named = ["api.example.com:9000", "10.0.0.0/8", "192.168.0.1:80"];
        let url = "http://api.example.com:9000/";
        assert!(reaches(&named, url, "1.1.1.1"));
        assert!(reaches(&named, url, "10.9.9.9"));
        assert!(reaches(&named, url, "::ffff:10.9.9.9"));
        assert!(!reaches(&named, url, "192.168.0.1"), "for another port");
        assert!(!reaches(&named, url, "127.0.0.1"));
        assert!(!reaches(&named, url, "169.254.169.254"));
        assert!(!reaches(&["*.example.com"], url, "::1"));
        for wide in [
            "0.0.0.0/0",
            "128.0.0.0/1",
            "169.0.0.0/8",
            "::/0",
            "::ffff:0:0/96",
        ] {
            assert!(
                !reaches(&[wide], "http://169.254.169.254/", "169.254.169.254"),
                "{wide}"
            );
        }
        assert!(!reaches(&["0.0.0.0/0"], "http://127.0.0.1/", "127.0.0.1"));
        assert!(!reaches(&["::/0"], "http://[::1]/", "::1"));
        assert!(reaches(&["0.0.0.0/0"], "http://1.1.1.1/", "1.1.1.1"));
        assert!(reaches(
            &["169.254.0.0/16"],
            "http://169.254.169.254/",
            "169.254.169.254"
        ));
        let local = "http://localhost/";
        assert!(reaches(&["localhost"], local, "127.0.0.1"));
        assert!(reaches(&["localhost"], local, "::1"));
        assert!(!reaches(&["localhost"], local, "10.0.0.1"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for wrong in [
            "",
            "*",
            "*.",
            "https://api.example.com",
            "api.example.com/v1",
            "api.*.com",
            "api.example.com:",
            "api.example.com:0",
            "api.example.com:70000",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "[::1",
            "[::1]8080",
            "user@host",
            "two words",
        ] {
            let refused = AllowList::parse(&["ok.example".to_owned(), wrong.to_owned()]);
            let (index, problem) = refused.expect_err(wrong);
            assert_eq!(index, 1);
            assert!(problem.starts_with(&format!("`{wrong}` ")), "{problem}");
        }
    }
}
