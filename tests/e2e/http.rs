//! HTTP requests of plugins, from the client's request to another server and back.

use std::time::Duration;

use gapura_engine::sim::SimRunner;
use gapura_test_guests as guests;
use gapura_tests::{Server, post};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use crate::lent::{refusal, sample, until};

const CHAT: &str = "/v1/chat/completions";

/// The guest that sends a GET to the URL of the message, in the way of the `model`'s first letter.
fn sends(http: &str) -> Server {
    let toml = format!(
        "[[routes]]\nname = 'chat'\naliases = ['ask', 'loop', 'host', 'short', 'body', 'pass']\n\
         plugins = [{{ plugin = 'sends', grants = ['http'], http = {http} }}, \
         {{ plugin = 'chatml' }}]\n"
    );
    Server::with_plugins(&toml, SimRunner::default(), &[("sends", guests::SENDS)])
}

fn asking(model: &str, url: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": url}]})
}

async fn counted(server: &Server, outcome: &str) -> Option<f64> {
    let labels = format!("{{outcome=\"{outcome}\",plugin=\"sends\",version=\"0.0.0\"}}");
    sample(
        server,
        &format!("gapura_plugin_http_requests_total{labels}"),
    )
    .await
}

/// A port of 127.0.0.1, and what allows it.
pub(crate) async fn listen() -> (TcpListener, String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let allow = format!("allow = ['{address}']");
    (listener, format!("http://{address}/"), allow)
}

/// Reads a request's header.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a whole header"));
    }
    String::from_utf8(head).expect("text")
}

/// Answers every request with `ya`.
pub(crate) async fn says_yes(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        head(&mut stream).await;
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nya";
        stream
            .write_all(response)
            .await
            .expect("a client that reads");
    }
}

#[tokio::test]
async fn a_plugin_asks_a_server_that_its_route_allows() {
    let (listener, url, allow) = listen().await;
    let server = sends(&format!("{{ {allow}, max_requests = 3 }}"));
    tokio::spawn(says_yes(listener));
    let answer = server.post(CHAT, asking("ask", &url)).await;
    assert_eq!(refusal(&answer), (420, "ya".to_owned()));
    // As many as the binding may, anew for each request.
    for _ in 0..2 {
        let answer = server.post(CHAT, asking("loop", &url)).await;
        let budget = "all its HTTP requests, 3".to_owned();
        assert_eq!(refusal(&answer), (452, budget));
    }
    assert_eq!(counted(&server, "answered").await, Some(7.0));
    let answer = server.post(CHAT, asking("host", &url)).await;
    let hosts_own = "the header `host` is the host's to set".to_owned();
    assert_eq!(refusal(&answer), (451, hosts_own));
    assert_eq!(counted(&server, "invalid").await, Some(1.0));
}

#[tokio::test]
async fn what_the_route_does_not_allow_is_denied() {
    let (listener, url, _) = listen().await;
    let server = sends("{ allow = ['api.example.com', 'localhost:9'] }");
    for other in [&url, "http://169.254.169.254/latest", "http://localhost/"] {
        let (status, message) = refusal(&server.post(CHAT, asking("ask", other)).await);
        assert_eq!(status, 450, "{message}");
        let expected = "is not among the hosts that the route allows";
        assert!(message.ends_with(expected), "{message}");
    }
    assert_eq!(counted(&server, "denied").await, Some(3.0));
    let accepted = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(accepted.is_err(), "a connection");
}

#[tokio::test]
async fn what_takes_or_says_too_much_is_given_up() {
    let (listener, url, allow) = listen().await;
    let server = sends(&format!(
        "{{ {allow}, timeout_ms = 200, max_response_kib = 1 }}"
    ));
    let slow = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        head(&mut stream).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("an end");
    };
    let (answer, ()) = tokio::join!(server.post(CHAT, asking("ask", &url)), slow);
    assert_eq!(refusal(&answer).0, 453, "timeout");
    assert_eq!(counted(&server, "timeout").await, Some(1.0));
    let large = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        head(&mut stream).await;
        let response = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1025));
        let _ = stream.write_all(response.as_bytes()).await;
    };
    let (answer, ()) = tokio::join!(server.post(CHAT, asking("ask", &url)), large);
    assert_eq!(refusal(&answer).0, 454, "too large");
    assert_eq!(counted(&server, "too_large").await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_closes_the_plugins_connection() {
    let (listener, url, allow) = listen().await;
    let server = sends(&format!("{{ {allow}, timeout_ms = 60000 }}"));
    let request = server
        .app
        .clone()
        .oneshot(post(CHAT, asking("ask", &url).to_string()));
    let client = tokio::spawn(request);
    let (mut stream, _) = listener.accept().await.expect("a connection");
    head(&mut stream).await;
    client.abort();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
    assert_eq!(closed.await.expect("in ten seconds").expect("an end"), 0);
    until("it is counted", async || {
        counted(&server, "given_up").await == Some(1.0)
    })
    .await;
}
