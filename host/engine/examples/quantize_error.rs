//! What quantizing while loading costs: a float32 model against itself with quantized weights,
//! token for token over given texts. JSON in, JSON out; the Rust half of
//! `tests/verify/quantize.py`, which says what the numbers mean.
//!
//! ```text
//! echo '{"texts": ["Hello there"]}' | quantize_error REFERENCE [OTHER.gguf]
//! ```
//!
//! `OTHER.gguf` is compared as it is, beside 8bit and 4bit of the reference.

use std::{
    error::Error,
    io::{self, Write},
    path::Path,
};

use gapura_engine::{
    BLOCK_TOKENS, Batch, BatchSequence, BlockId, CpuOptions, CpuRunner, KvPlan, ModelRunner,
    OutputRows, Quantization, RowOutput, SamplingInput, TokenId,
};
use serde::{Deserialize, Serialize};

/// Tokens that are computed in one step, to bound their logits.
const CHUNK: usize = 64;
/// Longest text, in blocks.
const NUM_BLOCKS: u32 = 128;

#[derive(Deserialize)]
struct Request {
    texts: Vec<String>,
}

#[derive(Serialize)]
struct Response {
    tokens: usize,
    /// Mean negative logprob of the next token, in nats.
    reference_nll: f64,
    reference_bytes: u64,
    variants: Vec<Distance>,
}

/// How far a model is from the reference, as means over tokens.
#[derive(Serialize)]
struct Distance {
    name: &'static str,
    weight_bytes: u64,
    /// KL(reference || variant), in nats.
    kl: f64,
    /// Share of positions with the same most likely token.
    top1: f64,
    /// |Δlogprob| of the text's next token.
    delta: f64,
    /// As `reference_nll`.
    nll: f64,
}

#[derive(Default)]
struct Sums {
    kl: f64,
    same: usize,
    delta: f64,
    nll: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (reference, other) = match arguments.as_slice() {
        [reference] => (reference, None),
        [reference, other] => (reference, Some(other)),
        _ => return Err("usage: quantize_error REFERENCE [OTHER.gguf] < request.json".into()),
    };
    let request: Request = serde_json::from_reader(io::stdin().lock())?;
    let load = |path: &str, quantize| -> Result<_, Box<dyn Error>> {
        let options = CpuOptions {
            quantize,
            ..CpuOptions::default()
        };
        let mut model = CpuRunner::load(Path::new(path), options)?;
        model.runner.allocate_kv(KvPlan {
            num_full_blocks: NUM_BLOCKS,
            num_windowed_blocks: NUM_BLOCKS,
        })?;
        Ok(model)
    };
    let mut exact = load(reference, Quantization::None)?;
    let mut variants = vec![
        ("8bit", load(reference, Quantization::EightBit)?.runner),
        ("4bit", load(reference, Quantization::FourBit)?.runner),
    ];
    if let Some(path) = other {
        variants.push(("file", load(path, Quantization::None)?.runner));
    }
    let mut sums: Vec<Sums> = variants.iter().map(|_| Sums::default()).collect();
    let (mut tokens, mut nexts, mut reference_nll) = (0, 0, 0.0);
    for text in &request.texts {
        let mut ids: Vec<u32> = Vec::new();
        ids.extend(exact.runner.model().bos_token_id.map(|id| id.0));
        ids.extend(exact.tokenizer.encode(text).iter().map(|id| id.0));
        ids.truncate(NUM_BLOCKS as usize * BLOCK_TOKENS);
        for first in (0..ids.len()).step_by(CHUNK) {
            let chunk = &ids[first..ids.len().min(first + CHUNK)];
            let next = |row: usize| ids.get(first + row + 1).map(|&id| id as usize);
            let expected = logprobs(&mut exact.runner, chunk, first)?;
            tokens += expected.len();
            for (row, p) in expected.iter().enumerate() {
                if let Some(next) = next(row) {
                    nexts += 1;
                    reference_nll -= p[next];
                }
            }
            for ((_, runner), sums) in variants.iter_mut().zip(&mut sums) {
                let found = logprobs(runner, chunk, first)?;
                for (row, (p, q)) in expected.iter().zip(&found).enumerate() {
                    let terms = p.iter().zip(q).map(|(p, q)| p.exp() * (p - q));
                    sums.kl += terms.sum::<f64>();
                    sums.same += usize::from(most_likely(p) == most_likely(q));
                    if let Some(next) = next(row) {
                        sums.delta += (p[next] - q[next]).abs();
                        sums.nll -= q[next];
                    }
                }
            }
        }
    }
    let (count, nexts) = (tokens as f64, f64::from(nexts));
    let variants = variants.iter().zip(sums);
    let response = Response {
        tokens,
        reference_nll: reference_nll / nexts,
        reference_bytes: exact.runner.model().weight_bytes,
        variants: variants
            .map(|((name, runner), sums)| Distance {
                name,
                weight_bytes: runner.model().weight_bytes,
                kl: sums.kl / count,
                top1: sums.same as f64 / count,
                delta: sums.delta / nexts,
                nll: sums.nll / nexts,
            })
            .collect(),
    };
    writeln!(io::stdout(), "{}", serde_json::to_string(&response)?)?;
    Ok(())
}

/// After each of `ids`, the logprobs of the whole vocabulary.
fn logprobs(
    runner: &mut CpuRunner,
    ids: &[u32],
    first_position: usize,
) -> Result<Vec<Vec<f64>>, Box<dyn Error>> {
    let last_block = u32::try_from((first_position + ids.len() - 1) / BLOCK_TOKENS)?;
    let blocks = (0..=last_block).map(BlockId);
    runner.submit(&Batch {
        sequences: vec![BatchSequence {
            tokens: ids.iter().map(|id| TokenId(*id)).collect(),
            follows: None,
            first_position,
            full_blocks: blocks.clone().collect(),
            windowed_blocks: blocks.map(Some).collect(),
            output: OutputRows::All,
            sampling: SamplingInput::default(),
        }],
    })?;
    let rows = runner.collect()?.rows.remove(0);
    rows.into_iter()
        .map(|row| match row {
            RowOutput::Logits(logits) => Ok(log_softmax(&logits)),
            RowOutput::Sampled(_) | RowOutput::Undrawable => Err("the CPU does not sample".into()),
        })
        .collect()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let shifted = |&logit: &f32| f64::from(logit) - largest;
    let log_total = logits.iter().map(|x| shifted(x).exp()).sum::<f64>().ln();
    logits.iter().map(|x| shifted(x) - log_total).collect()
}

fn most_likely(logprobs: &[f64]) -> Option<usize> {
    let best = logprobs
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1));
    best.map(|(id, _)| id)
}
