//! Streams in bad weather: failures after the start, clients that leave or read slowly, silence.

use std::time::Duration;

use gapura_engine::EngineConfig;
use gapura_engine::sim::{SimFault, SimLatency, SimRunner};
use gapura_tests::{PLAIN, Server};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";

fn streamed() -> Value {
    json!({
        "model": "chat", "messages": [{"role": "user", "content": "halo"}], "stream": true,
    })
}

fn slow(per_decode_step: Duration) -> SimLatency {
    SimLatency {
        per_decode_step,
        ..SimLatency::default()
    }
}

/// Waits until the engine works for nobody and holds no block.
async fn assert_idle(server: &Server, within: Duration) {
    let idle = async {
        loop {
            let stats = server.engine.stats();
            if stats.running + stats.waiting + stats.full_blocks.used == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(within, idle)
        .await
        .expect("the engine frees what nobody waits for");
}

/// A connection on which `body` has been sent.
async fn connect(server: &Server, body: Value) -> TcpStream {
    let connected = TcpStream::connect(server.listen().await).await;
    let mut socket = connected.expect("the server listens");
    let body = body.to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let request = head + &body;
    let written = socket.write_all(request.as_bytes()).await;
    written.expect("the server reads");
    socket
}

/// Reads until `text` has come.
async fn read_until(socket: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    let mut buffer = [0; 1024];
    while !String::from_utf8_lossy(&read).contains(text) {
        let count = socket.read(&mut buffer).await.expect("an open connection");
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn a_failure_after_the_start_is_an_event_and_then_done() {
    let runner = SimRunner::default()
        .answering("selamat")
        .with_faults(|step, _| (step == 3).then(|| SimFault::Error("gone".into())));
    let server = Server::start(PLAIN, runner);
    let answer = server.post(CHAT, streamed()).await;
    assert_eq!(answer.status, 200);
    let chunks = answer.chunks();
    assert_eq!(answer.streamed_text(0), "sel");
    assert_eq!(
        *chunks.last().unwrap(),
        json!({"error": {
            "message": "the model failed on this request", "type": "server_error",
            "param": null, "code": "engine_error",
        }})
    );
    assert!(!answer.text().contains("event:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_filled_with_comments() {
    let runner = SimRunner::default()
        .answering("ya")
        .with_latency(slow(Duration::from_millis(300)));
    let toml = format!("[server]\nkeep_alive_seconds = 0.05\n{PLAIN}");
    let server = Server::start(&toml, runner);
    let answer = server.post(CHAT, streamed()).await;
    let comments = answer
        .text()
        .split("\n\n")
        .filter(|frame| frame.starts_with(':'))
        .count();
    assert!(comments >= 2, "{}", answer.text());
    assert_eq!(answer.streamed_text(0), "ya");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_a_stream_frees_its_blocks() {
    let runner = SimRunner::default()
        .answering(&"a".repeat(4000))
        .with_latency(slow(Duration::from_millis(2)));
    let server = Server::start(PLAIN, runner);
    let mut socket = connect(&server, streamed()).await;
    read_until(&mut socket, "\"content\":\"a\"").await;
    assert_eq!(server.engine.stats().running, 1);
    drop(socket);
    assert_idle(&server, Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_a_whole_answer_frees_its_blocks() {
    let runner = SimRunner::default()
        .answering(&"a".repeat(4000))
        .with_latency(slow(Duration::from_millis(2)));
    let server = Server::start(PLAIN, runner);
    let mut body = streamed();
    body["stream"] = json!(false);
    let socket = connect(&server, body).await;
    while server.engine.stats().running == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(socket);
    assert_idle(&server, Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_frees_the_blocks_at_once() {
    let runner = SimRunner::default()
        .answering(&format!("ya{}", "a".repeat(4000)))
        .with_latency(slow(Duration::from_millis(2)));
    let server = Server::start(PLAIN, runner);
    let mut body = streamed();
    body["stop"] = json!("ya");
    assert_eq!(server.post(CHAT, body).await.streamed_text(0), "");
    assert_idle(&server, Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_pauses_its_own_sequence_alone() {
    let runner = SimRunner::default().answering(&"a".repeat(8000));
    let server = Server::start(PLAIN, runner);
    // Twenty alternatives make a chunk of more than a KiB, so that the answer is larger than all
    // buffers of the sockets.
    let mut body = streamed();
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(20);
    let socket = connect(&server, body).await;
    let mut tokens = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let now = server.engine.stats().decode_tokens;
        if now > 0 && now == tokens {
            break;
        }
        tokens = now;
    }
    assert!(
        tokens < 8000,
        "the answer was generated to its end for nobody"
    );
    assert_eq!(server.engine.stats().running, 1);
    let other = server.post(
        CHAT,
        json!({
            "model": "chat", "messages": [{"role": "user", "content": "halo"}], "max_tokens": 5,
        }),
    );
    assert_eq!(other.await.json()["usage"]["completion_tokens"], 5);
    drop(socket);
    assert_idle(&server, Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_held_to_the_deadline() {
    let runner = SimRunner::default().answering(&"a".repeat(8000));
    let toml = format!("[server]\nrequest_timeout_seconds = 1.0\n{PLAIN}");
    let server = Server::start(&toml, runner);
    let mut body = streamed();
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(20);
    let _socket = connect(&server, body).await;
    while server.engine.stats().running == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_idle(&server, Duration::from_secs(20)).await;
    assert!(server.engine.stats().decode_tokens < 8000);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_with_short_patience_leave_nothing_behind() {
    let runner = SimRunner::default()
        .answering(&"a".repeat(4000))
        .with_latency(slow(Duration::from_millis(1)));
    let server = Server::with_engine(PLAIN, runner, EngineConfig::default());
    let impatient = (0..200).map(|_| {
        let request = server.post(CHAT, streamed());
        tokio::time::timeout(Duration::from_millis(50), request)
    });
    for outcome in futures_util::future::join_all(impatient).await {
        assert!(
            outcome.is_err(),
            "an answer of 4,000 steps of 1 ms came in 50 ms"
        );
    }
    let body = json!({
        "model": "chat", "messages": [{"role": "user", "content": "halo"}], "max_tokens": 2,
    });
    let next = tokio::time::timeout(Duration::from_secs(5), server.post(CHAT, body)).await;
    assert_eq!(next.unwrap().status, 200);
    assert_idle(&server, Duration::from_secs(2)).await;
}
