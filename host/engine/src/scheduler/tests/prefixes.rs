//! What a sequence finds computed, and what it must not.

use super::*;

/// A scheduler and the blocks that it deals with.
struct Device {
    scheduler: Scheduler,
    memory: Memory,
}

impl Device {
    fn new(max_num_seqs: usize, num_blocks: u32) -> Self {
        Self {
            scheduler: scheduler(max_num_seqs, 512, num_blocks),
            memory: Memory::new(num_blocks),
        }
    }

    /// The tokens found computed for each of `requests`, one after the other.
    fn cached(&mut self, requests: impl IntoIterator<Item = GenerateRequest>) -> Vec<u32> {
        let mut cached = Vec::new();
        for request in requests {
            let salt = request.cache.salt.clone();
            let id = add(&mut self.scheduler, request);
            self.memory.salts.insert(id, salt);
            while self.scheduler.num_running() + self.scheduler.num_waiting() > 0 {
                let step = self.scheduler.schedule(Instant::now(), |_| true);
                let results = self.memory.run(&self.scheduler, &step);
                let events = self.scheduler.update(&step, results, Instant::now());
                self.memory.check_known(&self.scheduler);
                cached.extend(events.into_iter().filter_map(|(_, event)| match event {
                    TokenEvent::Finished { usage, .. } => Some(usage.cached_tokens),
                    _ => None,
                }));
            }
        }
        assert_eq!(self.scheduler.kv_use().used, BlockDemand::default());
        cached
    }
}

#[test]
fn whole_blocks_are_found_but_never_the_last_token() {
    let mut device = Device::new(4, 64);
    let lengths = [100, 100, 96, 97, 33, 32, 17, 16, 1];
    let requests = lengths.map(|length| request(length, 3));
    assert_eq!(device.cached(requests), [0, 96, 80, 96, 32, 16, 16, 0, 0]);
    let counts = device.scheduler.counts();
    assert_eq!(counts.prompt_tokens, lengths.iter().sum::<usize>() as u64);
    assert_eq!(counts.cached_tokens, 96 + 80 + 96 + 32 + 16 + 16);
}

#[test]
fn an_answer_is_found_by_the_next_turn_of_its_conversation() {
    let mut device = Device::new(1, 64);
    let mut conversation = request(40, 30);
    let mut tokens = conversation.prompt.clone();
    assert_eq!(device.cached(vec![conversation.clone()]), [0]);
    for _ in 0..30 {
        tokens.push(next_token(&tokens));
    }
    conversation.prompt = [tokens, vec![TokenId(7); 20]].concat();
    // 40 and 29 tokens were computed, the last was only drawn.
    assert_eq!(device.cached(vec![conversation]), [64]);
}

#[test]
fn a_windowed_hole_ends_a_prefix_and_blocks_behind_the_window_are_not_asked_for() {
    let mut device = Device::new(1, 16);
    assert_eq!(device.cached(vec![request(200, 1)]), [0]);
    // Others take the windowed blocks that were given back first: those behind the window.
    device.scheduler.kv.give_up_windowed(8);
    assert_eq!(device.cached(vec![request(200, 1)]), [192]);
    // Now some within the window of the whole, but not of a shorter prefix.
    let mut other = Device::new(1, 16);
    assert_eq!(other.cached(vec![request(200, 1)]), [0]);
    other
        .scheduler
        .kv
        .give_up_windowed_block(&request(200, 1).prompt, 10);
    assert_eq!(other.cached(vec![request(200, 1)]), [10 * 16]);
}

#[test]
fn salts_scores_and_the_switch_keep_prefixes_apart() {
    let salted = |salt: &str| {
        let mut request = request(50, 2);
        request.cache.salt = Some(salt.into());
        request
    };
    let scored = || {
        let mut request = request(50, 2);
        request.prompt_logprobs = Some(0);
        request
    };
    let mut device = Device::new(1, 64);
    let requests = vec![
        request(50, 2),
        salted("a"),
        salted("b"),
        salted("a"),
        scored(),
        request(50, 2),
    ];
    assert_eq!(device.cached(requests), [0, 0, 0, 48, 0, 48]);
    let mut off = Device::new(1, 64);
    off.scheduler.limits.prefix_cache = false;
    assert_eq!(off.cached(vec![request(50, 2), request(50, 2)]), [0, 0]);
    assert_eq!(off.scheduler.kv_use().cached, BlockDemand::default());
}

#[test]
fn what_was_preempted_finds_its_own_blocks_and_counts_them_not() {
    let mut scheduler = scheduler(4, 64, 12);
    for first in [0, 1000, 2000] {
        add(&mut scheduler, request_of(first, 50, 40));
    }
    let ended = run_out(&mut scheduler);
    assert!(scheduler.counts().preemptions > 0);
    assert!(ended.iter().all(|(_, usage)| usage.cached_tokens == 0));
}

#[test]
fn a_template_stays_while_others_come_and_go_and_gives_way_to_need() {
    let with_prefix = |first: u32, num_prompt_tokens: usize, prefix_tokens: usize| {
        let mut request = request_of(first, num_prompt_tokens, 1);
        request.cache.prefix_tokens = prefix_tokens;
        request
    };
    let mut device = Device::new(2, 32);
    assert_eq!(device.cached(vec![with_prefix(0, 90, 70)]), [0]);
    assert_eq!(device.scheduler.kv.num_pins(), 1);
    let pinned = BlockDemand {
        full: 4,
        windowed: 2,
    };
    assert_eq!(device.scheduler.kv_use().pinned, pinned);
    // Enough to push out everything else.
    let crowd = (1..20).map(|n| request_of(n * 1000, 100, 1));
    device.cached(crowd);
    assert_eq!(device.cached(vec![with_prefix(0, 80, 70)]), [64]);
    // A second one has its place beside it, a third takes that of the least recently used.
    let templates = vec![with_prefix(50_000, 80, 64), with_prefix(60_000, 80, 64)];
    device.cached(templates);
    assert_eq!(device.scheduler.kv.num_pins(), 2);
    // One beyond the share is none.
    device.cached(vec![with_prefix(70_000, 200, 160)]);
    assert_eq!(device.scheduler.kv.num_pins(), 2);
    // A sequence that needs the whole pool gets it.
    device.cached(vec![request_of(80_000, 505, 4)]);
    assert_eq!(device.scheduler.kv.num_pins(), 0);
}
