//! Servers of this machine that misbehave, and names that lead where they should not.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gapura_plugin_runtime::{HttpError, HttpMethod, HttpRequest, HttpResponse};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::resolve::{Resolve, Resolving};
use super::{AllowList, Outbound, prepare};

const MAX_BODY: u64 = 1000;

/// Answers look-ups in turn, and remembers for which names.
#[derive(Default)]
struct Names {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    fn leading_to(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |ips: &&[&str]| {
            ips.iter()
                .map(|ip| ip.parse().expect("an address"))
                .collect()
        };
        Arc::new(Self {
            answers: Mutex::new(answers.iter().map(parse).collect()),
            ..Self::default()
        })
    }

    fn asked(&self) -> usize {
        self.asked.lock().expect("no panic").len()
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, _route: &'a str, name: &'a str) -> Resolving<'a> {
        self.asked.lock().expect("no panic").push(name.to_owned());
        let answer = self.answers.lock().expect("no panic").pop_front();
        Box::pin(std::future::ready(
            answer.ok_or_else(|| io::ErrorKind::NotFound.into()),
        ))
    }
}

fn outbound(names: &Arc<Names>) -> Outbound {
    Outbound::new(Arc::clone(names) as _, RootCertStore::empty())
}

fn get(url: &str) -> HttpRequest {
    HttpRequest {
        method: HttpMethod::Get,
        url: url.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    }
}

async fn send(
    outbound: &Outbound,
    allow: &[&str],
    request: HttpRequest,
) -> Result<HttpResponse, HttpError> {
    let allow: Vec<String> = allow.iter().map(|&entry| entry.to_owned()).collect();
    let allow = AllowList::parse(&allow).expect("a list");
    let sent = async {
        outbound
            .send("route", &allow, prepare(request)?, MAX_BODY)
            .await
    };
    let sent = tokio::time::timeout(Duration::from_secs(10), sent).await;
    sent.expect("an end in ten seconds")
}

/// A port of 127.0.0.1.
async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

/// The header of a request, or what came of it.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).expect("text")
}

/// Answers one request with these bytes and closes.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> String {
    let head = read_head(&mut stream).await;
    // A client may have seen enough before all of it is written.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    head
}

/// What comes of a GET that is answered with these bytes.
async fn answered(bytes: &[u8]) -> Result<HttpResponse, HttpError> {
    let (listener, port) = listen().await;
    let server = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        answer(stream, bytes).await
    };
    let outbound = outbound(&Arc::default());
    let allowed = format!("127.0.0.1:{port}");
    let request = get(&format!("http://127.0.0.1:{port}/"));
    let allow = [allowed.as_str()];
    let (sent, _) = tokio::join!(send(&outbound, &allow, request), server);
    sent
}

async fn is_left_alone(listener: &TcpListener) -> bool {
    let accepted = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    accepted.is_err()
}

fn protocol(what: &str) -> Result<HttpResponse, HttpError> {
    Err(HttpError::Protocol(what.to_owned()))
}

const CUT: &str = "the connection ended before the whole response had come";

#[tokio::test]
async fn a_request_goes_out_as_it_was_made_and_comes_back_whole() {
    let (listener, port) = listen().await;
    let server = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        let bytes = b"HTTP/1.1 404 No\r\nX-A: 1\r\nx-a: \xff\r\ncontent-length: 4\r\n\r\nnope";
        answer(stream, bytes).await
    };
    let names = Names::leading_to(&[&["127.0.0.1"]]);
    let request = HttpRequest {
        method: HttpMethod::Post,
        headers: vec![
            ("X-Key".to_owned(), "1".to_owned()),
            ("x-key".to_owned(), "2".to_owned()),
        ],
        body: b"halo".to_vec(),
        ..get(&format!("http://localhost:{port}/a?b=c#d"))
    };
    let allowed = format!("localhost:{port}");
    let outbound = outbound(&names);
    let allow = [allowed.as_str()];
    let (sent, head) = tokio::join!(send(&outbound, &allow, request), server);
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = HttpResponse {
        status: 404,
        headers: vec![
            header("x-a", "1"),
            header("x-a", "\u{fffd}"),
            header("content-length", "4"),
        ],
        body: b"nope".to_vec(),
    };
    assert_eq!(sent, Ok(expected));
    let expected = format!(
        "POST /a?b=c HTTP/1.1\r\nx-key: 1\r\nx-key: 2\r\nhost: localhost:{port}\r\n\
         connection: close\r\nuser-agent: gapura/0.1.0\r\ncontent-length: 4\r\n\r\n"
    );
    assert_eq!(head, expected);
}

