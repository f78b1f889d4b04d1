//! The end of an engine.

use super::*;

#[test]
fn shutdown_lets_what_was_accepted_end() {
    let runner = SimRunner::default().with_latency(SLOW);
    let config = EngineConfig {
        max_num_seqs: 1,
        ..EngineConfig::default()
    };
    let engine = start(runner, config);
    let streams = ["a", "b"].map(|prompt| engine.submit(request(prompt, 50)).unwrap());
    let handle = engine.clone();
    let shutdown = std::thread::spawn(move || handle.blocking_shutdown(PATIENCE));
    wait_until("nothing more is accepted", || {
        matches!(
            engine.submit(request("c", 5)),
            Err(EngineError::ShuttingDown)
        )
    });
    let texts = streams.map(|stream| read(stream).0);
    assert_eq!(texts, ["You said: a", "You said: b"]);
    // Once more, and for ever, is no harm.
    engine.blocking_shutdown(Duration::MAX);
    shutdown.join().unwrap();
    assert!(!engine.stats().alive);
}

#[test]
fn shutdown_fails_what_does_not_end_in_time() {
    let runner = SimRunner::default()
        .answering(&"z".repeat(5000))
        .with_latency(SLOW);
    let engine = start(runner, EngineConfig::default());
    let mut stream = engine.submit(request("a", 5000)).unwrap();
    stream.blocking_next().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(engine.shutdown(Duration::from_millis(20)));
    let (text, end) = read(stream);
    assert!(text.len() < 5000);
    assert!(matches!(end, Err(EngineError::ShuttingDown)));
    assert!(is_at_rest(&engine));
}

#[test]
fn without_handles_the_engine_ends_when_its_requests_have() {
    let calls = Arc::new(AtomicU64::new(0));
    let alive = Arc::clone(&calls);
    let runner = SimRunner::default().with_script(move |_| {
        alive.fetch_add(1, Relaxed);
        sim_tokens("sampai jumpa")
    });
    let engine = start(runner, EngineConfig::default());
    let stream = engine.submit(request("a", 50)).unwrap();
    drop(engine);
    assert_eq!(read(stream).0, "sampai jumpa");
    // The thread drops the runner, and with it the script.
    wait_until("the runner is gone", || Arc::strong_count(&calls) == 1);
}
