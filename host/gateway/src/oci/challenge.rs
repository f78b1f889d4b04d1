//! `WWW-Authenticate`: how a registry wants to be asked.

/// What the registry wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with every request.
    Basic,
    /// A token, from another address.
    Bearer {
        /// Where tokens come from.
        realm: String,
        /// What the token is for.
        service: Option<String>,
    },
}

impl Challenge {
    /// The first challenge of `headers` that can be met.
    pub(super) fn find<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        headers.into_iter().find_map(Self::parse)
    }

    fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        for (name, value) in Parameters(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                // The scope is ours to choose: what is asked for, and no more.
                _ => {}
            }
        }
        realm.map(|realm| Self::Bearer { realm, service })
    }
}

/// `name="value", name=value` and so on; ends where it is something else.
struct Parameters<'a>(&'a str);

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a str, String);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.0.trim_start_matches([',', ' ']).split_once('=')?;
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find(',').unwrap_or(rest.len());
            self.0 = &rest[end..];
            return Some((name.trim(), rest[..end].trim().to_owned()));
        };
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((index, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = &quoted[index + 1..];
                    return Some((name.trim(), value));
                }
                '\\' => value.push(characters.next()?.1),
                other => value.push(other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(headers: &[&str]) -> Option<Challenge> {
        Challenge::find(headers.iter().copied())
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        })
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub = r#"Bearer realm="https://auth.example.com/token",service="registry, the",scope="repository:a:pull""#;
        assert_eq!(
            find(&[hub]),
            bearer("https://auth.example.com/token", Some("registry, the"))
        );
        assert_eq!(
            find(&["bearer scope=x, realm=https://a/b , error=\"invalid_token\""]),
            bearer("https://a/b", None)
        );
        assert_eq!(find(&[r#"Bearer realm="a\"b""#]), bearer("a\"b", None));
        assert_eq!(
            find(&["Negotiate", "Basic realm=\"x\""]),
            Some(Challenge::Basic)
        );
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        for header in [
            "",
            "Bearer",
            "Bearer realm",
            "Bearer realm=\"unended",
            "Digest realm=\"x\"",
        ] {
            assert_eq!(find(&[header]), None, "{header}");
        }
    }
}
