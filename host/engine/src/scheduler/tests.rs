//! The scheduler without any runner: the next token of a sequence is a hash of what it has.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    request::{FinishReason, SampledToken, SamplingParams, StopParams, TokenLogprobs},
    runner::BLOCK_TOKENS,
};

const EOS: TokenId = TokenId(1_000_000);

const LAYOUT: KvLayout = KvLayout {
    full_block_bytes: 1,
    windowed_block_bytes: 1,
    window_tokens: 24,
};

fn scheduler(max_num_seqs: usize, max_batched_tokens: usize, num_blocks: u32) -> Scheduler {
    let limits = SchedulerLimits {
        max_num_seqs,
        max_batched_tokens,
        context_length: num_blocks as usize * BLOCK_TOKENS,
        eos_token_ids: vec![EOS],
    };
    let plan = KvPlan {
        num_full_blocks: num_blocks,
        num_windowed_blocks: num_blocks,
    };
    Scheduler::new(limits, &LAYOUT, plan)
}

fn request(num_prompt_tokens: usize, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        request_id: "test".into(),
        prompt: (0..num_prompt_tokens)
            .map(|id| TokenId(id as u32))
            .collect(),
        sampling: SamplingParams::default(),
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

fn add(scheduler: &mut Scheduler, request: GenerateRequest) -> SequenceId {
    scheduler.add(request, 0, Instant::now())
}

fn score_of(token: TokenId) -> TokenLogprobs {
    TokenLogprobs {
        id: token,
        logprob: -1.0,
        top: vec![],
    }
}

/// A token for each row that draws, a score for each that scores.
fn results(scheduler: &Scheduler, step: &Step) -> Vec<SequenceResult> {
    let parts = step.ids.iter().zip(&step.batch.sequences);
    parts
        .map(|(&id, part)| {
            let sequence = scheduler.running_sequence(id).unwrap();
            let end = part.first_position + part.tokens.len();
            let mut result = SequenceResult::default();
            for position in end - part.num_output_rows()..end {
                match sequence.token_at(position + 1) {
                    Some(token) => result.scores.push(score_of(token)),
                    None => {
                        let id = TokenId((position as u32).wrapping_mul(2_654_435_761) % 1000);
                        result.next = Some(SampledToken { id, logprobs: None });
                    }
                }
            }
            result
        })
        .collect()
}

/// One turn; what was scheduled and what came of it.
fn turn(
    scheduler: &mut Scheduler,
    is_ready: impl Fn(SequenceId) -> bool,
) -> (Step, Vec<(SequenceId, TokenEvent)>) {
    let step = scheduler.schedule(Instant::now(), is_ready);
    let results = results(scheduler, &step);
    let events = scheduler.update(&step, results, Instant::now());
    (step, events)
}

/// Tokens of the step by sequence.
fn shares(step: &Step) -> Vec<(u64, usize)> {
    let parts = step.ids.iter().zip(&step.batch.sequences);
    parts.map(|(id, part)| (id.0, part.tokens.len())).collect()
}

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
fn seats_are_given_in_order_of_arrival() {
    let mut scheduler = scheduler(2, 100, 64);
    for _ in 0..4 {
        add(&mut scheduler, request(5, 2));
    }
    let ids = |step: Step| step.ids.iter().map(|id| id.0).collect::<Vec<_>>();
    assert_eq!(ids(turn(&mut scheduler, |_| true).0), [0, 1]);
    assert_eq!(ids(turn(&mut scheduler, |_| true).0), [0, 1]);
    assert_eq!(ids(turn(&mut scheduler, |_| true).0), [2, 3]);
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
    assert_eq!(scheduler.used_blocks(), BlockDemand::default());
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
                .map(crate::BatchSequence::num_output_rows)
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

#[test]
fn the_newest_is_preempted_and_yields_the_same_tokens() {
    let alone = |num_prompt_tokens| tokens_of(&mut scheduler(1, 64, 8), &[num_prompt_tokens]);
    let mut together = scheduler(4, 64, 8);
    let tokens = tokens_of(&mut together, &[40, 41, 42]);
    assert!(together.num_preemptions() > 0);
    assert_eq!(tokens[0], alone(40)[0]);
    assert_eq!(tokens[1], alone(41)[0]);
    assert_eq!(tokens[2], alone(42)[0]);
}

/// Runs requests of these prompts to the end; the tokens of each.
fn tokens_of(scheduler: &mut Scheduler, prompts: &[usize]) -> Vec<Vec<TokenId>> {
    let mut tokens: BTreeMap<SequenceId, Vec<TokenId>> = BTreeMap::new();
    for &num_prompt_tokens in prompts {
        add(scheduler, request(num_prompt_tokens, 30));
    }
    while scheduler.num_running() + scheduler.num_waiting() > 0 {
        for (id, event) in turn(scheduler, |_| true).1 {
            if let TokenEvent::Token(token) = event {
                tokens.entry(id).or_default().push(token.id);
            }
        }
    }
    tokens.into_values().collect()
}

#[test]
fn a_slow_client_keeps_neither_seat_nor_blocks_from_others() {
    let mut scheduler = scheduler(1, 64, 4);
    let slow = add(&mut scheduler, request(40, 9));
    turn(&mut scheduler, |_| true);
    let quick = add(&mut scheduler, request(40, 9));
    // One seat, four blocks, and the slow one has three of them.
    let (step, _) = turn(&mut scheduler, |id| id != slow);
    assert_eq!(step.ids, [quick]);
    assert_eq!(scheduler.num_preemptions(), 1);
    // Its client has read: it goes on once there is room, and is not lost.
    let mut ended = Vec::new();
    for _ in 0..40 {
        let (_, events) = turn(&mut scheduler, |_| true);
        let ends = |event: &TokenEvent| matches!(event, TokenEvent::Finished { .. });
        ended.extend(
            events
                .iter()
                .filter(|(_, event)| ends(event))
                .map(|(id, _)| *id),
        );
    }
    assert_eq!(ended, [quick, slow]);
}

#[test]
fn a_long_prompt_is_not_overtaken_for_ever() {
    let mut scheduler = scheduler(4, 64, 8);
    let first = add(&mut scheduler, request(60, 20));
    let long = add(&mut scheduler, request(100, 2));
    let short = add(&mut scheduler, request(4, 2));
    let (step, _) = turn(&mut scheduler, |_| true);
    assert_eq!(step.ids, [first]);
    let mut order = Vec::new();
    while scheduler.num_running() + scheduler.num_waiting() > 0 {
        let (_, events) = turn(&mut scheduler, |_| true);
        for (id, event) in events {
            if matches!(event, TokenEvent::Finished { .. }) {
                order.push(id);
            }
        }
    }
    assert_eq!(order, [first, long, short]);
}

/// What may happen between two steps.
#[derive(Debug, Clone)]
enum Happening {
    Arrives {
        num_prompt_tokens: usize,
        max_tokens: u32,
        scored: bool,
    },
    /// The sequence at this place, modulo their number, is cancelled.
    Cancelled(usize),
    /// The step fails.
    Fails,
    /// A client stops reading, or goes on.
    Stalls(usize),
    Resumes,
    Steps(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (1_usize..120, 0_u32..40, any::<bool>()).prop_map(
            |(num_prompt_tokens, max_tokens, scored)| Happening::Arrives {
                num_prompt_tokens,
                max_tokens,
                scored,
            }
        ),
        1 => any::<usize>().prop_map(Happening::Cancelled),
        1 => Just(Happening::Fails),
        1 => any::<usize>().prop_map(Happening::Stalls),
        1 => Just(Happening::Resumes),
        4 => (1_u8..20).prop_map(Happening::Steps),
    ]
}

proptest! {
    /// Whatever happens, a block has one holder, budgets hold, and once nothing new comes and
    /// all clients read, everything ends and all blocks are free.
    #[test]
    fn nothing_leaks_and_nobody_starves(
        happenings in prop::collection::vec(happening(), 1..60),
        max_num_seqs in 1_usize..6,
        max_batched_tokens in 1_usize..70,
        num_blocks in 8_u32..20,
    ) {
        let mut scheduler = scheduler(max_num_seqs, max_batched_tokens, num_blocks);
        let mut open: BTreeSet<SequenceId> = BTreeSet::new();
        let mut stalled: BTreeSet<SequenceId> = BTreeSet::new();
        let mut ended: BTreeSet<SequenceId> = BTreeSet::new();
        for happening in happenings {
            match happening {
                Happening::Arrives { num_prompt_tokens, max_tokens, scored } => {
                    let mut request = request(num_prompt_tokens, max_tokens);
                    request.prompt_logprobs = scored.then_some(0);
                    open.insert(add(&mut scheduler, request));
                }
                Happening::Cancelled(place) => {
                    if let Some(&id) = open.iter().nth(place % open.len().max(1)) {
                        scheduler.remove(id);
                        open.remove(&id);
                    }
                }
                Happening::Fails => {
                    let step = scheduler.schedule(Instant::now(), |id| !stalled.contains(&id));
                    for id in step.ids {
                        scheduler.remove(id);
                        open.remove(&id);
                    }
                }
                Happening::Stalls(place) => {
                    stalled.extend(open.iter().nth(place % open.len().max(1)));
                }
                Happening::Resumes => stalled.clear(),
                Happening::Steps(count) => {
                    for _ in 0..count {
                        let (step, events) =
                            turn(&mut scheduler, |id| !stalled.contains(&id));
                        check_step(&step, max_num_seqs, max_batched_tokens)?;
                        prop_assert!(step.ids.iter().all(|id| !stalled.contains(id)));
                        let someone_can = open.iter().any(|id| !stalled.contains(id));
                        prop_assert_eq!(someone_can, !step.ids.is_empty(), "progress");
                        note_ends(&events, &mut open, &mut ended)?;
                    }
                }
            }
        }
        // All prompts and answers are at most 160 tokens, recomputed at most as often as
        // there are sequences.
        let most_turns = 200 * (open.len() + 1) * (open.len() + 1);
        for _ in 0..most_turns {
            let (_, events) = turn(&mut scheduler, |_| true);
            note_ends(&events, &mut open, &mut ended)?;
        }
        prop_assert!(open.is_empty(), "{open:?} starved");
        prop_assert_eq!(scheduler.used_blocks(), BlockDemand::default());
        prop_assert_eq!(scheduler.num_running() + scheduler.num_waiting(), 0);
    }
}

fn check_step(
    step: &Step,
    max_num_seqs: usize,
    max_batched_tokens: usize,
) -> Result<(), TestCaseError> {
    let parts = &step.batch.sequences;
    let num_tokens: usize = parts.iter().map(|part| part.tokens.len()).sum();
    prop_assert!(num_tokens <= max_batched_tokens);
    prop_assert!(parts.len() <= max_num_seqs);
    prop_assert!(parts.iter().all(|part| !part.tokens.is_empty()));
    let ids: BTreeSet<_> = step.ids.iter().collect();
    prop_assert_eq!(ids.len(), step.ids.len());
    let full: Vec<_> = parts.iter().flat_map(|part| &part.full_blocks).collect();
    let windowed: Vec<_> = parts
        .iter()
        .flat_map(|part| part.windowed_blocks.iter().flatten())
        .collect();
    prop_assert_eq!(full.iter().collect::<BTreeSet<_>>().len(), full.len());
    prop_assert_eq!(
        windowed.iter().collect::<BTreeSet<_>>().len(),
        windowed.len()
    );
    Ok(())
}

fn note_ends(
    events: &[(SequenceId, TokenEvent)],
    open: &mut BTreeSet<SequenceId>,
    ended: &mut BTreeSet<SequenceId>,
) -> Result<(), TestCaseError> {
    for (id, event) in events {
        prop_assert!(!ended.contains(id), "an event after the end");
        if matches!(event, TokenEvent::Finished { .. }) {
            open.remove(id);
            ended.insert(*id);
        }
    }
    Ok(())
}
