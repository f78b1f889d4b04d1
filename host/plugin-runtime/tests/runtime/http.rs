//! HTTP requests of guests: what a binding may send, and whose time the response takes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gapura_plugin_runtime::{
    Binding, Http, HttpCaller, HttpError, HttpMethod, HttpRequest, HttpResponse, Limits, NoHttp,
    Sending, Services, Validated,
};
use gapura_test_guests as guests;

use crate::support::{bind, chain, chat, load, message, services};

const URL: &str = "https://api.example.com/v1";

/// Answers every request with `Solo`, after a while.
#[derive(Default)]
struct Slow {
    takes: Duration,
    sent: Mutex<Vec<HttpRequest>>,
    /// Requests that wait for their response.
    waiting: AtomicUsize,
}

struct Wait<'a>(&'a AtomicUsize);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Http for Slow {
    fn send<'a>(&'a self, caller: HttpCaller<'a>, request: HttpRequest) -> Sending<'a> {
        assert_eq!((caller.plugin.name.as_str(), caller.binding), ("sends", 0));
        assert_eq!(caller.request_id, "request-1");
        Box::pin(async move {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let _wait = Wait(&self.waiting);
            self.sent.lock().expect("no panic").push(request);
            if !self.takes.is_zero() {
                tokio::time::sleep(self.takes).await;
            }
            Ok(HttpResponse {
                status: 201,
                headers: vec![("x-a".to_owned(), "1".to_owned())],
                body: b"Solo".to_vec(),
            })
        })
    }
}

impl Slow {
    fn taking(takes: Duration) -> Arc<Self> {
        Arc::new(Self {
            takes,
            ..Self::default()
        })
    }

    fn sent(&self) -> usize {
        self.sent.lock().expect("no panic").len()
    }
}

fn lent(http: &Arc<Slow>) -> Services {
    Services {
        http: Arc::clone(http) as _,
        ..services()
    }
}

fn sends(limits: Limits) -> Binding {
    Binding {
        limits,
        ..bind(load("sends", guests::SENDS))
    }
}

/// The message and status of what `binding` refuses the chat with, whose letter is its `model`.
async fn refused(binding: Binding, services: Services, letter: &str) -> (String, u16) {
    let mut run = chain(vec![binding]).start(services);
    let mut chat = chat(letter);
    chat.messages = vec![message(URL)];
    match run.validate(chat).await.expect("no failure") {
        Validated::Refused { refusal, .. } => (refusal.message, refusal.status),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_guest_sends_and_reads_the_response() {
    let http = Arc::<Slow>::default();
    let answer = refused(sends(Limits::default()), lent(&http), "a").await;
    assert_eq!(answer, ("Solo".to_owned(), 420));
    refused(sends(Limits::default()), lent(&http), "h").await;
    let request = HttpRequest {
        method: HttpMethod::Get,
        url: URL.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    let with_header = HttpRequest {
        headers: vec![("host".to_owned(), "x".to_owned())],
        ..request.clone()
    };
    assert_eq!(*http.sent.lock().expect("no panic"), [request, with_header]);
}

#[tokio::test]
async fn a_guest_that_sends_in_a_loop_has_had_its_requests() {
    let http = Arc::<Slow>::default();
    let answer = refused(sends(Limits::default()), lent(&http), "l").await;
    assert_eq!(answer, ("all its HTTP requests, 4".to_owned(), 452));
    assert_eq!(http.sent(), 4);
    let none = Limits {
        http_requests: 0,
        ..Limits::default()
    };
    let answer = refused(sends(none), lent(&http), "a").await;
    assert_eq!(answer, ("all its HTTP requests, 0".to_owned(), 452));
    assert_eq!(http.sent(), 4);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_not_sent() {
    let http = Arc::<Slow>::default();
    let answer = refused(sends(Limits::default()), lent(&http), "b").await;
    assert_eq!(answer, (String::new(), 454));
    assert_eq!(http.sent(), 0);
}

#[tokio::test]
async fn an_error_is_the_guests_to_read() {
    for (error, expected) in [
        (HttpError::Denied("a".to_owned()), ("a", 450)),
        (HttpError::InvalidRequest("b".to_owned()), ("b", 451)),
        (HttpError::Timeout, ("", 453)),
        (HttpError::TooLarge(7), ("", 454)),
        (HttpError::Connect("c".to_owned()), ("c", 455)),
        (HttpError::Tls("d".to_owned()), ("d", 456)),
        (HttpError::Protocol("e".to_owned()), ("e", 457)),
    ] {
        let services = Services {
            http: Arc::new(NoHttp(error)),
            ..services()
        };
        let (message, status) = refused(sends(Limits::default()), services, "a").await;
        assert_eq!((message.as_str(), status), expected);
    }
}

#[tokio::test]
async fn a_request_has_a_time_of_its_own() {
    let http = Slow::taking(Duration::from_secs(60));
    let short = Limits {
        http_ms: 30,
        ..Limits::default()
    };
    // The binding's, and the guest's within it.
    for (limits, letter) in [(short, "a"), (Limits::default(), "s")] {
        let (_, status) = refused(sends(limits), lent(&http), letter).await;
        assert_eq!(status, 453, "timeout");
        assert_eq!(http.waiting.load(Ordering::SeqCst), 0, "given up");
    }
}

/// The guest may work for 20 ms and take 580 by the wall; each of four responses takes 300.
#[tokio::test]
async fn waiting_for_a_response_is_not_charged() {
    let limits = Limits {
        call_ms: 20,
        ..Limits::default()
    };
    let http = Slow::taking(Duration::from_millis(300));
    let answer = refused(sends(limits), lent(&http), "l").await;
    assert_eq!(answer, ("all its HTTP requests, 4".to_owned(), 452));
}

/// Dropping the call, as a client does that leaves, gives the request up.
#[tokio::test]
async fn a_request_goes_with_that_of_its_client() {
    let http = Slow::taking(Duration::from_secs(60));
    let limits = Limits {
        http_ms: 60_000,
        ..Limits::default()
    };
    let call = refused(sends(limits), lent(&http), "a");
    let waited = tokio::time::timeout(Duration::from_millis(300), call).await;
    assert!(waited.is_err(), "it was to wait: {waited:?}");
    assert_eq!(http.sent(), 1);
    assert_eq!(http.waiting.load(Ordering::SeqCst), 0);
}
