//! A registry of this process, which answers as each test wants it to.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::json;

use super::*;
use crate::config::{Digest, Secret};

/// One request: its line, `Authorization`, and body.
#[derive(Debug, Clone)]
struct Seen {
    line: String,
    authorization: Option<String>,
    body: Vec<u8>,
}

/// Status, headers and body.
type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

/// Serves until the process ends. Each connection is for one request.
struct Stub {
    authority: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Stub {
    fn start(answer: impl Fn(&Seen, &str) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let authority = listener.local_addr().expect("it is bound").to_string();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (own, log) = (authority.clone(), Arc::clone(&seen));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let request = read_request(&stream);
                let (status, headers, body) = answer(&request, &own);
                log.lock().expect("nobody panics").push(request);
                write_answer(stream, status, &headers, &body);
            }
        });
        Self { authority, seen }
    }

    fn client(&self, suffix: &str, login: Option<Login>) -> Client {
        let reference = format!("oci://{}/team/persona{suffix}", self.authority);
        let registry = Registry {
            plain_http: None,
            login,
        };
        let registries = Registries::from([(self.authority.clone(), registry)]);
        Client::new(&reference.parse().expect("a reference"), &registries)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("nobody panics").clone()
    }
}

fn read_request(stream: &TcpStream) -> Seen {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let read = reader.read_line(&mut line).expect("a header");
        if read == 0 || line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let header = |wanted: &str| {
        lines.iter().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case(wanted).then(|| value.to_owned())
        })
    };
    let length = header("content-length").map_or(0, |text| text.parse().expect("a number"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    Seen {
        line: lines.first().cloned().unwrap_or_default(),
        authorization: header("authorization"),
        body,
    }
}

fn write_answer(mut stream: TcpStream, status: u16, headers: &[(&str, String)], body: &[u8]) {
    let mut text = format!("HTTP/1.1 {status} It\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "content-length") {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    // A client that has read enough goes away.
    let _ = stream.write_all(text.as_bytes());
    let _ = stream.write_all(body);
}

fn login() -> Option<Login> {
    Some(Login {
        username: "reader".to_owned(),
        password: Secret::new("pass word"),
    })
}

fn manifest_of(component: &[u8], size: usize) -> Vec<u8> {
    let manifest = json!({
        "schemaVersion": 2,
        "config": { "mediaType": "application/vnd.wasm.config.v0+json", "digest": "", "size": 2 },
        "layers": [{
            "mediaType": "application/wasm",
            "digest": Digest::of(component).to_string(),
            "size": size,
        }],
    });
    manifest.to_string().into_bytes()
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
