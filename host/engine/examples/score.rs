//! Scores given token ids and continues them greedily; JSON in, JSON out. The Rust half of
//! `tests/verify/llamacpp.py`.
//!
//! ```text
//! echo '{"greedy": 12, "prompts": [{"text": "Hi", "ids": [1, 2], "targets": [[5], [7]]}]}' |
//!     score MODEL --threads 2
//! ```
//!
//! `targets[i]` are the tokens whose logprob after `ids[..=i]` is wanted. The answer has, for each
//! prompt, the engine's own ids of `text`, these logprobs, and the greedy continuation.

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
};

use gapura_engine::{
    BLOCK_TOKENS, Batch, BatchSequence, BlockId, CpuModel, CpuOptions, CpuRunner, KvPlan,
    ModelRunner, OutputRows, RowOutput, SamplingInput, TokenId,
};
use serde::{Deserialize, Serialize};

/// Tokens of a prompt that are computed in one step.
const CHUNK: usize = 64;
/// Longest sequence, in blocks.
const NUM_BLOCKS: u32 = 128;

#[derive(Deserialize)]
struct Request {
    greedy: usize,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    text: String,
    ids: Vec<u32>,
    targets: Vec<Vec<usize>>,
}

#[derive(Serialize)]
struct Response {
    prompts: Vec<Scores>,
}

#[derive(Serialize)]
struct Scores {
    own_ids: Vec<u32>,
    logprobs: Vec<Vec<f64>>,
    greedy: Vec<u32>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, threads) = match arguments.as_slice() {
        [path] => (PathBuf::from(path), None),
        [path, flag, threads] if flag == "--threads" => (path.into(), Some(threads.parse()?)),
        _ => return Err("usage: score MODEL [--threads N] < request.json".into()),
    };
    let request: Request = serde_json::from_reader(io::stdin().lock())?;
    let mut model = CpuRunner::load(
        &path,
        CpuOptions {
            threads,
            ..CpuOptions::default()
        },
    )?;
    model.runner.allocate_kv(KvPlan {
        num_full_blocks: NUM_BLOCKS,
        num_windowed_blocks: NUM_BLOCKS,
    })?;
    let prompts = request
        .prompts
        .iter()
        .map(|prompt| score(&mut model, prompt, request.greedy))
        .collect::<Result<_, _>>()?;
    writeln!(
        io::stdout(),
        "{}",
        serde_json::to_string(&Response { prompts })?
    )?;
    Ok(())
}

fn score(model: &mut CpuModel, prompt: &Prompt, greedy: usize) -> Result<Scores, Box<dyn Error>> {
    let mut own_ids: Vec<u32> = model
        .runner
        .model()
        .bos_token_id
        .iter()
        .map(|id| id.0)
        .collect();
    own_ids.extend(model.tokenizer.encode(&prompt.text).iter().map(|id| id.0));

    let mut logprobs = Vec::with_capacity(prompt.ids.len());
    let mut last = Vec::new();
    for (i, chunk) in prompt.ids.chunks(CHUNK).enumerate() {
        let first = i * CHUNK;
        for (row, logits) in step(&mut model.runner, chunk, first)?
            .into_iter()
            .enumerate()
        {
            let log_total = log_sum_exp(&logits);
            let targets = prompt
                .targets
                .get(first + row)
                .ok_or("fewer targets than ids")?;
            let logprob = |&id: &usize| logits.get(id).map(|&logit| f64::from(logit) - log_total);
            logprobs.push(
                targets
                    .iter()
                    .map(logprob)
                    .collect::<Option<_>>()
                    .ok_or("no such token")?,
            );
            last = logits;
        }
    }
    let mut continuation = Vec::with_capacity(greedy);
    while continuation.len() < greedy {
        let best = most_likely(&last).ok_or("no logits")?;
        let position = prompt.ids.len() + continuation.len();
        continuation.push(best);
        last = step(&mut model.runner, &[best], position)?.remove(0);
    }
    Ok(Scores {
        own_ids,
        logprobs,
        greedy: continuation,
    })
}

/// The logits of every row.
fn step(
    runner: &mut CpuRunner,
    ids: &[u32],
    first_position: usize,
) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
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
            RowOutput::Logits(logits) => Ok(logits),
            RowOutput::Sampled(_) | RowOutput::Undrawable => Err("the CPU does not sample".into()),
        })
        .collect()
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest
        + logits
            .iter()
            .map(|&logit| (f64::from(logit) - largest).exp())
            .sum::<f64>()
            .ln()
}

fn most_likely(logits: &[f32]) -> Option<u32> {
    let best = logits
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))?;
    u32::try_from(best.0).ok()
}
