//! Each limit but time, and the guest that hits it. The process serves on after every one.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gapura_plugin_runtime::{
    Binding, FailureKind, FailurePolicy, FinishReason, Limits, RuntimeConfig, Validated,
};
use gapura_test_guests as guests;
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{
    answer_context, bind, chain, chat, delta, failure, load, responder, runtime, services,
    small_runtime,
};

#[tokio::test]
async fn a_memory_bomb_meets_its_limit() {
    let limits = Limits {
        memory_bytes: 8 << 20,
        ..Limits::default()
    };
    let failure = failure(Binding {
        limits,
        ..bind(load("bomb", guests::BOMB))
    })
    .await;
    assert_eq!(failure.kind, FailureKind::Memory);
    assert_eq!(
        failure.message,
        "asked for 8454144 bytes of memory, the limit is 8388608"
    );
}

#[tokio::test]
async fn endless_recursion_overflows_the_guests_stack_only() {
    let failure = failure(bind(load("overflow", guests::OVERFLOW))).await;
    assert_eq!(failure.kind, FailureKind::Stack);
}

#[tokio::test]
async fn a_trap_and_a_panic_are_told_apart_by_what_was_said() {
    let trapped = failure(bind(load("trap", guests::TRAP))).await;
    assert_eq!(trapped.kind, FailureKind::Trap);
    assert!(trapped.message.contains("unreachable"), "{trapped}");
    let panicked = failure(bind(load("panic", guests::PANIC))).await;
    assert_eq!(panicked.kind, FailureKind::Trap);
    assert!(
        panicked
            .message
            .starts_with("panicked at src/lib.rs:7: index out of bounds (")
    );
}

#[tokio::test]
async fn a_string_of_16_mib_is_not_copied() {
    let failure = failure(bind(load("huge", guests::HUGE))).await;
    assert_eq!(failure.kind, FailureKind::OutputTooLarge);
    assert!(failure.message.contains("1048576 bytes"), "{failure}");
}

#[tokio::test]
async fn calls_of_imports_are_counted() {
    let limits = Limits {
        host_calls: 100,
        ..Limits::default()
    };
    let failure = failure(Binding {
        limits,
        ..bind(load("pester", guests::PESTER))
    })
    .await;
    assert_eq!(failure.kind, FailureKind::HostCalls);
    assert_eq!(failure.message, "more than 100 calls of imports");
}

#[tokio::test]
async fn a_flood_of_log_lines_is_dropped_and_counted() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let run = &mut chain(vec![bind(load("flood", guests::FLOOD))]).start(services());
    assert!(matches!(
        run.validate(chat("a")).await,
        Ok(Validated::Continue(_))
    ));
    let text = String::from_utf8(log.0.lock().unwrap().clone()).expect("text");
    let lines: Vec<_> = text.lines().filter(|line| line.contains("flood")).collect();
    let (written, summary) = lines.split_at(64);
    for line in written {
        assert!(
            line.contains("INFO") && line.contains(": flood plugin=\"flood\""),
            "{line}"
        );
        assert!(line.contains("request_id=\"request-1\""), "{line}");
    }
    let [summary] = summary else {
        panic!("{} lines", lines.len())
    };
    assert!(
        summary.contains("lines dropped") && summary.contains("lines=936"),
        "{summary}"
    );
}

#[tokio::test]
async fn a_delta_has_its_own_limits() {
    let cases = [
        ("T", FailureKind::Trap, "unreachable"),
        ("B", FailureKind::OutputTooLarge, "1048576 bytes"),
    ];
    for (text, kind, message) in cases {
        let mut responder = responder(vec![bind(load("moody", guests::MOODY))]).await;
        let failure = responder.push(delta(text)).await.expect_err("a failure");
        assert_eq!(failure.kind, kind);
        assert!(failure.message.contains(message), "{failure}");
        assert_eq!(
            responder.push(delta("a")).await,
            Err(failure),
            "the answer is over"
        );
    }
}

