//! What a step holds and what comes of it.

use super::*;

#[test]
fn decodes_come_first_and_prompts_share_the_rest_in_order() {
    let mut scheduler = scheduler(8, 10, 64);
    add(&mut scheduler, request(4, 9));
    let (step, _) = turn(&mut scheduler, |_| true);
    assert_eq!(shares(&step), [(0, 4)]);
    add(&mut scheduler, request(12, 9));
    add(&mut scheduler, request(3, 9));
    let (step, _) = turn(&mut scheduler, |_| true);
    assert_eq!(shares(&step), [(0, 1), (1, 9)]);
    assert_eq!(step.batch.sequences[1].output, OutputRows::None);
    // The third joins at once although neither of the others has ended.
    let (step, _) = turn(&mut scheduler, |_| true);
    assert_eq!(shares(&step), [(0, 1), (1, 3), (2, 3)]);
    assert_eq!(step.batch.sequences[1].output, OutputRows::Last);
    let (step, _) = turn(&mut scheduler, |_| true);
    assert_eq!(shares(&step), [(0, 1), (1, 1), (2, 1)]);
}

#[test]
fn the_end_says_why_and_frees_the_blocks() {
    let mut scheduler = scheduler(2, 100, 4);
    add(&mut scheduler, request(5, 2));
    assert_eq!(turn(&mut scheduler, |_| true).1.len(), 1);
    let (_, events) = turn(&mut scheduler, |_| true);
    let Some((_, TokenEvent::Finished { reason, usage })) = events.last() else {
        panic!("no end in {events:?}");
    };
    assert_eq!(*reason, FinishReason::Length);
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (5, 2));
    assert_eq!(scheduler.kv_use().used, BlockDemand::default());
    assert_eq!(scheduler.num_running(), 0);
}

#[test]
fn end_tokens_stop_unless_ignored_and_are_forbidden_before_min_tokens() {
    let stop = |change: fn(&mut StopParams)| {
        let mut scheduler = scheduler(1, 100, 4);
        let mut request = request(5, 10);
        change(&mut request.stop);
        let id = add(&mut scheduler, request);
        let step = scheduler.schedule(Instant::now(), |_| true);
        let sequence = scheduler.running_sequence(id).unwrap();
        let forbidden: Vec<_> = sequence.forbidden_tokens().collect();
        let result = SequenceResult {
            next: Some(SampledToken {
                id: EOS,
                logprobs: None,
            }),
            ..SequenceResult::default()
        };
        let ended = scheduler.update(&step, vec![result], Instant::now()).len() == 2;
        (ended, forbidden)
    };
    assert_eq!(stop(|_| ()), (true, vec![]));
    assert_eq!(stop(|stop| stop.ignore_eos = true), (false, vec![]));
    assert_eq!(stop(|stop| stop.min_tokens = 1), (true, vec![EOS]));
    let both = |stop: &mut StopParams| {
        stop.ignore_eos = true;
        stop.stop_token_ids = vec![EOS];
    };
    assert_eq!(stop(both), (true, vec![]));
}

#[test]
fn the_context_ends_an_answer() {
    let mut scheduler = scheduler(1, 100, 1);
    add(&mut scheduler, request(14, 50));
    turn(&mut scheduler, |_| true);
    let (_, events) = turn(&mut scheduler, |_| true);
    let (_, TokenEvent::Finished { reason, usage }) = events.last().unwrap() else {
        panic!("no end in {events:?}");
    };
    assert_eq!(
        (*reason, usage.completion_tokens),
        (FinishReason::Length, 2)
    );
}

#[test]
fn a_scored_prompt_asks_for_few_rows_a_step_and_reports_them_all_at_once() {
    for (max_tokens, num_prompt_tokens) in [(0, 100), (2, 100), (0, 1), (2, 1), (0, 2)] {
        let mut scheduler = scheduler(1, 512, 64);
        let mut request = request(num_prompt_tokens, max_tokens);
        request.prompt_logprobs = Some(0);
        add(&mut scheduler, request);
        let mut events = Vec::new();
        while scheduler.num_running() + scheduler.num_waiting() > 0 {
            let (step, new) = turn(&mut scheduler, |_| true);
            let rows: usize = step
                .batch
                .sequences
                .iter()
                .map(BatchSequence::num_output_rows)
                .sum();
            assert!(rows <= MAX_SCORE_ROWS);
            events.extend(new.into_iter().map(|(_, event)| event));
        }
        let TokenEvent::Prompt(scores) = &events[0] else {
            panic!("no scores first in {events:?}");
        };
        let scored: Vec<TokenId> = scores.iter().map(|score| score.id).collect();
        let prompt: Vec<TokenId> = (1..num_prompt_tokens)
            .map(|id| TokenId(id as u32))
            .collect();
        assert_eq!(scored, prompt);
        assert_eq!(events.len(), 2 + max_tokens as usize);
    }
}

#[test]
fn max_tokens_zero_without_scores_just_ends() {
    let mut scheduler = scheduler(1, 512, 64);
    add(&mut scheduler, request(1, 0));
    let (step, events) = turn(&mut scheduler, |_| true);
    assert_eq!(step.batch.sequences[0].output, OutputRows::None);
    assert_eq!(events.len(), 1);
    assert_eq!(scheduler.num_running(), 0);
}
