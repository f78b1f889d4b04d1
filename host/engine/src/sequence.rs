//! A request inside the engine. `num_computed_tokens` is its only progress counter: a fresh
//! prompt, the next chunk of one, a decode and a recomputation are the same case.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    error::EngineError,
    grammar::{Allowed, Constraint, MaskWorkers, TokenMask},
    kv_cache::{BlockHash, HashChain, SequenceBlocks},
    request::{
        FinishReason, GenerateRequest, Lane, QueueParams, SampledToken, SamplingParams, StopParams,
        TokenEvent, TokenId, TokenLogprobs, Usage,
    },
    runner::{BLOCK_TOKENS, BatchSequence, OutputRows, SamplingInput},
};

/// Names a sequence; later ones are greater, so order of arrival is order of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SequenceId(pub(crate) u64);

/// Who keeps its blocks when there are too few: the lower rank. It stays from the first seat
/// on, so that whoever is first stays first until its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) lane: Lane,
    /// Counts first seats.
    pub(crate) number: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    /// Of no meaning before the first seat.
    pub(crate) rank: Rank,
    pub(crate) blocks: SequenceBlocks,
    /// Its client reads too slowly: left out of steps until there is room for its events.
    pub(crate) is_paused: bool,
    /// Part of the step that is being put together.
    pub(crate) in_step: bool,
    /// The prompt and what was generated.
    tokens: Vec<TokenId>,
    num_prompt_tokens: usize,
    /// Tokens whose keys and values are in `blocks`.
    num_computed_tokens: usize,
    sampling: Arc<SamplingParams>,
    seed: u64,
    stop: StopParams,
    constraint: Option<Constraint>,
    /// Its last row was not drawn, since what may follow was not known in time.
    is_late: bool,
    eos_token_ids: Arc<[TokenId]>,
    logprobs: Option<u32>,
    prompt_scores: Option<PromptScores>,
    queue: QueueParams,
    hashes: HashChain,
    /// Of the prompt, still to be pinned once they are computed.
    prefix_blocks: usize,
    /// Prompt tokens that the first seat found computed.
    num_cached_tokens: usize,
    times: Times,
}

/// The logprobs of the prompt, as far as they are known. `None` in the sequence once they
/// are reported, or where nobody asked.
#[derive(Debug)]
struct PromptScores {
    num_alternatives: u32,
    /// Of the tokens from the second on.
    scores: Vec<TokenLogprobs>,
}

#[derive(Debug)]
struct Times {
    submitted: Instant,
    first_step: Option<Instant>,
    first_token: Option<Instant>,
}

/// A part of a sequence for one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) num_tokens: usize,
    pub(crate) output: OutputRows,
}

/// What a step brought for one sequence.
#[derive(Debug, Default)]
pub(crate) struct SequenceResult {
    /// The scores of the prompt tokens after the chunk's, where asked for.
    pub(crate) scores: Vec<TokenLogprobs>,
    /// The token after the chunk's last, where asked for.
    pub(crate) next: Option<SampledToken>,
    /// No token can follow: the grammar is complete.
    pub(crate) is_complete: bool,
    /// What may follow was not known in time: the last row is to be computed again.
    pub(crate) is_late: bool,
}

impl Sequence {
    /// A request that was checked. `seed` stands in for one that the request leaves open.
    pub(crate) fn new(
        id: SequenceId,
        request: GenerateRequest,
        eos_token_ids: Arc<[TokenId]>,
        seed: u64,
        submitted: Instant,
    ) -> Self {
        Self {
            id,
            rank: Rank::default(),
            blocks: SequenceBlocks::default(),
            is_paused: false,
            in_step: false,
            num_prompt_tokens: request.prompt.len(),
            prefix_blocks: request.cache.prefix_tokens.min(request.prompt.len()) / BLOCK_TOKENS,
            tokens: request.prompt,
            num_computed_tokens: 0,
            hashes: HashChain::new(request.cache.salt.as_deref()),
            queue: request.queue,
            num_cached_tokens: 0,
            seed: request.sampling.seed.unwrap_or(seed),
            sampling: Arc::new(request.sampling),
            stop: request.stop,
            constraint: request.grammar.map(Constraint::new),
            is_late: false,
            eos_token_ids,
            logprobs: request.logprobs,
            prompt_scores: request
                .prompt_logprobs
                .map(|num_alternatives| PromptScores {
                    num_alternatives,
                    scores: Vec::new(),
                }),
            times: Times {
                submitted,
                first_step: None,
                first_token: None,
            },
        }
    }

