//! Where to listen, as operators write it: an address or a name, and a port.

use std::net::{SocketAddr, ToSocketAddrs as _};

use serde::{Deserialize as _, Deserializer, de::Error as _};

/// Reads `127.0.0.1:8000`, `[::1]:8000` or `localhost:8000`. A name is looked up once, here; of
/// several addresses the first of IPv4 is taken, which is what clients try for `localhost`.
///
/// # Errors
/// What is wrong, without the text itself: whoever asks names it.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let has_name_and_port = text.rsplit_once(':').is_some_and(|(name, port)| {
        !name.is_empty() && !name.contains(':') && port.parse::<u16>().is_ok()
    });
    if !has_name_and_port {
        return Err(
            "an address or a name is needed, and a port, such as `127.0.0.1:8000`, `[::1]:8000` \
             or `localhost:8000`"
                .to_owned(),
        );
    }
    let found: Vec<SocketAddr> = text
        .to_socket_addrs()
        .map_err(|error| format!("the name cannot be resolved: {error}"))?
        .collect();
    let ipv4 = found.iter().find(|address| address.is_ipv4());
    ipv4.or(found.first())
        .copied()
        .ok_or_else(|| "the name has no address".to_owned())
}

/// For a key that has a default.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(value: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(value)?;
    listen_address(&text).map_err(D::Error::custom)
}

/// For a key that may be left out.
pub(super) fn deserialize_some<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<SocketAddr>, D::Error> {
    deserialize(value).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_with_a_port_are_read() {
        for (text, address) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("[::1]:0", "[::1]:0"),
            ("localhost:8000", "127.0.0.1:8000"),
        ] {
            assert_eq!(listen_address(text).unwrap().to_string(), address);
        }
    }

    #[test]
    fn what_is_missing_is_told() {
        for text in [
            "localhost",
            "8000",
            ":8000",
            "::1:8000",
            "localhost:",
            "localhost:65536",
            "",
        ] {
            let error = listen_address(text).unwrap_err();
            assert!(
                error.starts_with("an address or a name is needed, and a port"),
                "{error}"
            );
        }
        // Longer than any name may be, so nobody is asked.
        let error = listen_address(&format!("{}:1", "a".repeat(300))).unwrap_err();
        assert!(
            error.starts_with("the name cannot be resolved: "),
            "{error}"
        );
    }
}