#[tokio::test]
async fn a_processor_that_holds_for_ever_fails_closed() {
    let limits = Limits {
        held_bytes: 10,
        ..Limits::default()
    };
    let binding = Binding {
        limits,
        ..bind(load("moody", guests::MOODY))
    };
    for held in ["Held", "Empty"] {
        let mut responder = responder(vec![binding.clone()]).await;
        for _ in 0..10 / held.len() {
            responder.push(delta(held)).await.expect("within the bound");
        }
        let failure = loop {
            if let Err(failure) = responder.push(delta(held)).await {
                break failure;
            }
        };
        assert_eq!(failure.kind, FailureKind::HeldTooMuch);
        assert!(failure.message.contains("10 are allowed"), "{failure}");
    }
}

#[tokio::test]
async fn without_a_free_instance_a_request_waits_then_fails() {
    let config = RuntimeConfig {
        max_instances: 1,
        instance_wait: Duration::from_millis(50),
        ..RuntimeConfig::default()
    };
    let runtime = small_runtime(config);
    let load = |name, wasm| bind(runtime.load(name, wasm).expect("loads"));
    let bindings = vec![load("moody", guests::MOODY), load("render", guests::RENDER)];
    let chain = Arc::new(gapura_plugin_runtime::Chain::new("route", bindings).expect("a chain"));
    let first = chain
        .start(services())
        .responder(answer_context())
        .await
        .expect("the only one");

    let second = chain.start(services()).responder(answer_context()).await;
    let failure = second.map(|_| ()).expect_err("none free");
    assert_eq!(failure.kind, FailureKind::Exhausted);
    assert_eq!(failure.message, "none of 1 instances became free in 50ms");

    let waiting = tokio::spawn({
        let chain = Arc::clone(&chain);
        async move {
            chain
                .start(services())
                .responder(answer_context())
                .await
                .map(|_| ())
        }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    drop(first);
    assert_eq!(waiting.await.expect("no panic"), Ok(()));
}

/// Answers that have yet to begin wait in the engine's queue, not with instances in their hands.
#[tokio::test]
async fn an_answer_takes_its_instances_when_its_first_delta_comes() {
    let runtime = small_runtime(RuntimeConfig {
        max_instances: 2,
        ..RuntimeConfig::default()
    });
    let load = |name, wasm| bind(runtime.load(name, wasm).expect("loads"));
    let bindings = vec![
        load("moody", guests::MOODY),
        load("brackets", guests::BRACKETS),
        load("render", guests::RENDER),
    ];
    let chain = Arc::new(gapura_plugin_runtime::Chain::new("route", bindings).expect("a chain"));
    let run = chain.start(services());
    let mut answers: Vec<_> = (0..8)
        .map(|_| run.responder_when_needed(answer_context()))
        .collect::<Result<_, _>>()
        .expect("nothing is made yet");
    assert_eq!(runtime.free_instances(), 2);
    assert!(!answers[0].is_passthrough());
    // Whoever comes first has both, and the next one those when that one has ended.
    for answer in answers.iter_mut().rev() {
        answer.push(delta("a")).await.expect("text");
        assert_eq!(runtime.free_instances(), 0);
        answer.finish(FinishReason::Stop).await.expect("an end");
        assert_eq!(
            runtime.free_instances(),
            2,
            "though the answer is still there"
        );
    }
}

/// After every hostile guest above, one after the other in one engine, a good one still answers.
#[tokio::test]
async fn the_engine_serves_on() {
    let free = runtime().free_instances();
    let hostile = [
        guests::ENDLESS,
        guests::BOMB,
        guests::OVERFLOW,
        guests::TRAP,
        guests::HUGE,
    ];
    for (index, wasm) in hostile.into_iter().enumerate() {
        failure(bind(load(&format!("hostile-{index}"), wasm))).await;
        let open = Binding {
            on_failure: FailurePolicy::Open,
            ..bind(load("m", guests::MOODY))
        };
        let mut responder = responder(vec![open]).await;
        responder.push(delta("T")).await.expect("skipped");
        let run = &mut chain(vec![bind(load("accept", guests::ACCEPT))]).start(services());
        assert_eq!(
            run.validate(chat("a")).await,
            Ok(Validated::Continue(chat("a")))
        );
    }
    // Other tests share the pool, so only a leak of these ten would show for certain.
    assert!(runtime().free_instances() + 32 > free);
}

/// A log that a test can read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