    pub(crate) fn prompt(&self) -> &[TokenId] {
        &self.tokens[..self.num_prompt_tokens]
    }

    pub(crate) fn generated(&self) -> &[TokenId] {
        &self.tokens[self.num_prompt_tokens..]
    }

    pub(crate) fn num_computed_tokens(&self) -> usize {
        self.num_computed_tokens
    }

    pub(crate) fn tenant(&self) -> &Option<Arc<str>> {
        &self.queue.tenant
    }

    /// The lane that it was sent by; its rank may have been raised since.
    pub(crate) fn lane(&self) -> Lane {
        self.queue.lane
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.queue.deadline
    }

    /// The hashes of the blocks that it could find computed: at least one token is left to
    /// compute, for its row. None while the prompt is scored, which takes every row.
    pub(crate) fn wanted_hashes(&mut self) -> &[BlockHash] {
        let num_tokens = match self.prompt_scores {
            Some(_) => 0,
            None => self.num_tokens_to_compute() - 1,
        };
        self.hashes.of(&self.tokens, num_tokens / BLOCK_TOKENS)
    }

    /// The hashes of all blocks that it has computed, to name `blocks` by.
    pub(crate) fn computed_blocks(&mut self) -> (&mut SequenceBlocks, &[BlockHash]) {
        let num_blocks = self.num_computed_tokens / BLOCK_TOKENS;
        (&mut self.blocks, self.hashes.of(&self.tokens, num_blocks))
    }

    /// The hashes of the prefix that is to be pinned, once all of it is computed.
    pub(crate) fn take_prefix(&mut self) -> Option<&[BlockHash]> {
        let num_blocks = self.prefix_blocks;
        if num_blocks == 0 || self.num_computed_tokens < num_blocks * BLOCK_TOKENS {
            return None;
        }
        self.prefix_blocks = 0;
        Some(self.hashes.of(&self.tokens, num_blocks))
    }

    /// Begins with blocks that others have computed. `is_first` says that it is the first
    /// seat: only that counts for the client.
    pub(crate) fn begin(&mut self, blocks: SequenceBlocks, is_first: bool) {
        self.num_computed_tokens = blocks.num_known_tokens();
        self.blocks = blocks;
        if is_first {
            self.num_cached_tokens = self.num_computed_tokens;
        }
    }

    pub(crate) fn num_cached_tokens(&self) -> usize {
        self.num_cached_tokens
    }

    pub(crate) fn num_prompt_tokens(&self) -> usize {
        self.num_prompt_tokens
    }

    pub(crate) fn sampling(&self) -> &SamplingParams {
        &self.sampling
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn logprobs(&self) -> Option<u32> {
        self.logprobs
    }

    /// Alternatives to report of each prompt token, while the prompt is being scored.
    pub(crate) fn num_score_alternatives(&self) -> Option<u32> {
        self.prompt_scores
            .as_ref()
            .map(|scores| scores.num_alternatives)
    }

    /// The token at `position` of prompt and answer.
    pub(crate) fn token_at(&self, position: usize) -> Option<TokenId> {
        self.tokens.get(position).copied()
    }

    /// Tokens that may not be drawn now: every end token until `min_tokens` are there.
    pub(crate) fn forbidden_tokens(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.forbidden_at(self.generated().len())
    }

    /// The same once so many tokens are there.
    fn forbidden_at(&self, num_generated: usize) -> impl Iterator<Item = TokenId> + '_ {
        let too_early = num_generated < self.stop.min_tokens as usize;
        let ends = self.eos_token_ids.iter().chain(&self.stop.stop_token_ids);
        ends.copied().filter(move |_| too_early)
    }

    /// Has the grammar's first mask computed, while the prompt is.
    pub(crate) fn begin_masks(&mut self, workers: &MaskWorkers) {
        if let Some(constraint) = &mut self.constraint {
            constraint.begin(workers);
        }
    }

