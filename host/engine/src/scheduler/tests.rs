//! The scheduler without any runner: [`Memory`] stands for the blocks, and the next token of a
//! sequence is a hash of all that the blocks of its table hold.

mod ahead;
mod fairness;
mod prefixes;
mod properties;
mod seats;
mod steps;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::*;
use crate::{
    kv_cache::{BlockDemand, BlockHash, HashChain},
    request::{
        CacheParams, FinishReason, Lane, QueueParams, SampledToken, StopParams, TokenLogprobs,
    },
    runner::{BLOCK_TOKENS, BatchSequence, BlockId},
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
        max_slowdown: f32::INFINITY,
        context_length: num_blocks as usize * BLOCK_TOKENS,
        eos_token_ids: vec![EOS],
        prefix_cache: true,
    };
    let plan = KvPlan {
        num_full_blocks: num_blocks,
        num_windowed_blocks: num_blocks,
    };
    Scheduler::new(limits, &LAYOUT, plan)
}

/// A request whose prompt has nothing in common with that of another `first` token.
fn request_of(first: u32, num_prompt_tokens: usize, max_tokens: u32) -> GenerateRequest {
    let prompt = (0..num_prompt_tokens)
        .map(|id| TokenId(first + id as u32))
        .collect();
    GenerateRequest::new("test", prompt, max_tokens)
}

fn request(num_prompt_tokens: usize, max_tokens: u32) -> GenerateRequest {
    request_of(0, num_prompt_tokens, max_tokens)
}

fn add(scheduler: &mut Scheduler, request: GenerateRequest) -> SequenceId {
    let id = SequenceId(scheduler.counts().requests);
    scheduler.add(id, request, 0, Instant::now());
    id
}

fn score_of(token: TokenId) -> TokenLogprobs {
    TokenLogprobs {
        id: token,
        logprob: -1.0,
        top: vec![],
    }
}

/// The token after `context`: a hash of all of it.
fn next_token(context: &[TokenId]) -> TokenId {
    let mix = |hash: u32, token: &TokenId| (hash ^ token.0).wrapping_mul(0x0100_0193);
    TokenId(context.iter().fold(0x811c_9dc5, mix) % 1000)
}

/// A token for each row that draws, a score for each that scores. The context comes from the
/// sequence itself.
fn results(scheduler: &Scheduler, step: &Step) -> Vec<SequenceResult> {
    let parts = step.ids.iter().zip(&step.batch.sequences);
    parts
        .map(|(&id, part)| {
            let sequence = scheduler.running_sequence(id).unwrap();
            let token_at = |position| sequence.token_at(position);
            let end = part.first_position + part.tokens.len();
            let context: Vec<TokenId> = (0..end).map_while(token_at).collect();
            result_of(sequence, part, &context)
        })
        .collect()
}