#[tokio::test]
async fn a_host_that_is_not_named_is_not_even_looked_up() {
    let names = Names::leading_to(&[&["127.0.0.1"]]);
    let request = get("http://evil.example/");
    let sent = send(&outbound(&names), &["api.example"], request).await;
    let denied = "evil.example:80 is not among the hosts that the route allows";
    assert_eq!(sent, Err(HttpError::Denied(denied.to_owned())));
    assert_eq!(names.asked(), 0);
}

#[tokio::test]
async fn a_name_that_leads_to_a_private_address_is_denied() {
    let (listener, port) = listen().await;
    let url = format!("http://api.example:{port}/");
    let allowed = format!("api.example:{port}");
    for ips in [
        &["127.0.0.1"][..],
        &["::ffff:127.0.0.1"],
        &["10.0.0.1"],
        &["169.254.169.254"],
        &["fd00::1"],
        // One of several is enough, wherever it stands.
        &["1.1.1.1", "127.0.0.1"],
        &["127.0.0.1", "1.1.1.1"],
    ] {
        let names = Names::leading_to(&[ips]);
        let sent = send(&outbound(&names), &[&allowed], get(&url)).await;
        let denied = format!(
            "api.example:{port} has a private address, which the route does not allow by itself"
        );
        assert_eq!(sent, Err(HttpError::Denied(denied)), "{ips:?}");
    }
    assert!(is_left_alone(&listener).await);
}

/// The name leads to an allowed address when it is checked, and elsewhere from then on.
#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_connected_to() {
    let (listener, port) = listen().await;
    let server = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        answer(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await
    };
    let names = Names::leading_to(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let allowed = format!("api.example:{port}");
    let outbound = outbound(&names);
    let request = get(&format!("http://api.example:{port}/"));
    let allow = [allowed.as_str(), "127.0.0.1"];
    let (sent, head) = tokio::join!(send(&outbound, &allow, request), server);
    assert_eq!(sent.map(|response| response.status), Ok(200));
    assert!(head.contains(&format!("host: api.example:{port}\r\n")));
    assert_eq!(names.asked(), 1);
}

#[tokio::test]
async fn names_without_an_address_and_ports_without_a_server_are_no_connection() {
    let (listener, port) = listen().await;
    drop(listener);
    let allowed = format!("127.0.0.1:{port}");
    let outbound = outbound(&Arc::default());
    let request = get(&format!("http://127.0.0.1:{port}/"));
    let sent = send(&outbound, &[&allowed], request).await;
    let nobody = format!("nobody answers at 127.0.0.1:{port}");
    assert_eq!(sent, Err(HttpError::Connect(nobody)));
    let sent = send(
        &outbound,
        &["nowhere.example"],
        get("http://nowhere.example"),
    )
    .await;
    let none = "there is no address of nowhere.example".to_owned();
    assert_eq!(sent, Err(HttpError::Connect(none)));
}

#[tokio::test]
async fn a_redirect_is_told_and_not_followed() {
    let (listener, port) = listen().await;
    let moved = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{port}/\r\ncontent-length: 0\r\n\r\n"
    );
    let response = answered(moved.as_bytes()).await.expect("a response");
    assert_eq!(response.status, 302);
    let location = ("location".to_owned(), format!("http://127.0.0.1:{port}/"));
    assert!(response.headers.contains(&location));
    assert!(is_left_alone(&listener).await);
}

