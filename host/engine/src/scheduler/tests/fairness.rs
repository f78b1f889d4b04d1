//! Tenants, lanes, deadlines, and what waiting costs.

use super::*;

fn from(tenant: &str, num_prompt_tokens: usize, max_tokens: u32) -> GenerateRequest {
    let mut request = request(num_prompt_tokens, max_tokens);
    request.queue.tenant = Some(tenant.into());
    request
}

fn low(num_prompt_tokens: usize, max_tokens: u32) -> GenerateRequest {
    let mut request = request(num_prompt_tokens, max_tokens);
    request.queue.lane = Lane::Low;
    request
}

/// The order in which requests end where only one runs at a time.
fn order(requests: impl IntoIterator<Item = GenerateRequest>) -> Vec<u64> {
    let mut scheduler = scheduler(1, 64, 64);
    scheduler.limits.prefix_cache = false;
    for request in requests {
        add(&mut scheduler, request);
    }
    run_out(&mut scheduler).iter().map(|(id, _)| id.0).collect()
}

#[test]
fn a_tenant_with_a_long_queue_keeps_nobody_waiting_behind_it() {
    let many = std::iter::repeat_with(|| from("many", 10, 5)).take(6);
    let few = std::iter::repeat_with(|| from("few", 10, 5)).take(2);
    assert_eq!(order(many.chain(few)), [0, 6, 1, 7, 2, 3, 4, 5]);
}

#[test]
fn shares_are_counted_in_tokens_of_prompts_and_answers() {
    // One big request against three small ones, twice.
    let big = std::iter::repeat_with(|| from("big", 30, 10)).take(2);
    let small = std::iter::repeat_with(|| from("small", 8, 5)).take(7);
    assert_eq!(order(big.chain(small)), [0, 2, 3, 4, 5, 1, 6, 7, 8]);
    let long_answers = std::iter::repeat_with(|| from("talks", 1, 40)).take(2);
    let short_ones = std::iter::repeat_with(|| from("listens", 1, 10)).take(5);
    assert_eq!(order(long_answers.chain(short_ones)), [0, 2, 3, 4, 5, 1, 6]);
}

#[test]
fn a_tenant_saves_nothing_up_while_it_is_away() {
    let mut scheduler = scheduler(1, 64, 64);
    for _ in 0..4 {
        add(&mut scheduler, from("stays", 10, 5));
    }
    // The first has ended and the second has its seat when the other comes.
    for _ in 0..6 {
        turn(&mut scheduler, |_| true);
    }
    for _ in 0..4 {
        add(&mut scheduler, from("comes", 10, 5));
    }
    let ended: Vec<u64> = run_out(&mut scheduler).iter().map(|(id, _)| id.0).collect();
    // It is not given four at once for what it has not asked before.
    assert_eq!(ended, [1, 4, 2, 5, 3, 6, 7]);
}

#[test]
fn the_low_lane_waits_for_the_normal_one_but_not_for_ever() {
    let lows = std::iter::repeat_with(|| low(10, 2)).take(2);
    let normals = std::iter::repeat_with(|| request(10, 2)).take(12);
    let expected = [2, 3, 4, 5, 6, 7, 8, 9, 0, 10, 11, 12, 13, 1];
    assert_eq!(order(lows.chain(normals)), expected);
}

#[test]
fn the_low_lane_is_preempted_first_and_once() {
    let mut scheduler = scheduler(4, 64, 9);
    let low = add(&mut scheduler, low(60, 40));
    turn(&mut scheduler, |_| true);
    let normal = add(&mut scheduler, request_of(5000, 60, 40));
    let ended: Vec<_> = run_out(&mut scheduler).iter().map(|(id, _)| *id).collect();
    assert_eq!(ended, [normal, low]);
    assert_eq!(scheduler.counts().preemptions, 1);
}

#[test]
fn a_deadline_ends_what_runs_and_what_waits() {
    let start = Instant::now();
    let mut scheduler = scheduler(1, 64, 64);
    let until = |milliseconds| {
        let mut request = request(20, 50);
        request.queue.deadline = Some(start + Duration::from_millis(milliseconds));
        request
    };
    let running = add(&mut scheduler, until(20));
    let waiting = add(&mut scheduler, until(10));
    let stays = add(&mut scheduler, until(30));
    turn(&mut scheduler, |_| true);
    turn(&mut scheduler, |_| true);
    assert_eq!(scheduler.expire(start + Duration::from_millis(9)), []);
    assert_eq!(
        scheduler.expire(start + Duration::from_millis(10)),
        [(waiting, 0)]
    );
    assert_eq!(
        scheduler.expire(start + Duration::from_millis(25)),
        [(running, 2)]
    );
    assert_eq!(scheduler.kv_use().used, BlockDemand::default());
    let (step, _) = turn(&mut scheduler, |_| true);
    assert_eq!(step.ids, [stays]);
    run_out(&mut scheduler);
    // Who has ended or is gone has no deadline any more.
    let gone = add(&mut scheduler, until(40));
    scheduler.remove(gone);
    assert!(scheduler.deadlines.is_empty());
}

#[test]
fn what_waits_costs_a_step_nothing() {
    let visits = |num_waiting: u64| {
        let mut scheduler = scheduler(4, 64, 64);
        for n in 0..num_waiting {
            let mut request = from(&format!("tenant {}", n % 100), 10, 100);
            request.queue.deadline = Some(Instant::now() + Duration::from_secs(600 + n));
            add(&mut scheduler, request);
        }
        for _ in 0..3 {
            turn(&mut scheduler, |_| true);
        }
        let before = scheduler.counts().visits;
        for _ in 0..10 {
            scheduler.expire(Instant::now());
            turn(&mut scheduler, |_| true);
        }
        scheduler.counts().visits - before
    };
    assert_eq!(visits(10), visits(10_000));
}
