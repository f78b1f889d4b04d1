//! What is computed once for many requests.

use super::*;
use crate::request::Lane;

/// The answer to `prompt` and the prompt tokens that were found computed.
fn ask(engine: &Engine, prompt: &str, change: impl FnOnce(&mut GenerateRequest)) -> (String, u32) {
    let mut request = request(prompt, 500);
    change(&mut request);
    let (text, end) = read(engine.submit(request).unwrap());
    (text, end.unwrap().1.cached_tokens)
}

#[test]
fn a_prompt_that_begins_alike_is_computed_from_where_it_differs() {
    let engine = start(
        SimRunner::default().with_window(40),
        EngineConfig::default(),
    );
    let beginning = "the same beginning for everybody ".repeat(5);
    let prompt = |end: &str| format!("{beginning}{end}");
    let answer = |end: &str| format!("You said: {}", prompt(end));
    assert_eq!(ask(&engine, &prompt("a"), |_| ()), (answer("a"), 0));
    assert_eq!(ask(&engine, &prompt("b"), |_| ()), (answer("b"), 160));
    let salted = |request: &mut GenerateRequest| request.cache.salt = Some("s".into());
    assert_eq!(ask(&engine, &prompt("b"), salted), (answer("b"), 0));
    assert_eq!(ask(&engine, &prompt("c"), salted), (answer("c"), 160));
    wait_until("all is free", || is_at_rest(&engine));
    let stats = engine.stats();
    assert_eq!(stats.prefix_query_tokens, 4 * 166);
    assert_eq!(stats.prefix_hit_tokens, 2 * 160);
    assert!(stats.full_blocks.cached >= 20 && stats.windowed_blocks.cached > 0);
    assert_eq!(stats.prefill_tokens, 4 * 166 - 2 * 160);
}

#[test]
fn nothing_is_kept_where_nothing_is_to_be_kept() {
    let config = EngineConfig {
        prefix_cache: false,
        ..EngineConfig::default()
    };
    let engine = start(SimRunner::default(), config);
    let prompt = "again and again and again and again";
    assert_eq!(ask(&engine, prompt, |_| ()).1, 0);
    assert_eq!(ask(&engine, prompt, |_| ()).1, 0);
    wait_until("all is free", || is_at_rest(&engine));
    assert_eq!(engine.stats().full_blocks.cached, 0);
}

#[test]
fn a_failed_step_leaves_nothing_that_is_found() {
    let runner = SimRunner::default()
        .with_faults(|step, _| (step == 0).then(|| SimFault::Error("half written".into())));
    let engine = start(runner, EngineConfig::default());
    let prompt = "x".repeat(100);
    let (_, end) = read(engine.submit(request(&prompt, 5)).unwrap());
    assert!(end.is_err());
    assert_eq!(ask(&engine, &prompt, |_| ()).1, 0);
    assert_eq!(ask(&engine, &prompt, |_| ()).1, 96);
}

#[test]
fn a_templates_prefix_is_kept_and_can_be_computed_in_advance() {
    let engine = start(SimRunner::default(), EngineConfig::default());
    let prefix = "instructions that never change, ".repeat(4);
    let mut warm = request(&format!("{prefix}!"), 0);
    warm.cache.prefix_tokens = prefix.len();
    warm.queue.lane = Lane::Low;
    assert!(read(engine.submit(warm).unwrap()).1.is_ok());
    wait_until("it is pinned", || engine.stats().full_blocks.pinned == 8);
    let (_, cached) = ask(&engine, &format!("{prefix}and a question"), |_| ());
    assert_eq!(cached, 128);
}

#[test]
fn a_deadline_ends_a_request_that_runs_and_one_that_waits() {
    let runner = SimRunner::default()
        .answering(&"z".repeat(5000))
        .with_latency(SLOW);
    let config = EngineConfig {
        max_num_seqs: 1,
        ..EngineConfig::default()
    };
    let engine = start(runner, config);
    let streams = ["runs", "waits"].map(|prompt| {
        let mut request = request(prompt, 5000);
        request.queue.deadline = Some(Instant::now() + Duration::from_millis(50));
        engine.submit(request).unwrap()
    });
    let [runs, waits] = streams.map(read);
    assert!(!runs.0.is_empty() && waits.0.is_empty());
    for end in [runs.1, waits.1] {
        let error = end.unwrap_err();
        assert!(
            matches!(error, EngineError::DeadlineExceeded { .. }),
            "{error}"
        );
    }
    wait_until("all is free", || is_at_rest(&engine));
}