    /// Whether what may follow is known by `deadline`, until which this waits.
    pub(crate) fn mask_is_known_by(&self, deadline: Instant) -> bool {
        let constraint = self.constraint.as_ref();
        constraint.is_none_or(|constraint| constraint.is_known_by(deadline))
    }

    /// Whether it sits out because what may follow was late, and still is not known at `now`.
    pub(crate) fn awaits_mask(&self, now: Instant) -> bool {
        self.is_late && !self.mask_is_known_by(now)
    }

    /// What the grammar allows now; `None` without one. Waits for the mask.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] where a limit of the grammar is met.
    pub(crate) fn allowed(&self) -> Result<Option<Allowed>, EngineError> {
        self.constraint
            .as_ref()
            .map(Constraint::allowed)
            .transpose()
    }

    /// What a device may draw now, where a grammar restricts it: without the tokens that may not
    /// come yet, unless nothing else is left.
    pub(crate) fn mask(&self) -> Option<TokenMask> {
        let Ok(Some(Allowed::Tokens(mask))) = self.allowed() else {
            return None;
        };
        let forbidden: Vec<TokenId> = self.forbidden_tokens().collect();
        match mask.is_within(&forbidden) {
            true => Some(mask),
            false => Some(mask.without(&forbidden)),
        }
    }

    /// Tokens to compute before the next is drawn or, where none is, before the end.
    pub(crate) fn num_tokens_to_compute(&self) -> usize {
        if self.stop.max_tokens == 0 {
            // The last prompt token's row would score a token that does not exist.
            (self.num_prompt_tokens - 1).max(1)
        } else {
            self.tokens.len()
        }
    }

    pub(crate) fn is_decoding(&self) -> bool {
        self.num_computed_tokens + 1 == self.num_tokens_to_compute() && !self.generated().is_empty()
    }

    /// As much as fits `max_tokens`, and `max_score_rows` where every row is wanted. `None`
    /// if that is nothing.
    pub(crate) fn next_chunk(&self, max_tokens: usize, max_score_rows: usize) -> Option<Chunk> {
        let remaining = self.num_tokens_to_compute() - self.num_computed_tokens;
        let mut num_tokens = remaining.min(max_tokens);
        let mut output = OutputRows::None;
        // The row of position p scores the token at p + 1, so so many rows are done.
        let scored = self.prompt_scores.as_ref();
        let rows_scored = scored
            .filter(|_| self.num_prompt_tokens > 1)
            .map(|known| known.scores.len());
        match rows_scored {
            Some(rows) if self.num_computed_tokens < rows => {
                num_tokens = num_tokens.min(rows - self.num_computed_tokens);
            }
            Some(_) => {
                num_tokens = num_tokens.min(max_score_rows);
                output = OutputRows::All;
            }
            None if num_tokens == remaining && self.stop.max_tokens > 0 => {
                output = OutputRows::Last;
            }
            None => {}
        }
        (num_tokens > 0).then_some(Chunk { num_tokens, output })
    }

    /// The sequence's part of a batch, its blocks being reserved.
    pub(crate) fn batch_part(&self, chunk: Chunk) -> BatchSequence {
        let first_position = self.num_computed_tokens;
        let end = first_position + chunk.num_tokens;
        let history = match self.sampling.has_penalties() && chunk.output == OutputRows::Last {
            true => self.tokens[..end - 1].to_vec(),
            false => Vec::new(),
        };
        BatchSequence {
            tokens: self.tokens[first_position..end].to_vec(),
            follows: None,
            first_position,
            full_blocks: self.blocks.full_table(),
            windowed_blocks: self.blocks.windowed_table(),
            output: chunk.output,
            sampling: SamplingInput {
                history,
                forbidden: self.forbidden_tokens().collect(),
                ..self.sampling_input()
            },
        }
    }

    /// Whether it certainly goes on with the token after the one that is being drawn, as far as
    /// lengths tell.
    pub(crate) fn goes_on(&self, context_length: usize) -> bool {
        self.generated().len() + 1 < self.stop.max_tokens as usize
            && self.tokens.len() + 1 < context_length
    }

