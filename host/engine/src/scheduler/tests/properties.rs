//! Whatever happens between two steps.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What may happen between two steps.
#[derive(Debug, Clone)]
enum Happening {
    Arrives(Arrival),
    /// The sequence at this place, modulo their number, is cancelled.
    Cancelled(usize),
    /// The step fails.
    Fails,
    /// A client stops reading, or all go on.
    Stalls(usize),
    Resumes,
    Steps(u8),
}

#[derive(Debug, Clone)]
struct Arrival {
    /// Which of few beginnings its prompt has.
    topic: u32,
    num_prompt_tokens: usize,
    max_tokens: u32,
    scored: bool,
    tenant: u8,
    is_low: bool,
    is_salted: bool,
    prefix_tokens: usize,
    /// Milliseconds of simulated time, of which a step takes one.
    deadline: Option<u64>,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let size = (0_u32..3, 1_usize..120, 0_u32..40, prop::bool::weighted(0.2));
    let who = (
        0_u8..3,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    );
    let rest = (
        prop_oneof![Just(0), 1_usize..120],
        prop::option::weighted(0.2, 0_u64..300),
    );
    (size, who, rest).prop_map(
        |(
            (topic, num_prompt_tokens, max_tokens, scored),
            (tenant, is_low, is_salted),
            (prefix_tokens, deadline),
        )| Arrival {
            topic,
            num_prompt_tokens,
            max_tokens,
            scored,
            tenant,
            is_low,
            is_salted,
            prefix_tokens,
            deadline,
        },
    )
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => arrival().prop_map(Happening::Arrives),
        1 => any::<usize>().prop_map(Happening::Cancelled),
        1 => Just(Happening::Fails),
        1 => any::<usize>().prop_map(Happening::Stalls),
        1 => Just(Happening::Resumes),
        4 => (1_u8..20).prop_map(Happening::Steps),
    ]
}

/// A scheduler, its blocks' contents, and what is expected of it.
struct World {
    scheduler: Scheduler,
    memory: Memory,
    start: Instant,
    milliseconds: u64,
    open: BTreeMap<SequenceId, Expected>,
    stalled: BTreeSet<SequenceId>,
    ended: BTreeSet<SequenceId>,
    max_num_seqs: usize,
    max_batched_tokens: usize,
    /// Steps are begun before the one before them is known.
    runs_ahead: bool,
    in_flight: Option<Step>,
}

struct Expected {
    prompt: Vec<TokenId>,
    max_tokens: usize,
    tokens: Vec<TokenId>,
}

