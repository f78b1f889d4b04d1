//! Any calls of the contract's imports, with any arguments: a verdict or a failure with a name, in
//! the guest's time, and questions and requests only that may be. `make fuzz` goes on where this ends.

use std::io;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use gapura_plugin_runtime::{
    Answering, Asker, Chain, FailureKind, FinishReason, HTTP_REQUEST_BYTES, Http, HttpCaller,
    HttpRequest, HttpResponse, Limits, Model, ModelAnswer, Question, Random, Sending,
};
use gapura_test_guests as guests;
use proptest::prelude::*;

use crate::support::{bind, chain, chat, load, services};

/// An instruction of the guest `calls`: what, raw, six numbers of 32 bits and one of 64.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let number = || {
        prop_oneof![
            4 => 0_u32..9000,
            1 => any::<u32>(),
            1 => prop::sample::select(vec![0, 1, 65_535, 65_536, 131_071, 131_072, u32::MAX]),
            // Temperatures.
            1 => (-1.0_f32..3.0).prop_map(f32::to_bits),
        ]
    };
    let wide = prop_oneof![any::<u64>(), 0_u64..1000, Just(1 << 32 | 1)];
    let numbers = prop::array::uniform5(number());
    (1_u8..15, prop::bool::weighted(0.1), numbers, wide, number()).prop_map(
        |(what, raw, numbers, wide, to)| {
            let mut bytes = vec![what, u8::from(raw), 0, 0];
            for number in numbers {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(wide.to_le_bytes());
            bytes.extend(to.to_le_bytes());
            bytes.resize(40, 0);
            bytes
        },
    )
}

/// Gives the program, then zeros.
struct Program(Mutex<Vec<u8>>);

impl Random for Program {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut left = self.0.lock().expect("no panic");
        let count = left.len().min(bytes.len());
        bytes.fill(0);
        for (to, from) in bytes.iter_mut().zip(left.drain(..count)) {
            *to = from;
        }
        Ok(())
    }
}

/// Holds questions against the limits, and says that it used more than it may.
struct Strict(Limits);

impl Model for Strict {
    fn ask<'a>(&'a self, asker: Asker<'a>, question: Question) -> Answering<'a> {
        assert_eq!(asker.plugin.name, "calls");
        assert!(!question.messages.is_empty());
        assert!((1..=self.0.model_tokens).contains(&question.max_tokens.into()));
        assert!((0.0..=2.0).contains(&question.temperature));
        Box::pin(std::future::ready(Ok(ModelAnswer {
            text: question.messages[0].content.concat(),
            finish: FinishReason::Length,
            prompt_tokens: u32::MAX,
            completion_tokens: question.max_tokens.saturating_mul(2),
        })))
    }
}

impl Http for Strict {
    fn send<'a>(&'a self, caller: HttpCaller<'a>, request: HttpRequest) -> Sending<'a> {
        assert_eq!(caller.plugin.name, "calls");
        assert!(request.body.len() <= HTTP_REQUEST_BYTES);
        assert!(caller.within <= Duration::from_millis(self.0.http_ms));
        Box::pin(std::future::ready(Ok(HttpResponse {
            status: u16::MAX,
            headers: request.headers,
            body: request.body,
        })))
    }
}

static CHAIN: LazyLock<Arc<Chain>> =
    LazyLock::new(|| chain(vec![bind(load("calls", guests::CALLS))]));

proptest! {
    #[test]
    fn any_calls_end_with_a_verdict_or_a_failure(
        program in prop::collection::vec(instruction(), 1..60),
    ) {
        let mut services = services();
        services.random = Arc::new(Program(Mutex::new(program.concat())));
        services.model = Arc::new(Strict(Limits::default()));
        services.http = Arc::new(Strict(Limits::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let started = Instant::now();
        let validated = runtime.block_on(CHAIN.start(services).validate(chat("z")));
        if let Err(failure) = validated {
            prop_assert_ne!(failure.kind, FailureKind::Exhausted);
            prop_assert!(!failure.message.is_empty());
        }
        // Four times 50 ms and half a second, and what a busy machine adds.
        prop_assert!(started.elapsed() < Duration::from_secs(4));
    }
}
