//! Replacing chains while requests run, and what is left of the old ones.

use std::sync::{Arc, Mutex};

use gapura_plugin_runtime::{Chain, FinishReason, Output, Rendered, RuntimeConfig, Segment};
use gapura_test_guests as guests;

use crate::support::{answer_context, bind, chat, delta, services, small_runtime};

/// A request that began on one chain ends on it, even when nothing else holds it any more.
#[tokio::test]
async fn a_request_stays_on_its_chain() {
    let runtime = small_runtime(RuntimeConfig {
        max_instances: 8,
        ..RuntimeConfig::default()
    });
    let chain = |responder: &[u8]| {
        let load = |name, wasm| bind(runtime.load(name, wasm).expect("loads"));
        let bindings = vec![load("render", guests::RENDER), load("respond", responder)];
        Arc::new(Chain::new("route", bindings).expect("a chain"))
    };
    let live = Mutex::new(chain(guests::BRACKETS));
    let begin = || live.lock().unwrap().start(services());

    let mut old = begin();
    let mut old_answer = old.responder(answer_context()).await.expect("a responder");
    *live.lock().unwrap() = chain(guests::MOODY);
    let new = begin();
    let mut new_answer = new.responder(answer_context()).await.expect("a responder");

    assert_ne!(old.chain().label(), new.chain().label());
    let Ok(Rendered::Prompt(prompt)) = old.render(&chat("old")).await else {
        panic!("a prompt")
    };
    assert_eq!(prompt.segments[1], Segment::Text("old".to_owned()));
    assert_eq!(
        old_answer.push(delta("a")).await,
        Ok(Output::Emit("[a]".to_owned()))
    );
    assert_eq!(
        new_answer.push(delta("a")).await,
        Ok(Output::Emit("a".to_owned()))
    );
    assert_eq!(
        old_answer.finish(FinishReason::Stop).await,
        Ok(Output::Emit("|".to_owned()))
    );
}

/// Code, instances and stacks of replaced plugins are given back.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_stays_flat_over_500_swaps() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = RuntimeConfig {
        cache_dir: Some(directory.path().to_owned()),
        max_instances: 8,
        ..RuntimeConfig::default()
    };
    let runtime = small_runtime(config);
    let swap = async || {
        let load = |name, wasm| bind(runtime.load(name, wasm).expect("loads"));
        let bindings = vec![
            load("every", guests::EVERY_STAGE),
            load("moody", guests::MOODY),
        ];
        let run = &mut Arc::new(Chain::new("route", bindings).expect("a chain")).start(services());
        run.validate(chat("a")).await.expect("valid");
        run.render(&chat("a")).await.expect("a prompt");
        let mut responder = run.responder(answer_context()).await.expect("a responder");
        responder.push(delta("a")).await.expect("text");
    };
    for _ in 0..100 {
        swap().await;
    }
    let before = resident_bytes();
    for _ in 0..500 {
        swap().await;
    }
    let grown = resident_bytes().saturating_sub(before);
    // A plugin's compiled code alone is some 100 KiB here: a leak of it would show as 50 MiB.
    // Tests run beside each other, so other guests' memory is in the measure.
    assert!(grown < 24 << 20, "grown by {grown} bytes");
    assert_eq!(runtime.free_instances(), 8);
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("a size");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("KiB");
    kib << 10
}