    /// The part of a batch that computes `position`, whose token the part `follows` of the batch
    /// before is about to draw.
    pub(crate) fn part_ahead(&self, position: usize, follows: usize) -> BatchSequence {
        let history = match self.sampling.has_penalties() {
            true => self.tokens.clone(),
            false => Vec::new(),
        };
        BatchSequence {
            tokens: vec![TokenId(0)],
            follows: Some(follows),
            first_position: position,
            full_blocks: self.blocks.full_table(),
            windowed_blocks: self.blocks.windowed_table(),
            output: OutputRows::Last,
            sampling: SamplingInput {
                history,
                forbidden: self.forbidden_at(self.generated().len() + 1).collect(),
                ..self.sampling_input()
            },
        }
    }

    fn sampling_input(&self) -> SamplingInput {
        SamplingInput {
            params: Arc::clone(&self.sampling),
            seed: self.seed,
            num_prompt_tokens: self.num_prompt_tokens,
            history: Vec::new(),
            forbidden: Vec::new(),
            logprobs: self.logprobs,
            is_masked: self.constraint.is_some(),
        }
    }

    pub(crate) fn note_step(&mut self, now: Instant) {
        self.times.first_step.get_or_insert(now);
    }

    /// Gives up the blocks; everything is to be computed again. From then on it counts as
    /// normal: whoever has had a seat gets to its end.
    pub(crate) fn preempt(&mut self) {
        self.rank.lane = Lane::Normal;
        self.blocks = SequenceBlocks::default();
        self.num_computed_tokens = 0;
    }

    /// Takes in what a step brought and appends what the client is to hear of it; true if
    /// that was the end.
    pub(crate) fn advance(
        &mut self,
        num_computed: usize,
        result: SequenceResult,
        context_length: usize,
        now: Instant,
        events: &mut Vec<(SequenceId, TokenEvent)>,
    ) -> bool {
        // A row that was not drawn is computed again, to be drawn then.
        self.is_late = result.is_late;
        self.num_computed_tokens += num_computed - usize::from(result.is_late);
        if let Some(known) = &mut self.prompt_scores {
            known.scores.extend(result.scores);
        }
        let is_scored = |known: &mut PromptScores| known.scores.len() + 1 >= self.num_prompt_tokens;
        if let Some(known) = self.prompt_scores.take_if(is_scored) {
            events.push((self.id, TokenEvent::Prompt(known.scores)));
        }
        let reason = match result.next {
            Some(token) => {
                self.tokens.push(token.id);
                self.times.first_token.get_or_insert(now);
                let reason = self.finish_reason(token.id, context_length);
                if let (Some(constraint), None) = (&self.constraint, reason) {
                    constraint.accept(token.id);
                }
                events.push((self.id, TokenEvent::Token(token)));
                reason
            }
            None if result.is_complete => Some(FinishReason::Stop),
            None if self.stop.max_tokens == 0
                && self.num_computed_tokens >= self.num_tokens_to_compute() =>
            {
                Some(FinishReason::Length)
            }
            None => None,
        };
        if let Some(reason) = reason {
            let usage = self.usage(now);
            events.push((self.id, TokenEvent::Finished { reason, usage }));
        }
        reason.is_some()
    }

    fn finish_reason(&self, last: TokenId, context_length: usize) -> Option<FinishReason> {
        // Within a grammar an end token comes only where the answer may end.
        let counts_eos = !self.stop.ignore_eos || self.constraint.is_some();
        let is_eos = counts_eos && self.eos_token_ids.contains(&last);
        if is_eos || self.stop.stop_token_ids.contains(&last) {
            return Some(FinishReason::Stop);
        }
        let is_full = self.generated().len() >= self.stop.max_tokens as usize
            || self.tokens.len() >= context_length;
        is_full.then_some(FinishReason::Length)
    }

    fn usage(&self, now: Instant) -> Usage {
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let first_step = self.times.first_step.unwrap_or(now);
        let first_token = self.times.first_token;
        Usage {
            prompt_tokens: count(self.num_prompt_tokens),
            cached_tokens: count(self.num_cached_tokens),
            completion_tokens: count(self.generated().len()),
            queue_time: first_step.saturating_duration_since(self.times.submitted),
            prefill_time: first_token
                .unwrap_or(now)
                .saturating_duration_since(first_step),
            decode_time: first_token
                .map_or(Duration::ZERO, |first| now.saturating_duration_since(first)),
        }
    }
}