impl World {
    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.milliseconds)
    }

    fn arrives(&mut self, arrival: &Arrival) {
        let length = arrival.num_prompt_tokens;
        let mut request = request_of(arrival.topic * 10_000, length, arrival.max_tokens);
        request.prompt_logprobs = arrival.scored.then_some(0);
        request.queue = QueueParams {
            tenant: (arrival.tenant > 0).then(|| arrival.tenant.to_string().into()),
            lane: if arrival.is_low {
                Lane::Low
            } else {
                Lane::Normal
            },
            deadline: arrival
                .deadline
                .map(|after| self.now() + Duration::from_millis(after)),
        };
        request.cache = CacheParams {
            salt: arrival.is_salted.then(|| "salt".into()),
            prefix_tokens: arrival.prefix_tokens,
        };
        let expected = Expected {
            prompt: request.prompt.clone(),
            max_tokens: arrival.max_tokens as usize,
            tokens: Vec::new(),
        };
        let salt = request.cache.salt.clone();
        let id = add(&mut self.scheduler, request);
        self.memory.salts.insert(id, salt);
        self.open.insert(id, expected);
    }

    /// Only what has had something to tell can have a client that does not read it.
    fn stall(&mut self, place: usize) {
        let has_told = |(_, expected): &(&SequenceId, &Expected)| !expected.tokens.is_empty();
        let told: Vec<_> = self
            .open
            .iter()
            .filter(has_told)
            .map(|(id, _)| *id)
            .collect();
        self.stalled.extend(told.get(place % told.len().max(1)));
    }

    fn nth_open(&self, place: usize) -> Option<SequenceId> {
        self.open
            .keys()
            .nth(place % self.open.len().max(1))
            .copied()
    }

    fn expire(&mut self) {
        self.milliseconds += 1;
        for (id, generated) in self.scheduler.expire(self.now()) {
            let expected = self.open.remove(&id).unwrap();
            assert_eq!(expected.tokens.len(), generated);
        }
    }

    fn fails(&mut self) {
        let stalled = &self.stalled;
        let now = self.start + Duration::from_millis(self.milliseconds);
        let step = match self.in_flight.take() {
            Some(step) => step,
            None => self.scheduler.schedule(now, |id| !stalled.contains(&id)),
        };
        // A device that failed in mid-step may have written anything.
        for part in &step.batch.sequences {
            for index in part.first_position / BLOCK_TOKENS..part.full_blocks.len() {
                let full = part.full_blocks[index];
                let windowed = part.windowed_blocks[index].unwrap();
                self.memory.full[full.0 as usize] = [None; BLOCK_TOKENS];
                self.memory.windowed[windowed.0 as usize] = [None; BLOCK_TOKENS];
            }
        }
        for id in step.ids {
            self.scheduler.remove(id);
            self.open.remove(&id);
        }
    }

    fn steps(&mut self) -> Result<(), TestCaseError> {
        self.expire();
        let now = self.now();
        let stalled = &self.stalled;
        let in_flight = self.in_flight.take();
        let was_ahead = in_flight.is_some();
        let step =
            in_flight.unwrap_or_else(|| self.scheduler.schedule(now, |id| !stalled.contains(&id)));
        let num_tokens: usize = step
            .batch
            .sequences
            .iter()
            .map(|part| part.tokens.len())
            .sum();
        prop_assert!(num_tokens <= self.max_batched_tokens);
        prop_assert!(step.ids.len() <= self.max_num_seqs);
        // One that was begun ahead may have come to be in vain.
        if !was_ahead {
            prop_assert!(step.ids.iter().all(|id| !stalled.contains(id)));
            let someone_can = self.open.keys().any(|id| !stalled.contains(id));
            prop_assert_eq!(someone_can, !step.ids.is_empty(), "progress");
        }
        let results = self.memory.run(&self.scheduler, &step);
        if self.runs_ahead {
            self.in_flight =
                self.scheduler
                    .schedule_ahead(&step, now, |id| !stalled.contains(&id), |_| true);
            for part in self
                .in_flight
                .iter_mut()
                .flat_map(|ahead| &mut ahead.batch.sequences)
            {
                let drawn = part.follows.and_then(|index| results[index].next.as_ref());
                // Of a sequence that was removed anything may be drawn.
                part.tokens = vec![drawn.map_or(TokenId(0), |drawn| drawn.id)];
            }
        }
        for (id, event) in self.scheduler.update(&step, results, now) {
            self.note(id, event)?;
        }
        self.memory.check_known(&self.scheduler);
        Ok(())
    }

    fn note(&mut self, id: SequenceId, event: TokenEvent) -> Result<(), TestCaseError> {
        prop_assert!(!self.ended.contains(&id), "an event after the end");
        let expected = self.open.get_mut(&id).unwrap();
        match event {
            TokenEvent::Token(token) => {
                // The same as alone: a hash of its own prompt and tokens, and of nothing else.
                let context = [expected.prompt.as_slice(), &expected.tokens].concat();
                prop_assert_eq!(token.id, next_token(&context));
                expected.tokens.push(token.id);
            }
            TokenEvent::Finished { .. } => {
                prop_assert_eq!(expected.tokens.len(), expected.max_tokens);
                self.open.remove(&id);
                self.ended.insert(id);
            }
            TokenEvent::Prompt(scores) => {
                prop_assert_eq!(scores.len(), expected.prompt.len() - 1);
            }
            TokenEvent::Failed(_) => prop_assert!(false, "nothing fails by itself"),
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens, blocks are held by who reads them, known blocks hold what their hash
    /// says, budgets hold, tokens do not depend on the company, and once nothing new comes and
    /// all clients read, everything ends and no block is held.
    #[test]
    fn nothing_leaks_nobody_starves_and_company_does_not_show(
        happenings in prop::collection::vec(happening(), 1..60),
        max_num_seqs in 1_usize..6,
        max_batched_tokens in 1_usize..70,
        max_slowdown in prop_oneof![Just(1.0_f32), Just(2.5), Just(f32::INFINITY)],
        num_blocks in 10_u32..24,
        runs_ahead in any::<bool>(),
    ) {
        let mut scheduler = scheduler(max_num_seqs, max_batched_tokens, num_blocks);
        scheduler.pace = Pace::new(max_slowdown);
        let mut world = World {
            scheduler,
            memory: Memory::new(num_blocks),
            start: Instant::now(),
            milliseconds: 0,
            open: BTreeMap::new(),
            stalled: BTreeSet::new(),
            ended: BTreeSet::new(),
            max_num_seqs,
            max_batched_tokens,
            runs_ahead,
            in_flight: None,
        };
        for happening in happenings {
            match happening {
                Happening::Arrives(arrival) => world.arrives(&arrival),
                Happening::Cancelled(place) => {
                    if let Some(id) = world.nth_open(place) {
                        world.scheduler.remove(id);
                        world.open.remove(&id);
                    }
                }
                Happening::Fails => world.fails(),
                Happening::Stalls(place) => world.stall(place),
                Happening::Resumes => world.stalled.clear(),
                Happening::Steps(count) => {
                    for _ in 0..count {
                        world.steps()?;
                    }
                }
            }
        }
        world.stalled.clear();
        // All prompts and answers are at most 160 tokens, recomputed at most as often as
        // there are sequences.
        let most_turns = 300 * (world.open.len() + 1) * (world.open.len() + 1);
        for _ in 0..most_turns {
            if world.open.is_empty() {
                break;
            }
            world.steps()?;
        }
        world.in_flight = None;
        prop_assert!(world.open.is_empty(), "{:?} starved", world.open.keys());
        let scheduler = &world.scheduler;
        prop_assert_eq!(scheduler.kv_use().used, BlockDemand::default());
        prop_assert_eq!(scheduler.num_running() + scheduler.num_waiting(), 0);
        prop_assert!(scheduler.deadlines.is_empty() && scheduler.ranks.is_empty());
        let usage = scheduler.kv_use();
        let held = usage.pinned + usage.cached;
        prop_assert!(held.full <= num_blocks as usize && held.windowed <= num_blocks as usize);
    }

    /// The same happenings make the same steps: no clock, no hash order decides.
    #[test]
    fn the_same_requests_make_the_same_steps(
        arrivals in prop::collection::vec(arrival(), 1..20),
    ) {
        let steps = || {
            let mut scheduler = scheduler(3, 40, 14);
            let start = Instant::now();
            for (number, arrival) in arrivals.iter().enumerate() {
                let mut request = request_of(arrival.topic, arrival.num_prompt_tokens, arrival.max_tokens);
                request.queue.tenant = Some(arrival.tenant.to_string().into());
                let id = SequenceId(number as u64);
                scheduler.add(id, request, 0, start);
            }
            let mut steps = Vec::new();
            for time in 0..200 {
                let now = start + Duration::from_millis(time);
                let step = scheduler.schedule(now, |_| true);
                let results = results(&scheduler, &step);
                scheduler.update(&step, results, now + Duration::from_micros(900));
                let tables = step.batch.sequences.iter().map(|part| part.full_blocks.clone());
                steps.push((step.ids.clone(), tables.collect::<Vec<_>>()));
            }
            steps
        };
        prop_assert_eq!(steps(), steps());
    }
}
