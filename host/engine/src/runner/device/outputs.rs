//! What comes back of a step: drawn tokens, logprobs, logits that the host wants.

use gapura_kernels::device::{
    DeviceError, MAX_LOGPROBS, Readback, Region, RowLogprobs, RowSampling,
};

use super::{
    DeviceRunner,
    inputs::{DeviceStep, Output},
};
use crate::{
    request::{SampledToken, TokenId, TokenLogprobs},
    runner::{RowOutput, StepOutput},
};

/// A step under way.
pub(super) struct Pending {
    outputs: Vec<Output>,
    sampled: Option<Readback>,
    sampled_logits: Option<Readback>,
    logprobs: Option<Readback>,
    /// By row of logits that goes to the host.
    logits: Vec<Readback>,
}

impl DeviceRunner {
    /// Queues the copies of what the host wants of a step.
    pub(super) fn read_back(&mut self, step: DeviceStep) -> Result<Pending, DeviceError> {
        let buffers = self.buffers;
        let flags = step.flags();
        let n = step.num_outputs() as u64;
        let device = &mut self.device;
        let mut of = |region: Region, size: u64, bit: u32| match flags & bit {
            0 => Ok(None),
            _ => device.read_back(region.slice(0, n * size)).map(Some),
        };
        let sampled = of(buffers.sampled, 4, RowSampling::DRAW)?;
        let sampled_logits = of(buffers.sampled_logits, 4, RowSampling::LOGPROBS)?;
        let logprobs = of(
            buffers.logprobs,
            size_of::<RowLogprobs>() as u64,
            RowSampling::LOGPROBS,
        )?;
        let row_bytes = 4 * self.info.vocab_size as u64;
        let mut logits = Vec::new();
        for output in step.outputs.iter().filter(|output| !output.is_drawn) {
            for row in output.first..output.first + output.count {
                let region = buffers.logits.slice(row as u64 * row_bytes, row_bytes);
                logits.push(self.device.read_back(region)?);
            }
        }
        self.drawn = step
            .outputs
            .iter()
            .map(|output| output.is_drawn.then_some(output.first))
            .collect();
        Ok(Pending {
            outputs: step.outputs,
            sampled,
            sampled_logits,
            logprobs,
            logits,
        })
    }

    /// Waits for them.
    pub(super) fn finish(&mut self, pending: Pending) -> Result<StepOutput, DeviceError> {
        let device = &mut self.device;
        let mut bytes_of = |readback: Option<Readback>| match readback {
            Some(readback) => device.wait(readback),
            None => Ok(Vec::new()),
        };
        let sampled = bytes_of(pending.sampled)?;
        let sampled_logits = bytes_of(pending.sampled_logits)?;
        let logprobs = bytes_of(pending.logprobs)?;
        let mut logits = pending.logits.into_iter();
        let mut rows = Vec::with_capacity(pending.outputs.len());
        for output in pending.outputs {
            if output.is_drawn {
                let id = word(&sampled, output.first);
                if id == u32::MAX {
                    rows.push(vec![RowOutput::Undrawable]);
                    continue;
                }
                let report = output.logprobs.map(|count| {
                    let chosen = f32::from_bits(word(&sampled_logits, output.first));
                    report(&logprobs, output.first, id, chosen, count)
                });
                rows.push(vec![RowOutput::Sampled(SampledToken {
                    id: TokenId(id),
                    logprobs: report,
                })]);
                continue;
            }
            let of_sequence = logits.by_ref().take(output.count);
            let of_sequence: Vec<RowOutput> = of_sequence
                .map(|readback| {
                    device
                        .wait(readback)
                        .map(|bytes| RowOutput::Logits(floats(&bytes)))
                })
                .collect::<Result<_, _>>()?;
            rows.push(of_sequence);
        }
        Ok(StepOutput { rows })
    }
}

/// What [`Logprobs`] said of a row, as clients get it.
fn report(bytes: &[u8], row: usize, id: u32, chosen: f32, count: u32) -> TokenLogprobs {
    let words = size_of::<RowLogprobs>() / 4;
    let at = |index: usize| word(bytes, row * words + index);
    let log_total = f32::from_bits(at(0));
    let listed = at(1).min(count) as usize;
    let entry = |index: usize| {
        let logit = f32::from_bits(at(2 + MAX_LOGPROBS + index));
        (TokenId(at(2 + index)), logit - log_total)
    };
    TokenLogprobs {
        id: TokenId(id),
        logprob: chosen - log_total,
        top: (0..listed).map(entry).collect(),
    }
}

fn word(bytes: &[u8], index: usize) -> u32 {
    let word = bytes.as_chunks().0[index];
    u32::from_le_bytes(word)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.as_chunks().0.iter();
    words.map(|word| f32::from_le_bytes(*word)).collect()
}
