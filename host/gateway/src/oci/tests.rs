//! How the client takes what registries do.

use std::{
    io::Write as _,
    net::TcpListener,
    time::{Duration, Instant},
};

use super::{
    stub::{Stub, manifest_of},
    *,
};
use crate::config::{Digest, Secret};

fn login() -> Option<Login> {
    Some(Login {
        username: "reader".to_owned(),
        password: Secret::new("pass word"),
    })
}

/// A registry with one component; what it sends of it may be another.
fn with_component(component: &'static [u8], size: usize, sent: &'static [u8]) -> Stub {
    Stub::start(
        move |request, _| match request.line.contains("/manifests/") {
            true => (200, vec![], manifest_of(component, size)),
            false => (200, vec![], sent.to_vec()),
        },
    )
}

fn pull(stub: &Stub, suffix: &str, max_bytes: u64) -> Result<Vec<u8>, OciError> {
    let client = stub.client(suffix, None);
    let artefact = client.resolve(max_bytes)?;
    client.component(&artefact)
}

#[test]
fn a_component_comes_whole_or_not_at_all() {
    let stub = with_component(b"component", 9, b"component");
    assert_eq!(pull(&stub, ":1", 9).unwrap(), b"component");
    let digest = Digest::of(&manifest_of(b"component", 9));
    assert_eq!(pull(&stub, &format!("@{digest}"), 9).unwrap(), b"component");

    let other = Digest::of(b"other");
    let error = pull(&stub, &format!("@{other}"), 9).unwrap_err();
    assert!(
        matches!(
            error,
            OciError::Digest {
                what: "manifest",
                ..
            }
        ),
        "{error}"
    );
    let error = pull(&stub, ":1", 8).unwrap_err();
    assert!(
        matches!(error, OciError::TooLarge { limit: 8, .. }),
        "{error}"
    );

    let tampered = with_component(b"component", 9, b"comporent");
    let error = pull(&tampered, ":1", 9).unwrap_err();
    assert!(
        matches!(
            error,
            OciError::Digest {
                what: "component",
                ..
            }
        ),
        "{error}"
    );
    let endless = with_component(b"component", 9, b"component and more");
    let error = pull(&endless, ":1", 100).unwrap_err();
    assert!(
        matches!(error, OciError::TooLarge { limit: 9, .. }),
        "{error}"
    );
    let short = with_component(b"component", 9, b"compo");
    let error = pull(&short, ":1", 9).unwrap_err();
    assert!(matches!(error, OciError::Digest { .. }), "{error}");
}

#[test]
fn answers_that_are_none_are_named() {
    let cases: [(u16, Vec<u8>, &str); 6] = [
        (
            200,
            b"<html>".to_vec(),
            "sent a manifest that cannot be read",
        ),
        (200, vec![b' '; 300 << 10], "more than the 262144 bytes"),
        (
            404,
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no \u001b[2Jsuch"}]}"#.to_vec(),
            ": no [2Jsuch",
        ),
        (503, b"busy".to_vec(), "answered 503 to the manifest"),
        (403, vec![], "has no login"),
        (302, vec![], "sent a reply that cannot be read"),
    ];
    for (status, body, expected) in cases {
        let stub = Stub::start(move |_, _| (status, vec![], body.clone()));
        let error = pull(&stub, ":1", 9).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.is_transient(), status == 503, "{error}");
    }
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let reference = format!("oci://{closed}/persona").parse().unwrap();
    let error = Client::new(&reference, &Registries::new())
        .resolve(9)
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}

#[test]
fn user_and_password_go_where_they_are_asked_for() {
    let stub = Stub::start(|request, _| match &request.authorization {
        None => (
            401,
            vec![("www-authenticate", "Basic realm=\"x\"".to_owned())],
            vec![],
        ),
        Some(_) => (200, vec![], manifest_of(b"component", 9)),
    });
    stub.client(":1", login()).resolve(9).unwrap();
    let sent: Vec<_> = stub
        .seen()
        .into_iter()
        .map(|seen| seen.authorization)
        .collect();
    let pair = "Basic cmVhZGVyOnBhc3Mgd29yZA==".to_owned();
    assert_eq!(sent, [None, Some(pair)]);
    let error = stub.client(":1", None).resolve(9).unwrap_err();
    assert!(
        matches!(error, OciError::Denied { status: 401, .. }),
        "{error}"
    );
}