#[tokio::test]
async fn a_body_has_its_bound_however_it_comes() {
    let just = "x".repeat(1000);
    let exact = format!("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{just}");
    let response = answered(exact.as_bytes()).await.expect("a response");
    assert_eq!(response.body, just.as_bytes());
    let closed = format!("HTTP/1.1 200 OK\r\n\r\n{just}");
    let response = answered(closed.as_bytes()).await.expect("a response");
    assert_eq!(response.body, just.as_bytes());
    let too_large = Err(HttpError::TooLarge(MAX_BODY));
    for larger in [
        "content-length: 1001\r\n\r\n".to_owned(),
        "content-length: 999999999999\r\n\r\n".to_owned(),
        format!("transfer-encoding: chunked\r\n\r\n3e9\r\n{just}x\r\n0\r\n\r\n"),
        format!("\r\n{just}x"),
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{larger}");
        assert_eq!(answered(bytes.as_bytes()).await, too_large, "{bytes:.60}");
    }
}

#[tokio::test]
async fn a_header_has_its_bounds() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(65));
    let too_large = Err(HttpError::TooLarge(16 << 10));
    assert_eq!(answered(many.as_bytes()).await, too_large);
    // Longer than anything that it could be part of, and never at its end.
    let endless = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(1 << 20));
    assert_eq!(answered(endless.as_bytes()).await, too_large);
}

#[tokio::test]
async fn what_is_cut_short_or_no_http_is_no_response() {
    assert_eq!(answered(b"").await, protocol(CUT));
    assert_eq!(
        answered(b"HTTP/1.1 200 OK\r\na: b\r\n").await,
        protocol(CUT)
    );
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    assert_eq!(answered(half).await, protocol(CUT));
    let chunk = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    assert_eq!(answered(chunk).await, protocol(CUT));
    let other = answered(b"220 mail.example ESMTP\r\n\r\n").await;
    assert_eq!(other, protocol("what came is not HTTP/1.1"));
}

#[tokio::test]
async fn who_gives_up_closes_the_connection() {
    let (listener, port) = listen().await;
    let allowed = format!("127.0.0.1:{port}");
    let outbound = outbound(&Arc::default());
    let allow = [allowed.as_str()];
    let request = get(&format!("http://127.0.0.1:{port}/"));
    let mut sent = Box::pin(send(&outbound, &allow, request));
    let mut stream: TcpStream = tokio::select! {
        sent = &mut sent => panic!("nobody has answered: {sent:?}"),
        accepted = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.expect("sent");
            stream
        } => accepted,
    };
    drop(sent);
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
    // The end, or a reset: nobody has read what was sent.
    let ended = read.expect("an end in ten seconds");
    assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
}

/// A server with a certificate for `name`, and the store that trusts it.
fn certified(name: &str) -> (TlsAcceptor, RootCertStore) {
    let own = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let certificate = own.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate and its key");
    (TlsAcceptor::from(Arc::new(config)), roots)
}

#[tokio::test]
async fn a_secure_server_proves_who_it_is() {
    let (listener, port) = listen().await;
    let url = format!("https://localhost:{port}/");
    let allowed = format!("localhost:{port}");
    let (acceptor, roots) = certified("localhost");
    let (other, others_roots) = certified("other.example");
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let trusting = [
        (Some(&acceptor), roots.clone(), Ok(200)),
        // One that nobody vouches for, one for another name, and none.
        (Some(&acceptor), others_roots.clone(), Err(())),
        (Some(&other), others_roots, Err(())),
        (None, roots, Err(())),
    ];
    for (acceptor, roots, expected) in trusting {
        let server = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            match acceptor {
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        answer(stream, ok).await;
                    }
                }
                None => {
                    let mut stream = stream;
                    let _ = stream.write_all(ok).await;
                }
            }
        };
        let names = Names::leading_to(&[&["127.0.0.1"]]);
        let outbound = Outbound::new(names, roots);
        let allow = [allowed.as_str()];
        let (sent, ()) = tokio::join!(send(&outbound, &allow, get(&url)), server);
        match (sent, expected) {
            (Ok(response), Ok(status)) => assert_eq!(response.status, status),
            (Err(HttpError::Tls(why)), Err(())) => assert!(!why.is_empty()),
            (sent, expected) => panic!("{sent:?}, and not {expected:?}"),
        }
    }
}