fn result_of(sequence: &Sequence, part: &BatchSequence, context: &[TokenId]) -> SequenceResult {
    let end = context.len();
    let mut result = SequenceResult::default();
    for position in end - part.num_output_rows()..end {
        match sequence.token_at(position + 1) {
            Some(token) => result.scores.push(score_of(token)),
            None => {
                let id = next_token(&context[..=position]);
                result.next = Some(SampledToken { id, logprobs: None });
            }
        }
    }
    result
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

/// Turns until nobody runs or waits; those that ended, in order, and the usage of each.
fn run_out(scheduler: &mut Scheduler) -> Vec<(SequenceId, crate::Usage)> {
    let mut ended = Vec::new();
    while scheduler.num_running() + scheduler.num_waiting() > 0 {
        for (id, event) in turn(scheduler, |_| true).1 {
            if let TokenEvent::Finished { usage, .. } = event {
                ended.push((id, usage));
            }
        }
    }
    ended
}

/// Tokens of the step by sequence.
fn shares(step: &Step) -> Vec<(u64, usize)> {
    let parts = step.ids.iter().zip(&step.batch.sequences);
    parts.map(|(id, part)| (id.0, part.tokens.len())).collect()
}

/// What the blocks hold, as a device would have it.
struct Memory {
    full: Vec<[Option<TokenId>; BLOCK_TOKENS]>,
    windowed: Vec<[Option<TokenId>; BLOCK_TOKENS]>,
    /// What a block known by this hash must hold.
    contents: HashMap<BlockHash, Vec<TokenId>>,
    salts: HashMap<SequenceId, Option<Arc<str>>>,
}

impl Memory {
    fn new(num_blocks: u32) -> Self {
        let empty = [None; BLOCK_TOKENS];
        Self {
            full: vec![empty; num_blocks as usize],
            windowed: vec![empty; num_blocks as usize],
            contents: HashMap::new(),
            salts: HashMap::new(),
        }
    }

    /// Runs a step over the blocks that it names: what it writes nobody else may know, what it
    /// reads must be its own sequence's tokens.
    fn run(&mut self, scheduler: &Scheduler, step: &Step) -> Vec<SequenceResult> {
        let [known_full, known_windowed] = scheduler.kv.known();
        let ids = |known: &[(BlockHash, BlockId)]| -> BTreeSet<BlockId> {
            known.iter().map(|(_, id)| *id).collect()
        };
        let (known_full, known_windowed) = (ids(&known_full), ids(&known_windowed));
        let mut written = BTreeSet::new();
        for part in &step.batch.sequences {
            for (position, &token) in (part.first_position..).zip(&part.tokens) {
                let (index, slot) = (position / BLOCK_TOKENS, position % BLOCK_TOKENS);
                let full = part.full_blocks[index];
                let windowed = part.windowed_blocks[index].unwrap();
                assert!(!known_full.contains(&full), "{full:?} is known and written");
                assert!(
                    !known_windowed.contains(&windowed),
                    "{windowed:?} is known and written"
                );
                assert!(written.insert((full, slot)), "{full:?} is written twice");
                self.full[full.0 as usize][slot] = Some(token);
                self.windowed[windowed.0 as usize][slot] = Some(token);
            }
        }
        let parts = step.ids.iter().zip(&step.batch.sequences);
        parts
            .map(|(&id, part)| match scheduler.running_sequence(id) {
                Some(_) => self.read(scheduler, id, part),
                // Removed since the step was begun.
                None => SequenceResult::default(),
            })
            .collect()
    }

    fn read(
        &mut self,
        scheduler: &Scheduler,
        id: SequenceId,
        part: &BatchSequence,
    ) -> SequenceResult {
        let sequence = scheduler.running_sequence(id).unwrap();
        let end = part.first_position + part.tokens.len();
        let first_visible = (part.first_position + 1).saturating_sub(LAYOUT.window_tokens);
        let mut context = Vec::new();
        for position in 0..end {
            let (index, slot) = (position / BLOCK_TOKENS, position % BLOCK_TOKENS);
            let token = self.full[part.full_blocks[index].0 as usize][slot];
            assert_eq!(
                token,
                sequence.token_at(position),
                "full, {position} of {id:?}"
            );
            if position >= first_visible {
                let block = part.windowed_blocks[index].unwrap();
                let windowed = self.windowed[block.0 as usize][slot];
                assert_eq!(windowed, token, "windowed, {position} of {id:?}");
            }
            context.push(token.unwrap());
        }
        let salt = self.salts.get(&id).cloned().flatten();
        let hashes = HashChain::new(salt.as_deref()).of(&context, end).to_vec();
        for (hash, tokens) in hashes.into_iter().zip(context.chunks_exact(BLOCK_TOKENS)) {
            self.contents.insert(hash, tokens.to_vec());
        }
        result_of(sequence, part, &context)
    }

    /// Every block that is known by a hash holds what that hash says.
    fn check_known(&self, scheduler: &Scheduler) {
        let [full, windowed] = scheduler.kv.known();
        for (blocks, known) in [(&self.full, full), (&self.windowed, windowed)] {
            for (hash, id) in known {
                let held: Vec<TokenId> = blocks[id.0 as usize]
                    .iter()
                    .map(|slot| slot.unwrap())
                    .collect();
                assert_eq!(&held, &self.contents[&hash], "{id:?}");
            }
        }
    }
}
