//! Any calls of the contract's imports: the input is the program of the guest `calls`.
//!
//! There is a verdict, whatever the calls wrote where it lies, or the guest fails in a way that has
//! a name, in its time. The model is asked only what may be asked.
#![no_main]

use std::{
    io,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use gapura_plugin_runtime::{
    Answering, Asker, Binding, Chain, Chat, Clock, FailureKind, FinishReason, Grants,
    HTTP_REQUEST_BYTES, Http, HttpCaller, HttpError, HttpRequest, HttpResponse, Limits, Message,
    Model, ModelAnswer, ModelError, PluginRuntime, Question, Random, Role, RuntimeConfig, Sampling,
    Sending, Services, TokenCounter,
};
use gapura_test_guests as guests;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;

/// A call may take four times its 50 ms and half a second; the rest is the sanitizer's.
const MAX_TIME: Duration = Duration::from_secs(4);
const MODEL_TOKENS: u64 = 256;

struct Host {
    chain: Arc<Chain>,
    services: Services,
    input: Arc<Input>,
    runtime: Runtime,
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let plugins = PluginRuntime::new(RuntimeConfig {
        max_instances: 4,
        ..RuntimeConfig::default()
    })
    .expect("a runtime");
    let bind = |name, wasm| Binding {
        grants: Grants::ALL,
        limits: Limits {
            model_tokens: MODEL_TOKENS,
            ..Limits::default()
        },
        ..Binding::new(plugins.load(name, wasm).expect("a plugin"))
    };
    let bindings = vec![bind("calls", guests::CALLS), bind("render", guests::RENDER)];
    let input = Arc::<Input>::default();
    let services = Services {
        clock: Arc::new(Late),
        random: Arc::clone(&input) as _,
        model: Arc::new(Scripted),
        http: Arc::new(Scripted),
        ..Services::detached(Arc::new(Bytes))
    };
    Host {
        chain: Arc::new(Chain::new("fuzzed", bindings).expect("a chain")),
        services,
        input,
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("an async runtime"),
    }
});

/// Gives the input, then zeros.
#[derive(Default)]
struct Input(Mutex<Vec<u8>>);

impl Random for Input {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = left.len().min(bytes.len());
        bytes.fill(0);
        for (to, from) in bytes.iter_mut().zip(left.drain(..count)) {
            *to = from;
        }
        Ok(())
    }
}

struct Bytes;

impl TokenCounter for Bytes {
    fn count(&self, text: &str) -> u32 {
        u32::try_from(text.len()).expect("texts are bounded")
    }
}

/// A clock near the end of time, so that sums with it overflow.
struct Late;

impl Clock for Late {
    fn now_ms(&self) -> u64 {
        u64::MAX - 1
    }

    fn monotonic_ns(&self) -> u64 {
        u64::MAX - 1
    }
}

/// Answers with the question's first text, and says that it used more tokens than it may.
struct Scripted;

impl Model for Scripted {
    fn ask<'a>(&'a self, asker: Asker<'a>, question: Question) -> Answering<'a> {
        assert_eq!(asker.plugin.name, "calls");
        assert!(!question.messages.is_empty());
        assert!((1..=MODEL_TOKENS).contains(&question.max_tokens.into()));
        assert!((0.0..=2.0).contains(&question.temperature));
        let text = question.messages[0].content.concat();
        let answer = match text.len() % 4 {
            0 => Err(ModelError::Failed(text)),
            _ => Ok(ModelAnswer {
                text,
                finish: FinishReason::Length,
                prompt_tokens: u32::MAX,
                completion_tokens: question.max_tokens.saturating_mul(2),
            }),
        };
        Box::pin(std::future::ready(answer))
    }
}

impl Http for Scripted {
    fn send<'a>(&'a self, caller: HttpCaller<'a>, request: HttpRequest) -> Sending<'a> {
        assert_eq!(caller.plugin.name, "calls");
        assert!(request.body.len() <= HTTP_REQUEST_BYTES);
        let response = match request.body.len() % 4 {
            0 => Err(HttpError::TooLarge(u64::MAX)),
            _ => Ok(HttpResponse {
                status: u16::MAX,
                headers: request.headers,
                body: request.body,
            }),
        };
        Box::pin(std::future::ready(response))
    }
}

fn chat() -> Chat {
    Chat {
        request_id: "request".to_owned(),
        route: "fuzzed".to_owned(),
        model: "model".to_owned(),
        tenant: None,
        stream: false,
        messages: vec![Message {
            role: Role::User,
            content: vec!["halo".to_owned()],
            name: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
        }],
        sampling: Sampling::default(),
        extra: "{}".to_owned(),
        call_id: "call-1".to_owned(),
    }
}

fuzz_target!(|data: &[u8]| {
    let host = &*HOST;
    *host.input.0.lock().unwrap_or_else(PoisonError::into_inner) = data.to_vec();
    let started = Instant::now();
    let run = &mut host.chain.start(host.services.clone());
    if let Err(failure) = host.runtime.block_on(run.validate(chat())) {
        assert_ne!(failure.kind, FailureKind::Exhausted, "{failure}");
        assert!(!failure.message.is_empty());
    }
    assert!(started.elapsed() < MAX_TIME, "{:?}", started.elapsed());
});
