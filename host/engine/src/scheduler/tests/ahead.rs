//! Steps that are begun before the one before them is known.

use super::*;

fn ahead(scheduler: &mut Scheduler, step: &Step) -> Option<Step> {
    scheduler.schedule_ahead(step, Instant::now(), |_| true, |_| true)
}

/// A scheduler whose sequences have read their prompts, and the step that they decode in.
fn decoding(requests: Vec<GenerateRequest>) -> (Scheduler, Step) {
    let mut scheduler = scheduler(2, 64, 40);
    for request in requests {
        add(&mut scheduler, request);
    }
    turn(&mut scheduler, |_| true);
    let step = scheduler.schedule(Instant::now(), |_| true);
    assert!(
        step.batch
            .sequences
            .iter()
            .all(|part| part.tokens.len() == 1)
    );
    (scheduler, step)
}

#[test]
fn a_step_of_decodes_is_continued_by_a_token_each() {
    let (mut scheduler, step) = decoding(vec![request_of(0, 15, 9), request_of(100, 20, 9)]);
    let next = ahead(&mut scheduler, &step).unwrap();
    assert_eq!(next.ids, step.ids);
    for (index, (part, before)) in next
        .batch
        .sequences
        .iter()
        .zip(&step.batch.sequences)
        .enumerate()
    {
        assert_eq!(part.follows, Some(index));
        assert_eq!(part.first_position, before.first_position + 1);
        assert_eq!(
            part.full_blocks.len(),
            part.first_position / BLOCK_TOKENS + 1
        );
    }
}

#[test]
fn what_ends_by_its_length_is_left_out() {
    let (mut scheduler, step) = decoding(vec![request_of(0, 15, 2), request_of(100, 20, 9)]);
    let next = ahead(&mut scheduler, &step).unwrap();
    assert_eq!(next.ids, step.ids[1..]);
    assert_eq!(next.batch.sequences[0].follows, Some(1));
}

#[test]
fn nothing_is_begun_ahead_of_what_could_join_or_is_behind() {
    let (mut scheduler, step) = decoding(vec![request_of(0, 15, 9)]);
    assert!(
        scheduler
            .schedule_ahead(&step, Instant::now(), |_| false, |_| true)
            .is_none()
    );
    assert!(
        scheduler
            .schedule_ahead(&step, Instant::now(), |_| true, |_| false)
            .is_none()
    );
    add(&mut scheduler, request_of(100, 20, 9));
    assert!(ahead(&mut scheduler, &step).is_none(), "a seat is free");

    let (mut scheduler, step) = decoding(vec![request_of(0, 15, 9), request_of(100, 20, 9)]);
    add(&mut scheduler, request_of(200, 20, 9));
    assert!(ahead(&mut scheduler, &step).is_some(), "no seat is free");

    let mut scheduler = super::scheduler(2, 64, 40);
    add(&mut scheduler, request_of(0, 100, 9));
    let step = scheduler.schedule(Instant::now(), |_| true);
    assert!(ahead(&mut scheduler, &step).is_none(), "a prompt is read");
}

#[test]
fn penalties_see_all_tokens_but_the_newest() {
    let mut request = request_of(0, 15, 9);
    request.sampling.repetition_penalty = 1.1;
    let (mut scheduler, step) = decoding(vec![request]);
    assert_eq!(step.batch.sequences[0].sampling.history.len(), 15);
    let next = ahead(&mut scheduler, &step).unwrap();
    assert_eq!(next.batch.sequences[0].sampling.history.len(), 16);
}
