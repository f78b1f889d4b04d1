//! Drawing on the device: what it needs of a request, and when it is left to the host.

use gapura_kernels::device::{
    Bias, DeviceError, Logprobs, Op, Penalize, RowSampling, Sample, Upload,
};

use super::{Begun, DeviceRunner, buffers::MAX_ROW_BIASES};
use crate::{
    runner::{BatchSequence, SamplingInput},
    sampler,
};

/// Whether the device can choose the token. Not where logprobs are wanted of logits that are
/// changed in place: those rows go to the host.
pub(super) fn on_device(input: &SamplingInput) -> bool {
    let num_biases = input.params.logit_bias.len() + input.forbidden.len();
    (input.logprobs.is_none() || !changes_logits(input)) && num_biases <= MAX_ROW_BIASES
}

fn changes_logits(input: &SamplingInput) -> bool {
    input.is_masked
        || input.params.has_penalties()
        || !input.params.logit_bias.is_empty()
        || !input.forbidden.is_empty()
}

/// What the rows of a step refer to.
#[derive(Debug, Default)]
pub(super) struct Referred {
    /// Tokens that penalties are about.
    pub(super) history: Vec<u32>,
    pub(super) biases: Vec<Bias>,
    /// The sequences of the batch whose rows a grammar restricts, by the number of their mask.
    pub(super) masked: Vec<usize>,
}

/// The parameters of the row `row` of the step, the last of `sequence`, which is number `index` of
/// the batch; what they refer to is appended to `refers`.
pub(super) fn row(
    index: usize,
    sequence: &BatchSequence,
    row: usize,
    refers: &mut Referred,
) -> RowSampling {
    let Referred {
        history,
        biases,
        masked,
    } = refers;
    let input = &sequence.sampling;
    let params = &input.params;
    let newest = sequence.first_position + sequence.tokens.len() - 1;
    let (history_start, bias_start) = (history.len() as u32, biases.len() as u32);
    let mut history_prompt = 0;
    if params.has_penalties() {
        history.extend(input.history.iter().map(|token| token.0));
        history_prompt = input.num_prompt_tokens.min(input.history.len()) as u32;
    }
    // A mask leaves out by itself what may not come yet.
    let forbidden = input.forbidden.iter().filter(|_| !input.is_masked);
    let given = params
        .logit_bias
        .iter()
        .map(|(token, bias)| (*token, *bias));
    let forbidden = forbidden.map(|token| (*token, f32::NEG_INFINITY));
    biases.extend(given.chain(forbidden).map(|(token, bias)| Bias {
        token: token.0,
        bias,
    }));
    let mask = masked.len() as u32;
    masked.extend(input.is_masked.then_some(index));
    let mut flags = RowSampling::DRAW;
    if changes_logits(input) {
        flags |= RowSampling::CHANGED;
    }
    if input.is_masked {
        flags |= RowSampling::MASKED;
    }
    if input.logprobs.is_some() {
        flags |= RowSampling::LOGPROBS;
    }
    RowSampling {
        flags,
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        min_p: params.min_p,
        repetition_penalty: params.repetition_penalty,
        presence_penalty: params.presence_penalty,
        frequency_penalty: params.frequency_penalty,
        random: sampler::random_bits(input.seed, newest + 1),
        history_start,
        history_len: history.len() as u32 - history_start,
        history_prompt,
        bias_start,
        bias_len: biases.len() as u32 - bias_start,
        mask,
        newest: row as u32,
        newest_is_generated: u32::from(newest >= input.num_prompt_tokens),
    }
}

impl DeviceRunner {
    /// Draws the tokens of the rows that want it.
    pub(super) fn sample(&mut self, begun: &Begun) -> Result<(), DeviceError> {
        let Begun { step, inputs } = begun;
        let buffers = &self.buffers;
        let flags = step.flags();
        let (n, vocab) = (step.num_outputs() as u32, self.info.vocab_size as u32);
        let (logits, params) = (buffers.logits.address, inputs.sampling);
        let mut ops = Vec::new();
        if flags & RowSampling::LOGPROBS != 0 {
            let out = buffers.logprobs.address;
            ops.push(Op::Logprobs(Logprobs {
                logits,
                params,
                out,
                n,
                vocab,
            }));
        }
        if flags & RowSampling::CHANGED != 0 {
            let Referred {
                history, biases, ..
            } = &step.refers;
            self.device.write(buffers.history, &words(history))?;
            self.device.write(buffers.biases, biases.as_bytes())?;
            ops.push(Op::Penalize(Penalize {
                logits,
                params,
                history: buffers.history.address,
                biases: buffers.biases.address,
                masks: buffers.masks.address,
                tokens: inputs.tokens,
                sources: inputs.sources,
                sampled: buffers.sampled.address,
                seen: buffers.seen.address,
                n,
                vocab,
            }));
        }
        if flags & RowSampling::DRAW != 0 {
            ops.push(Op::Sample(Sample {
                logits,
                params,
                sampled: buffers.sampled.address,
                sampled_logits: buffers.sampled_logits.address,
                n,
                vocab,
            }));
        }
        self.device.run(&ops)
    }
}

fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