#[test]
fn a_token_is_fetched_for_what_is_asked_for_and_kept() {
    let stub = Stub::start(|request, own| {
        if request.line.starts_with("GET /token") {
            return (200, vec![], br#"{"token":"t0k"}"#.to_vec());
        }
        match request.authorization.as_deref() {
            Some("Bearer t0k") if request.line.contains("/blobs/") => {
                (200, vec![], b"component".to_vec())
            }
            Some("Bearer t0k") => (200, vec![], manifest_of(b"component", 9)),
            _ => {
                let challenge = format!("Bearer realm=\"http://{own}/token\",service=\"a b\"");
                (401, vec![("www-authenticate", challenge)], vec![])
            }
        }
    });
    let client = stub.client(":1", login());
    let artefact = client.resolve(9).unwrap();
    client.component(&artefact).unwrap();
    let seen = stub.seen();
    let lines: Vec<_> = seen.iter().map(|seen| seen.line.as_str()).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(
        lines[1].contains("scope=repository%3Ateam%2Fpersona%3Apull"),
        "{lines:?}"
    );
    assert!(
        lines[1].contains("service=a%20b") || lines[1].contains("service=a+b"),
        "{lines:?}"
    );
    assert!(
        seen[1]
            .authorization
            .as_deref()
            .is_some_and(|sent| sent.starts_with("Basic "))
    );
    assert_eq!(seen[3].authorization.as_deref(), Some("Bearer t0k"));
}

#[test]
fn a_login_is_not_sent_through_the_open() {
    let stub = Stub::start(|_, _| {
        let challenge = "Bearer realm=\"http://elsewhere.example/token\"".to_owned();
        (401, vec![("www-authenticate", challenge)], vec![])
    });
    let error = stub.client(":1", login()).resolve(9).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("http://elsewhere.example/token, which is not HTTPS"),
        "{error}"
    );
    assert_eq!(stub.seen().len(), 1);
    // Nor is anything else, where HTTP was not asked for.
    let reference: Reference = format!("oci://{}/persona", stub.authority).parse().unwrap();
    let secure = Registry {
        plain_http: Some(false),
        login: None,
    };
    let registries = Registries::from([(stub.authority.clone(), secure)]);
    Client::new(&reference, &registries).resolve(9).unwrap_err();
    assert_eq!(stub.seen().len(), 1);
}

#[test]
fn a_login_does_not_follow_where_blobs_lie() {
    let storage = Stub::start(|_, _| (200, vec![], b"component".to_vec()));
    let elsewhere = storage.authority.clone();
    let stub = Stub::start(move |request, _| {
        match (&request.authorization, request.line.contains("/blobs/")) {
            (None, _) => (
                401,
                vec![("www-authenticate", "Basic realm=\"x\"".to_owned())],
                vec![],
            ),
            (Some(_), false) => (200, vec![], manifest_of(b"component", 9)),
            (Some(_), true) => (
                307,
                vec![("location", format!("http://{elsewhere}/blob"))],
                vec![],
            ),
        }
    });
    let client = stub.client(":1", login());
    let artefact = client.resolve(9).unwrap();
    assert_eq!(client.component(&artefact).unwrap(), b"component");
    let seen = storage.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].authorization, None);
}

#[test]
fn what_is_published_is_uploaded_once_and_named_by_its_digest() {
    let stub =
        Stub::start(
            |request, _| match request.line.split_once(' ').map(|(method, _)| method) {
                // The config is there already.
                Some("HEAD") => {
                    let is_component = request.line.contains(&Digest::of(b"component").to_string());
                    (if is_component { 404 } else { 200 }, vec![], vec![])
                }
                Some("POST") => (
                    202,
                    vec![(
                        "location",
                        "/v2/team/persona/blobs/uploads/1?state=x".to_owned(),
                    )],
                    vec![],
                ),
                _ => (201, vec![], vec![]),
            },
        );
    let publication = Publication {
        component: b"component",
        title: "persona",
        version: "1.2.0",
        exports: Vec::new(),
        imports: Vec::new(),
        signature: Some("c2ln"),
    };
    let digest = stub.client(":1.2.0", None).publish(&publication).unwrap();
    let seen = stub.seen();
    let lines: Vec<_> = seen.iter().map(|seen| seen.line.as_str()).collect();
    let component = Digest::of(b"component");
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert_eq!(
        lines[2],
        format!("PUT /v2/team/persona/blobs/uploads/1?state=x&digest={component} HTTP/1.1")
    );
    assert_eq!(seen[2].body, b"component");
    assert_eq!(lines[4], "PUT /v2/team/persona/manifests/1.2.0 HTTP/1.1");
    assert_eq!(digest, Digest::of(&seen[4].body));
}

#[test]
fn a_stranger_that_a_redirect_leads_to_hears_no_password() {
    let storage = Stub::start(|_, own| {
        let challenge = format!("Bearer realm=\"http://{own}/token\"");
        (401, vec![("www-authenticate", challenge)], vec![])
    });
    let elsewhere = storage.authority.clone();
    let stub = Stub::start(move |_, _| {
        let location = format!("http://{elsewhere}/blob");
        (307, vec![("location", location)], vec![])
    });
    let error = stub.client(":1", login()).resolve(9).unwrap_err();
    let expected = format!("{} answered 401 to the manifest", storage.authority);
    assert_eq!(error.to_string(), expected);
    let seen = storage.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].authorization, None);
}

