//! The whole engine over the simulated runner.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::{
    request::{FinishReason, SamplingParams, StopParams, TokenEvent, Usage},
    runner::{Batch, RowOutput, RunnerError, StepOutput},
    sim::{SimFault, SimLatency, SimRunner, SimToken, sim_tokens},
};

/// Long enough for any machine, short enough to fail by.
const PATIENCE: Duration = Duration::from_secs(20);

/// A step that is long against the scheduling of threads.
const SLOW: SimLatency = SimLatency {
    per_prefill_token: Duration::ZERO,
    per_decode_step: Duration::from_millis(2),
};

fn start(runner: SimRunner, config: EngineConfig) -> Engine {
    Engine::start(Box::new(runner), config).unwrap()
}

fn request(prompt: &str, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        request_id: prompt.into(),
        prompt: sim_tokens(prompt),
        sampling: SamplingParams {
            seed: Some(1),
            ..SamplingParams::default()
        },
        stop: StopParams {
            max_tokens,
            min_tokens: 0,
            ignore_eos: false,
            stop_token_ids: vec![],
        },
        logprobs: None,
        prompt_logprobs: None,
    }
}

/// An answer's text, without its end token, and how it ended.
fn read(mut stream: TokenStream) -> (String, Result<(FinishReason, Usage), EngineError>) {
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_next().unwrap() {
            TokenEvent::Token(token) if token.id == SimToken::EOS.id() => {}
            TokenEvent::Token(token) => bytes.push(u8::try_from(token.id.0).unwrap()),
            TokenEvent::Prompt(_) => {}
            TokenEvent::Finished { reason, usage } => {
                assert!(stream.blocking_next().is_none());
                return (String::from_utf8(bytes).unwrap(), Ok((reason, usage)));
            }
            TokenEvent::Failed(error) => {
                assert!(stream.blocking_next().is_none());
                return (String::from_utf8(bytes).unwrap(), Err(error));
            }
        }
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_at_rest(engine: &Engine) -> bool {
    let stats = engine.stats();
    stats.running == 0
        && stats.waiting == 0
        && stats.full_blocks.used == 0
        && stats.windowed_blocks.used == 0
}

/// A runner whose rows are no numbers for sequences that begin with `n`.
struct Broken(SimRunner, Option<StepOutput>);

impl ModelRunner for Broken {
    fn model(&self) -> &ModelInfo {
        self.0.model()
    }

    fn allocate_kv(&mut self, plan: KvPlan) -> Result<(), RunnerError> {
        self.0.allocate_kv(plan)
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunnerError> {
        self.0.submit(batch)?;
        let mut output = self.0.collect()?;
        for (part, rows) in batch.sequences.iter().zip(&mut output.rows) {
            if part.tokens[0] == TokenId(b'n'.into()) {
                for row in rows {
                    *row = RowOutput::Logits(vec![f32::NAN; 263]);
                }
            }
        }
        self.1 = Some(output);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput, RunnerError> {
        Ok(self.1.take().unwrap())
    }
}

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

/// A runner that notes how many sequences each of its steps has.
fn noting(runner: SimRunner) -> (SimRunner, Arc<Mutex<Vec<usize>>>) {
    let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
    let noted = Arc::clone(&sizes);
    let runner = runner.with_faults(move |_, batch| {
        noted.lock().unwrap().push(batch.sequences.len());
        None
    });
    (runner, sizes)
}

/// The sizes of the steps that were surely put together after this call, `count` of them: the
/// step that is under way, or about to be, is not among them.
fn next_sizes(sizes: &Mutex<Vec<usize>>, count: usize) -> Vec<usize> {
    let under_way = sizes.lock().unwrap().len();
    let first = under_way + 1;
    wait_until("the steps have run", || {
        sizes.lock().unwrap().len() >= first + count
    });
    sizes.lock().unwrap()[first..first + count].to_vec()
}

#[test]
fn a_dropped_stream_frees_its_blocks_within_a_step() {
    let answer = "z".repeat(2000);
    let (runner, sizes) = noting(SimRunner::default().answering(&answer).with_latency(SLOW));
    // The whole prompt in one step, so that a running sequence has all its blocks.
    let config = EngineConfig {
        max_batched_tokens: 512,
        ..EngineConfig::default()
    };
    let engine = start(runner, config);
    let stays = engine.submit(request("y", 2000)).unwrap();
    let stays = std::thread::spawn(move || read(stays));
    let gone = engine.submit(request(&"x".repeat(400), 2000)).unwrap();
    wait_until("both run", || engine.stats().running == 2);
    assert!(engine.stats().full_blocks.used >= 26);
    drop(gone);
    assert_eq!(next_sizes(&sizes, 3), [1, 1, 1]);
    assert!(engine.stats().full_blocks.used < 26);
    engine.blocking_shutdown(Duration::ZERO);
    assert!(stays.join().unwrap().1.is_err());
}

#[test]
fn a_newcomer_joins_while_others_decode() {
    let answer = "z".repeat(2000);
    let (runner, sizes) = noting(SimRunner::default().answering(&answer).with_latency(SLOW));
    let engine = start(runner, EngineConfig::default());
    let mut first = engine.submit(request("a", 2000)).unwrap();
    first.blocking_next().unwrap();
    let first = std::thread::spawn(move || read(first));
    let _second = engine.submit(request("b", 2000)).unwrap();
    assert_eq!(next_sizes(&sizes, 3), [2, 2, 2]);
    engine.blocking_shutdown(Duration::ZERO);
    assert!(first.join().unwrap().1.is_err());
}

#[test]
fn a_full_queue_is_said_at_once() {
    // So slow that the running one never fills its channel, which would free its seat.
    let latency = SimLatency {
        per_decode_step: Duration::from_millis(100),
        ..SLOW
    };
    let runner = SimRunner::default()
        .answering(&"z".repeat(500))
        .with_latency(latency);
    let config = EngineConfig {
        max_num_seqs: 1,
        max_queued: 2,
        ..EngineConfig::default()
    };
    let engine = start(runner, config);
    let mut running = engine.submit(request("a", 500)).unwrap();
    running.blocking_next().unwrap();
    let _waiting = [request("b", 5), request("c", 5)].map(|one| engine.submit(one).unwrap());
    assert_eq!(engine.stats().waiting, 2);
    let error = engine.submit(request("d", 5)).unwrap_err();
    assert_eq!(error.to_string(), "2 requests are waiting already");
    drop(running);
    wait_until("the queue moves", || engine.submit(request("e", 5)).is_ok());
}

#[test]
fn a_client_that_does_not_read_pauses_alone() {
    let engine = start(
        SimRunner::default().answering(&"z".repeat(300)),
        EngineConfig {
            max_num_seqs: 1,
            ..EngineConfig::default()
        },
    );
    let slow = engine.submit(request("slow", 400)).unwrap();
    wait_until("its channel is full", || engine.stats().decode_tokens > 50);
    let (quick, _) = read(engine.submit(request("quick", 400)).unwrap());
    assert_eq!(quick.len(), 300);
    // Nothing was lost for it meanwhile.
    let (text, end) = read(slow);
    assert_eq!(text.len(), 300);
    assert_eq!(end.unwrap().0, FinishReason::Stop);
}

#[test]
fn a_failed_step_fails_its_requests_and_no_other() {
    for fault in [
        SimFault::Error("lost the device".into()),
        SimFault::Panic("lost the device".into()),
    ] {
        let runner =
            SimRunner::default().with_faults(move |step, _| (step == 2).then(|| fault.clone()));
        let engine = start(runner, EngineConfig::default());
        let (text, end) = read(engine.submit(request("a", 50)).unwrap());
        assert_eq!(text, "Yo");
        let error = end.unwrap_err().to_string();
        assert!(
            error.starts_with("the model could not run a step: "),
            "{error}"
        );
        assert!(error.ends_with("lost the device"), "{error}");
        wait_until("its blocks are free", || is_at_rest(&engine));
        assert_eq!(engine.stats().failed_steps_in_a_row, 1);
        let (text, _) = read(engine.submit(request("b", 50)).unwrap());
        assert_eq!(text, "You said: b");
        let stats = engine.stats();
        assert_eq!((stats.failed_steps, stats.failed_steps_in_a_row), (1, 0));
        assert!(stats.alive);
    }
}

#[test]
fn a_row_without_numbers_fails_its_request_alone() {
    let runner = Broken(SimRunner::default(), None);
    let engine = Engine::start(Box::new(runner), EngineConfig::default()).unwrap();
    let streams = ["no", "yes"].map(|prompt| engine.submit(request(prompt, 50)).unwrap());
    let [broken, whole] = streams.map(read);
    let error = broken.1.unwrap_err().to_string();
    assert!(
        error.ends_with("no logit at position 2 is finite"),
        "{error}"
    );
    assert_eq!(whole.0, "You said: yes");
    wait_until("all is free", || is_at_rest(&engine));
    assert_eq!(engine.stats().failed_steps, 0);
}

#[test]
fn handles_go_anywhere() {
    fn is_shareable<T: Clone + Send + Sync + 'static>() {}
    is_shareable::<Engine>();
}

#[test]
fn a_stale_or_shared_block_would_be_noticed() {
    // The check that the tests above rely on: the runner reads what the blocks hold.
    let mut runner = SimRunner::default();
    runner
        .allocate_kv(KvPlan {
            num_full_blocks: 2,
            num_windowed_blocks: 0,
        })
        .unwrap();
    let part = |tokens: &str, first_position, block| crate::runner::BatchSequence {
        tokens: sim_tokens(tokens),
        first_position,
        full_blocks: vec![crate::runner::BlockId(block)],
        windowed_blocks: vec![],
        output: crate::runner::OutputRows::Last,
        sampling: crate::runner::SamplingInput {
            params: Arc::default(),
            seed: 0,
            num_prompt_tokens: 2,
            logprobs: None,
        },
    };
    let mut run = |part| {
        let batch = crate::runner::Batch {
            sequences: vec![part],
        };
        runner.submit(&batch).map_err(|error| error.to_string())
    };
    assert_eq!(run(part("ab", 0, 0)), Ok(()));
    assert_eq!(
        run(part("c", 2, 1)),
        Err("the full slot of position 0 holds None".to_owned())
    );
    assert_eq!(
        run(part("c", 2, 7)),
        Err("block 7 was not allocated".to_owned())
    );
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
fn requests_that_can_never_be_served_are_refused_at_once() {
    let runner = SimRunner::default().with_context_length(10);
    let engine = start(runner, EngineConfig::default());
    let refused = |request| engine.submit(request).unwrap_err().to_string();
    assert_eq!(refused(request("", 1)), "the prompt is empty");
    assert_eq!(
        refused(request("0123456789", 1)),
        "10 prompt tokens do not fit a context of 10"
    );
    assert!(engine.submit(request("0123456789", 0)).is_ok());
    let mut unknown = request("a", 1);
    unknown.prompt.push(TokenId(9999));
    assert_eq!(
        refused(unknown),
        "token id 9999 is outside the vocabulary of 263"
    );
    let mut hot = request("a", 1);
    hot.sampling.temperature = 3.0;
    assert_eq!(refused(hot), "temperature is 3, allowed is 0 to 2");
    let mut curious = request("a", 1);
    curious.prompt_logprobs = Some(21);
    assert_eq!(
        refused(curious),
        "prompt_logprobs is 21, allowed is 0 to 20"
    );
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
