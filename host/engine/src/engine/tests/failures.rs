//! Requests and steps that go wrong.

use super::*;

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
    let streams = ["no", "xx", "yes"].map(|prompt| engine.submit(request(prompt, 50)).unwrap());
    let [broken, undrawable, whole] = streams.map(read);
    for failed in [broken, undrawable] {
        let error = failed.1.unwrap_err().to_string();
        assert!(
            error.ends_with("no logit at position 2 is finite"),
            "{error}"
        );
    }
    assert_eq!(whole.0, "You said: yes");
    wait_until("all is free", || is_at_rest(&engine));
    assert_eq!(engine.stats().failed_steps, 0);
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
        follows: None,
        first_position,
        full_blocks: vec![crate::runner::BlockId(block)],
        windowed_blocks: vec![],
        output: crate::runner::OutputRows::Last,
        sampling: crate::runner::SamplingInput {
            num_prompt_tokens: 2,
            ..crate::runner::SamplingInput::default()
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
