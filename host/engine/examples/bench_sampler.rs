//! What the engine thread does between two forward passes, timed: the draw and everything
//! around it, for each way to sample, on one core.
//!
//! ```text
//! bench_sampler [--vocab 256000] [--rounds 300]
//! ```
//!
//! The runner is a stand-in whose forward pass costs nothing: it hands out prepared rows of
//! logits and takes the time from handing one out until it is asked for the next. JSON goes to
//! the standard output, a table to the standard error.

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use gapura_engine::{
    Batch, Engine, EngineConfig, GenerateRequest, KvLayout, KvPlan, ModelInfo, ModelRunner,
    OutputRows, RowOutput, RunnerError, SamplingParams, StepOutput, TokenEvent, TokenId,
};

/// Rows that are handed out in turn.
const NUM_ROWS: usize = 8;
/// Tokens of the prompt, which repetition penalties look at.
const PROMPT_TOKENS: usize = 512;

struct Rows {
    model: ModelInfo,
    rows: Vec<Vec<f32>>,
    times: Arc<Mutex<Vec<f64>>>,
    handed_out: Option<Instant>,
    next: Option<StepOutput>,
    num_steps: usize,
}

impl ModelRunner for Rows {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn allocate_kv(&mut self, _plan: KvPlan) -> Result<(), RunnerError> {
        Ok(())
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunnerError> {
        if let Some(since) = self.handed_out.take() {
            let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
            times.push(since.elapsed().as_secs_f64() * 1e6);
        }
        self.num_steps += 1;
        let row = &self.rows[self.num_steps % NUM_ROWS];
        let rows = batch.sequences.iter().map(|part| match part.output {
            OutputRows::None => vec![],
            _ => vec![RowOutput::Logits(row.clone())],
        });
        self.next = Some(StepOutput {
            rows: rows.collect(),
        });
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput, RunnerError> {
        self.handed_out = Some(Instant::now());
        self.next
            .take()
            .ok_or(RunnerError::new("nothing was submitted"))
    }
}

/// Rows such as language models make: a wide bell with a tail of likely tokens.
fn rows(vocab_size: usize) -> Vec<Vec<f32>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut row = || -> Vec<f32> {
        let bell = |draws: f32| (draws - 6.0) * 2.5;
        let mut row: Vec<f32> = (0..vocab_size)
            .map(|_| bell((0..12).map(|_| uniform()).sum()))
            .collect();
        for rank in 0..200_u16 {
            let id = (uniform() * vocab_size as f32) as usize % vocab_size;
            row[id] = 18.0 - f32::from(rank).sqrt();
        }
        row
    };
    (0..NUM_ROWS).map(|_| row()).collect()
}

fn ways() -> Vec<(&'static str, SamplingParams, Option<u32>)> {
    let warm = || SamplingParams {
        seed: Some(1),
        ..SamplingParams::default()
    };
    let greedy = || SamplingParams {
        temperature: 0.0,
        ..warm()
    };
    let bias = (0..300).map(|id| (TokenId(id * 7), 1.0)).collect();
    vec![
        ("greedy", greedy(), None),
        ("temperature", warm(), None),
        (
            "top-k 50",
            SamplingParams {
                top_k: 50,
                ..warm()
            },
            None,
        ),
        (
            "top-p 0.9",
            SamplingParams {
                top_p: 0.9,
                ..warm()
            },
            None,
        ),
        (
            "top-p 0.999, temperature 2",
            SamplingParams {
                top_p: 0.999,
                temperature: 2.0,
                ..warm()
            },
            None,
        ),
        (
            "min-p 0.05",
            SamplingParams {
                min_p: 0.05,
                ..warm()
            },
            None,
        ),
        (
            "top-k 64, top-p 0.95, min-p 0.01",
            SamplingParams {
                top_k: 64,
                top_p: 0.95,
                min_p: 0.01,
                ..warm()
            },
            None,
        ),
        (
            "penalties",
            SamplingParams {
                presence_penalty: 0.5,
                frequency_penalty: 0.5,
                repetition_penalty: 1.1,
                ..greedy()
            },
            None,
        ),
        (
            "logit bias, 300 entries",
            SamplingParams {
                logit_bias: bias,
                ..greedy()
            },
            None,
        ),
        ("logprobs 20", greedy(), Some(20)),
        (
            "everything",
            SamplingParams {
                top_k: 64,
                top_p: 0.95,
                min_p: 0.01,
                presence_penalty: 0.5,
                frequency_penalty: 0.5,
                repetition_penalty: 1.1,
                logit_bias: (0..300).map(|id| (TokenId(id * 7), 1.0)).collect(),
                ..warm()
            },
            Some(20),
        ),
    ]
}

fn argument(name: &str, default: usize) -> Result<usize, Box<dyn Error>> {
    let mut arguments = std::env::args()
        .skip_while(|argument| argument != name)
        .skip(1);
    arguments
        .next()
        .map_or(Ok(default), |value| Ok(value.parse()?))
}

fn main() -> Result<(), Box<dyn Error>> {
    let vocab_size = argument("--vocab", 256_000)?;
    let rounds = argument("--rounds", 300)?;
    let times = Arc::new(Mutex::new(Vec::new()));
    let runner = Rows {
        model: ModelInfo {
            id: "rows".into(),
            architecture: "rows".into(),
            vocab_size,
            context_length: PROMPT_TOKENS + rounds + 1,
            eos_token_ids: vec![],
            bos_token_id: None,
            kv: KvLayout {
                full_block_bytes: 16,
                windowed_block_bytes: 0,
                window_tokens: 0,
            },
            weight_bytes: 0,
            device: "none".into(),
        },
        rows: rows(vocab_size),
        times: Arc::clone(&times),
        handed_out: None,
        next: None,
        num_steps: 0,
    };
    let engine = Engine::start(
        Box::new(runner),
        EngineConfig {
            max_num_seqs: 1,
            max_batched_tokens: PROMPT_TOKENS,
            ..EngineConfig::default()
        },
    )?;
    let mut report = BTreeMap::new();
    writeln!(
        io::stderr(),
        "| {vocab_size} entries, one core | p50 µs | p99 µs |\n|---|---|---|"
    )?;
    for (name, sampling, logprobs) in ways() {
        let prompt = (0..PROMPT_TOKENS)
            .map(|n| TokenId((n * 31 % vocab_size) as u32))
            .collect();
        let request = GenerateRequest {
            sampling,
            logprobs,
            ..GenerateRequest::greedy(name, prompt, u32::try_from(rounds)?)
        };
        let mut stream = engine.submit(request)?;
        while let Some(event) = stream.blocking_next() {
            if let TokenEvent::Failed(error) = event {
                return Err(error.into());
            }
        }
        let mut times = std::mem::take(&mut *times.lock().unwrap_or_else(PoisonError::into_inner));
        // The first is the wait for this request.
        times.drain(..1.min(times.len()));
        times.sort_by(f64::total_cmp);
        let quantile = |share: f64| times[(share * (times.len() - 1) as f64) as usize];
        let (p50, p99) = (quantile(0.5), quantile(0.99));
        writeln!(io::stderr(), "| {name} | {p50:.0} | {p99:.0} |")?;
        report.insert(name, BTreeMap::from([("p50_us", p50), ("p99_us", p99)]));
    }
    writeln!(
        io::stdout(),
        "{}",
        serde_json::json!({ "vocab_size": vocab_size, "ways": report })
    )?;
    Ok(())
}
