//! What comes of a request.

use super::*;

#[test]
fn an_answer_comes_with_its_usage() {
    let engine = start(SimRunner::default(), EngineConfig::default());
    let (text, end) = read(engine.submit(request("halo", 100)).unwrap());
    assert_eq!(text, "You said: halo");
    let (reason, usage) = end.unwrap();
    assert_eq!(reason, FinishReason::Stop);
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (4, 15));
    let (text, end) = read(engine.submit(request("halo", 3)).unwrap());
    assert_eq!(
        (text.as_str(), end.unwrap().0),
        ("You", FinishReason::Length)
    );
    wait_until("all is free", || is_at_rest(&engine));
}

/// The token ids of an answer to `prompt`, under `stop`.
fn token_ids(engine: &Engine, change: impl FnOnce(&mut GenerateRequest)) -> Vec<u32> {
    let mut request = request("a", 6);
    request.sampling.temperature = 0.0;
    change(&mut request);
    let mut stream = engine.submit(request).unwrap();
    let mut ids = Vec::new();
    while let Some(event) = stream.blocking_next() {
        if let TokenEvent::Token(token) = event {
            ids.push(token.id.0);
        }
    }
    ids
}

#[test]
fn end_tokens_are_obeyed_ignored_and_forbidden_as_asked() {
    let engine = start(
        SimRunner::default().answering("ya"),
        EngineConfig::default(),
    );
    let eos = SimToken::EOS.id().0;
    let [y, a] = [b'y', b'a'].map(u32::from);
    assert_eq!(token_ids(&engine, |_| ()), [y, a, eos]);
    assert_eq!(
        token_ids(&engine, |request| request.stop.ignore_eos = true),
        [y, a, eos, eos, eos, eos]
    );
    // Where the end may not come the lowest of the other, equal logits does.
    assert_eq!(
        token_ids(&engine, |request| request.stop.min_tokens = 4),
        [y, a, 0, 0, eos]
    );
    assert_eq!(
        token_ids(&engine, |request| request.stop.stop_token_ids =
            vec![TokenId(y)]),
        [y]
    );
}

#[test]
fn penalties_see_what_was_generated() {
    let engine = start(
        SimRunner::default().answering("yyy"),
        EngineConfig::default(),
    );
    let ids = token_ids(&engine, |request| {
        request.sampling.frequency_penalty = 2.0;
        // `b` is 59 behind, so 30 times `y` would be needed; with this bias, one is.
        request.sampling.logit_bias = vec![(TokenId(b'b'.into()), 59.0)];
    });
    assert_eq!(ids[..3], [b'y', b'b', b'y'].map(u32::from));
}

#[test]
fn logprobs_come_with_each_token_where_asked_for() {
    let engine = start(
        SimRunner::default().answering("ya"),
        EngineConfig::default(),
    );
    let mut asked = request("a", 6);
    asked.logprobs = Some(2);
    let mut stream = engine.submit(asked).unwrap();
    let Some(TokenEvent::Token(token)) = stream.blocking_next() else {
        panic!("no token");
    };
    let logprobs = token.logprobs.unwrap();
    assert_eq!(logprobs.id, token.id);
    assert_eq!(logprobs.top[0], (token.id, logprobs.logprob));
    assert_eq!(logprobs.top.len(), 2);
}