#[test]
fn within_the_registry_a_redirect_keeps_the_login() {
    let stub = Stub::start(|request, own| {
        let path = request.line.split(' ').nth(1).unwrap_or_default();
        match (&request.authorization, path) {
            (None, _) => {
                let challenge = "Basic realm=\"x\"".to_owned();
                (401, vec![("www-authenticate", challenge)], vec![])
            }
            (Some(_), "/moved") => (
                302,
                vec![("location", format!("http://{own}/again"))],
                vec![],
            ),
            (Some(_), "/again") => (200, vec![], manifest_of(b"component", 9)),
            (Some(_), _) => (307, vec![("location", "/moved".to_owned())], vec![]),
        }
    });
    let artefact = stub.client(":1", login()).resolve(9).unwrap();
    assert_eq!(artefact.component, Digest::of(b"component"));
}

#[test]
fn redirects_come_to_an_end() {
    let stub = Stub::start(|_, _| (307, vec![("location", "/on".to_owned())], vec![]));
    let error = stub.client(":1", None).resolve(9).unwrap_err();
    assert!(
        error.to_string().contains("redirects more than 3 times"),
        "{error}"
    );
    assert_eq!(stub.seen().len(), 4);
    for nowhere in ["on", "//elsewhere.example/on", "ftp://elsewhere.example/"] {
        let stub = Stub::start(move |_, _| (307, vec![("location", nowhere.to_owned())], vec![]));
        let error = stub.client(":1", None).resolve(9).unwrap_err();
        assert!(error.to_string().contains("it leads to"), "{error}");
    }
}

fn publication() -> Publication<'static> {
    Publication {
        component: b"component",
        title: "persona",
        version: "1.2.0",
        exports: Vec::new(),
        imports: Vec::new(),
        signature: None,
    }
}

#[test]
fn a_registry_that_everybody_may_read_is_written_with_a_login() {
    let stub = Stub::start(|request, _| {
        let is_reading = request.line.starts_with("HEAD");
        match (&request.authorization, is_reading) {
            // All blobs are there.
            (_, true) => (200, vec![], vec![]),
            (Some(_), false) => (201, vec![], vec![]),
            (None, false) => {
                let challenge = "Basic realm=\"x\"".to_owned();
                (401, vec![("www-authenticate", challenge)], vec![])
            }
        }
    });
    let digest = stub.client(":1", login()).publish(&publication()).unwrap();
    let seen = stub.seen();
    let last = seen.last().expect("it was asked");
    assert_eq!(digest, Digest::of(&last.body));
    assert!(last.authorization.is_some());
}

#[test]
fn a_token_that_runs_out_while_publishing_is_fetched_anew() {
    // Each token is good for two requests.
    let (tokens, used) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let stub = Stub::start(move |request, own| {
        if request.line.starts_with("GET /token") {
            tokens.set(tokens.get() + 1);
            used.set(0);
            let token = format!("{{\"token\":\"t{}\"}}", tokens.get());
            return (200, vec![], token.into_bytes());
        }
        let good = format!("Bearer t{}", tokens.get());
        if request.authorization.as_deref() != Some(&good) || used.get() == 2 {
            let challenge = format!("Bearer realm=\"http://{own}/token\"");
            return (401, vec![("www-authenticate", challenge)], vec![]);
        }
        used.set(used.get() + 1);
        match request.line.split(' ').next() {
            Some("HEAD") => (404, vec![], vec![]),
            Some("POST") => {
                let place = format!("http://{own}/upload");
                (202, vec![("location", place)], vec![])
            }
            _ => (201, vec![], vec![]),
        }
    });
    stub.client(":1", login()).publish(&publication()).unwrap();
    let seen = stub.seen();
    let uploads = |seen: &&stub::Seen| seen.line.starts_with("PUT") && seen.body == b"component";
    assert_eq!(seen.iter().filter(uploads).count(), 2);
    assert_eq!(
        seen.iter()
            .filter(|seen| seen.line.starts_with("GET /token"))
            .count(),
        4
    );
}

#[test]
fn a_registry_that_trickles_costs_a_bounded_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
            while stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let reference = format!("oci://{authority}/persona").parse().unwrap();
    let client = Client::new(&reference, &Registries::new()).ends_in(Duration::from_millis(400));
    let began = Instant::now();
    // The time is that of the whole pull, not of each exchange.
    for _ in 0..2 {
        let error = client.resolve(9).unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert!(error.to_string().contains("timeout"), "{error}");
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}
