//! A runner without a model: it answers from a script, as slowly and as badly as a test
//! wants. Its KV cache is real, in that it knows the context only from the blocks that the
//! batch names: a stale, shared or missing block is an error or another answer.

mod tokenizer;

use std::time::Duration;

pub use tokenizer::{SimToken, sim_tokenizer, sim_tokens};

use crate::{
    request::TokenId,
    runner::{
        BLOCK_TOKENS, Batch, BatchSequence, BlockId, KvLayout, KvPlan, ModelInfo, ModelRunner,
        OutputRows, RowOutput, RunnerError, StepOutput,
    },
};

/// The logit of the scripted token; all others have 0. Far enough that temperature 2 never
/// draws another one.
const SCRIPTED_LOGIT: f32 = 60.0;

/// Bytes of one block: a position and a token for each of its slots.
const BLOCK_BYTES: u64 = (BLOCK_TOKENS * size_of::<Slot>()) as u64;

/// The whole answer to a prompt, without an end token.
type Script = Box<dyn Fn(&[TokenId]) -> Vec<TokenId> + Send>;

/// What happens in step number `n`, counted from 0.
type Faults = Box<dyn Fn(u64, &Batch) -> Option<SimFault> + Send>;

/// What a KV slot holds: the position it was written for, and its token.
type Slot = Option<(usize, TokenId)>;

/// How a step goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SimFault {
    /// It reports an error.
    Error(String),
    /// It panics.
    Panic(String),
}

/// How long a step takes: the sum over its prompt tokens, and a constant where it decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SimLatency {
    /// For each token of a prompt.
    pub per_prefill_token: Duration,
    /// For each step with a generated token in it, however many there are.
    pub per_decode_step: Duration,
}

/// A scripted [`ModelRunner`] over the vocabulary of [`sim_tokenizer`].
pub struct SimRunner {
    model: ModelInfo,
    script: Script,
    faults: Faults,
    latency: SimLatency,
    full: Vec<[Slot; BLOCK_TOKENS]>,
    windowed: Vec<[Slot; BLOCK_TOKENS]>,
    num_steps: u64,
    submitted: Option<StepOutput>,
}

impl Default for SimRunner {
    /// Answers at once, with [`echo`].
    fn default() -> Self {
        Self {
            model: ModelInfo {
                id: "sim".into(),
                architecture: "sim".into(),
                vocab_size: SimToken::VOCAB_SIZE,
                context_length: 8192,
                eos_token_ids: vec![
                    SimToken::EOS.id(),
                    SimToken::END_OF_TURN.id(),
                    SimToken::IM_END.id(),
                ],
                bos_token_id: Some(SimToken::BOS.id()),
                kv: KvLayout {
                    full_block_bytes: BLOCK_BYTES,
                    windowed_block_bytes: 0,
                    window_tokens: 0,
                },
                weight_bytes: 0,
                device: "sim".into(),
            },
            script: Box::new(echo),
            faults: Box::new(|_, _| None),
            latency: SimLatency::default(),
            full: Vec::new(),
            windowed: Vec::new(),
            num_steps: 0,
            submitted: None,
        }
    }
}

impl SimRunner {
    /// Answers every prompt with what `script` makes of it, then `<eos>`. The script is asked
    /// anew for every token, so it must give the same answer each time.
    #[must_use]
    pub fn with_script(
        mut self,
        script: impl Fn(&[TokenId]) -> Vec<TokenId> + Send + 'static,
    ) -> Self {
        self.script = Box::new(script);
        self
    }

    /// Answers every prompt with `text`.
    #[must_use]
    pub fn answering(self, text: &str) -> Self {
        let answer = sim_tokens(text);
        self.with_script(move |_| answer.clone())
    }

    /// Takes its time.
    #[must_use]
    pub fn with_latency(mut self, latency: SimLatency) -> Self {
        self.latency = latency;
        self
    }

    /// Fails the steps for which `faults`, given their number from 0 and their batch, says
    /// how.
    #[must_use]
    pub fn with_faults(
        mut self,
        faults: impl Fn(u64, &Batch) -> Option<SimFault> + Send + 'static,
    ) -> Self {
        self.faults = Box::new(faults);
        self
    }

    /// Most tokens of prompt and answer; 8192 by default.
    #[must_use]
    pub fn with_context_length(mut self, context_length: usize) -> Self {
        self.model.context_length = context_length;
        self
    }

    /// Adds a group of layers that see `window_tokens` keys, and checks that these are there.
    #[must_use]
    pub fn with_window(mut self, window_tokens: usize) -> Self {
        self.model.kv.windowed_block_bytes = BLOCK_BYTES;
        self.model.kv.window_tokens = window_tokens;
        self
    }

