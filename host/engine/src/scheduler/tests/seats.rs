//! Who gets a seat, and who gives it back.

use std::collections::BTreeMap;

use super::*;

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
fn the_newest_is_preempted_and_yields_the_same_tokens() {
    let alone = |num_prompt_tokens| tokens_of(&mut scheduler(1, 64, 8), &[num_prompt_tokens]);
    let mut together = scheduler(4, 64, 8);
    let tokens = tokens_of(&mut together, &[40, 41, 42]);
    assert!(together.counts().preemptions > 0);
    assert_eq!(tokens[0], alone(40)[0]);
    assert_eq!(tokens[1], alone(41)[0]);
    assert_eq!(tokens[2], alone(42)[0]);
}

/// Runs requests of these prompts to the end; the tokens of each.
fn tokens_of(scheduler: &mut Scheduler, prompts: &[usize]) -> Vec<Vec<TokenId>> {
    let mut tokens: BTreeMap<SequenceId, Vec<TokenId>> = BTreeMap::new();
    for &num_prompt_tokens in prompts {
        add(
            scheduler,
            request_of(1000 * num_prompt_tokens as u32, num_prompt_tokens, 30),
        );
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
    let quick = add(&mut scheduler, request_of(1000, 40, 9));
    // One seat, four blocks, and the slow one has three of them.
    let (step, _) = turn(&mut scheduler, |id| id != slow);
    assert_eq!(step.ids, [quick]);
    assert_eq!(scheduler.counts().preemptions, 1);
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
    let long = add(&mut scheduler, request_of(1000, 100, 2));
    let short = add(&mut scheduler, request_of(2000, 4, 2));
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