#[test]
fn alone_batched_chunked_and_preempted_give_the_same_tokens() {
    let prompts: Vec<String> = (0..12)
        .map(|index| format!("{index} ").repeat(10 + 7 * index))
        .collect();
    let expected: Vec<String> = prompts
        .iter()
        .map(|prompt| format!("You said: {prompt}"))
        .collect();
    let runner = || SimRunner::default().with_window(40);
    let submit = |engine: &Engine, prompt: &String| engine.submit(request(prompt, 1000)).unwrap();
    let answers = |config: EngineConfig| {
        let engine = start(runner(), config);
        let streams: Vec<_> = prompts
            .iter()
            .map(|prompt| submit(&engine, prompt))
            .collect();
        let answers: Vec<String> = streams.into_iter().map(|stream| read(stream).0).collect();
        wait_until("all is free", || is_at_rest(&engine));
        (answers, engine.stats().preemptions)
    };
    let engine = start(runner(), EngineConfig::default());
    for (prompt, expected) in prompts.iter().zip(&expected) {
        assert_eq!(&read(submit(&engine, prompt)).0, expected);
    }
    let chunked = EngineConfig {
        max_batched_tokens: 13,
        ..EngineConfig::default()
    };
    // 60 blocks of each group, where all twelve together want some 250.
    let scarce = EngineConfig {
        kv_bytes: 60 * 2 * SimRunner::default().model().kv.full_block_bytes,
        ..EngineConfig::default()
    };
    assert_eq!(answers(EngineConfig::default()).0, expected);
    assert_eq!(answers(chunked).0, expected);
    let (preempted, preemptions) = answers(scarce);
    assert_eq!(preempted, expected);
    assert!(preemptions > 0);
}

#[test]
fn sampled_tokens_do_not_depend_on_the_company() {
    // Scripted tokens lose their lead to the bias, so that draws decide.
    let drawn = |engine: &Engine| {
        let mut request = request("acak", 40);
        let biased = (97..123).map(|id| (TokenId(id), 90.0));
        request.sampling.logit_bias = biased.collect();
        request.stop.ignore_eos = true;
        engine.submit(request).unwrap()
    };
    let engine = start(SimRunner::default(), EngineConfig::default());
    let (alone, _) = read(drawn(&engine));
    let others: Vec<_> = (0..20)
        .map(|index| engine.submit(request(&"x".repeat(1 + index), 50)).unwrap())
        .collect();
    let (batched, _) = read(drawn(&engine));
    assert_eq!(alone, batched);
    assert!(
        alone
            .bytes()
            .collect::<std::collections::HashSet<_>>()
            .len()
            > 5
    );
    drop(others);
}

#[test]
fn a_prompt_is_scored_without_generating() {
    let engine = start(
        SimRunner::default().answering("bc"),
        EngineConfig::default(),
    );
    let mut scored = request("abx", 0);
    scored.prompt_logprobs = Some(2);
    let mut stream = engine.submit(scored).unwrap();
    let TokenEvent::Prompt(scores) = stream.blocking_next().unwrap() else {
        panic!("no scores");
    };
    // `a` makes the script say `b` first, and then, of three prompt tokens, `b` again.
    let ids: Vec<u32> = scores.iter().map(|score| score.id.0).collect();
    assert_eq!(ids, [u32::from(b'b'), u32::from(b'x')]);
    assert!(scores[0].logprob > -1e-3);
    assert!(scores[1].logprob < -50.0);
    assert_eq!(scores[0].top[0].0, scores[0].id);
    assert_eq!(scores[0].top.len(), 2);
    let TokenEvent::Finished { reason, usage } = stream.blocking_next().unwrap() else {
        panic!("no end");
    };
    assert_eq!((reason, usage.completion_tokens), (FinishReason::Length, 0));
}

#[test]
fn the_context_is_what_the_kv_cache_holds() {
    let config = EngineConfig {
        kv_bytes: 3 * SimRunner::default().model().kv.full_block_bytes,
        ..EngineConfig::default()
    };
    let engine = start(SimRunner::default(), config);
    assert_eq!(engine.model().context_length, 48);
    let (_, end) = read(engine.submit(request(&"x".repeat(40), 1000)).unwrap());
    let (reason, usage) = end.unwrap();
    assert_eq!((reason, usage.completion_tokens), (FinishReason::Length, 8));
    let error = Engine::start(
        Box::new(SimRunner::default()),
        EngineConfig {
            max_num_seqs: 0,
            ..EngineConfig::default()
        },
    );
    assert_eq!(
        error.err().unwrap().to_string(),
        "max_num_seqs must be at least 1"
    );
}
