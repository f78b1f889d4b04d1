//! How the client takes what registries do.

use std::net::TcpListener;

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