    /// The name that clients see; `sim` by default.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.model.id = id.into();
        self
    }

    /// Writes a part's tokens to its blocks and returns the wanted rows, each the answer to
    /// what the blocks then hold.
    fn run(&mut self, part: &BatchSequence) -> Result<Vec<RowOutput>, RunnerError> {
        let end = part.first_position + part.tokens.len();
        for (position, &token) in (part.first_position..).zip(&part.tokens) {
            let slot = Some((position, token));
            *slot_of(&mut self.full, full_block(part, position)?, position)? = slot;
            if self.model.kv.windowed_block_bytes > 0 {
                let block = windowed_block(part, position)?;
                *slot_of(&mut self.windowed, block, position)? = slot;
            }
        }
        let first_row = match part.output {
            OutputRows::None => end,
            OutputRows::Last => end - 1,
            OutputRows::All => part.first_position,
        };
        let context = self.read_context(part, end)?;
        (first_row..end)
            .map(|position| Ok(RowOutput::Logits(self.logits(part, &context[..=position]))))
            .collect()
    }

    /// The tokens up to `end`, read back from the full group. What the queries of this part
    /// see of the windowed group must be the same.
    fn read_context(
        &mut self,
        part: &BatchSequence,
        end: usize,
    ) -> Result<Vec<TokenId>, RunnerError> {
        let window_tokens = self.model.kv.window_tokens;
        let first_visible = if self.model.kv.windowed_block_bytes > 0 {
            (part.first_position + 1).saturating_sub(window_tokens)
        } else {
            end
        };
        let mut context = Vec::with_capacity(end);
        for position in 0..end {
            let slot = *slot_of(&mut self.full, full_block(part, position)?, position)?;
            let Some((_, token)) = slot.filter(|(written, _)| *written == position) else {
                return Err(bad_slot("full", position, slot));
            };
            context.push(token);
            if position >= first_visible {
                let block = windowed_block(part, position)?;
                let slot = *slot_of(&mut self.windowed, block, position)?;
                if slot != Some((position, token)) {
                    return Err(bad_slot("windowed", position, slot));
                }
            }
        }
        Ok(context)
    }

    fn logits(&self, part: &BatchSequence, context: &[TokenId]) -> Vec<f32> {
        let num_prompt_tokens = part.sampling.num_prompt_tokens.min(context.len());
        let (prompt, answered) = context.split_at(num_prompt_tokens);
        let answer = (self.script)(prompt);
        let next = answer.get(answered.len()).copied();
        let next = next.unwrap_or(SimToken::EOS.id());
        let mut logits = vec![0.0; self.model.vocab_size];
        if let Some(logit) = logits.get_mut(next.0 as usize) {
            *logit = SCRIPTED_LOGIT;
        }
        logits
    }

    fn take_time(&self, batch: &Batch) {
        let mut num_prefill = 0;
        let mut decodes = false;
        for part in &batch.sequences {
            let of_prompt = part
                .sampling
                .num_prompt_tokens
                .saturating_sub(part.first_position);
            num_prefill += of_prompt.min(part.tokens.len());
            decodes |= of_prompt == 0;
        }
        let mut time = self
            .latency
            .per_prefill_token
            .saturating_mul(u32::try_from(num_prefill).unwrap_or(u32::MAX));
        if decodes {
            time += self.latency.per_decode_step;
        }
        if !time.is_zero() {
            std::thread::sleep(time);
        }
    }
}

impl ModelRunner for SimRunner {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn allocate_kv(&mut self, plan: KvPlan) -> Result<(), RunnerError> {
        self.full = vec![[None; BLOCK_TOKENS]; plan.num_full_blocks as usize];
        self.windowed = vec![[None; BLOCK_TOKENS]; plan.num_windowed_blocks as usize];
        Ok(())
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunnerError> {
        let step = self.num_steps;
        self.num_steps += 1;
        self.take_time(batch);
        match (self.faults)(step, batch) {
            Some(SimFault::Error(message)) => return Err(RunnerError::new(message)),
            #[expect(clippy::panic, reason = "tests ask for it, to see the engine survive")]
            Some(SimFault::Panic(message)) => panic!("{message}"),
            None => {}
        }
        let rows = batch
            .sequences
            .iter()
            .map(|part| self.run(part))
            .collect::<Result<_, _>>()?;
        self.submitted = Some(StepOutput { rows });
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput, RunnerError> {
        self.submitted
            .take()
            .ok_or_else(|| RunnerError::new("no step was submitted"))
    }
}

/// `You said: ` and the last thing that the prompt's user said: the last text between special
/// tokens that begins with a role `user`, without the role; where there is none, the last
/// text.
#[must_use]
pub fn echo(prompt: &[TokenId]) -> Vec<TokenId> {
    let is_special = |token: &TokenId| SimToken::is_special(*token);
    let texts = || {
        prompt
            .split(is_special)
            .rev()
            .filter(|text| !text.is_empty())
    };
    let role = sim_tokens("user\n");
    let said = texts()
        .find_map(|text| text.strip_prefix(role.as_slice()))
        .or_else(|| texts().next())
        .unwrap_or_default();
    [&sim_tokens("You said: "), said].concat()
}

fn full_block(part: &BatchSequence, position: usize) -> Result<BlockId, RunnerError> {
    let block = part.full_blocks.get(position / BLOCK_TOKENS);
    block.copied().ok_or_else(|| no_block("full", position))
}

fn windowed_block(part: &BatchSequence, position: usize) -> Result<BlockId, RunnerError> {
    let block = part.windowed_blocks.get(position / BLOCK_TOKENS);
    block
        .copied()
        .flatten()
        .ok_or_else(|| no_block("windowed", position))
}

fn slot_of(
    blocks: &mut [[Slot; BLOCK_TOKENS]],
    block: BlockId,
    position: usize,
) -> Result<&mut Slot, RunnerError> {
    blocks
        .get_mut(block.0 as usize)
        .map(|slots| &mut slots[position % BLOCK_TOKENS])
        .ok_or_else(|| RunnerError::new(format!("block {} was not allocated", block.0)))
}

fn no_block(group: &str, position: usize) -> RunnerError {
    RunnerError::new(format!("no {group} block for position {position}"))
}

fn bad_slot(group: &str, position: usize, slot: Slot) -> RunnerError {
    RunnerError::new(format!(
        "the {group} slot of position {position} holds {slot:?}"
    ))
}
