//! Measures what scheduler and prefix cache are for, over a real model on the CPU:
//! the time to the first token of a prompt whose beginning is known against one that is
//! computed whole, and what a long prompt that arrives does to streams that run.
//!
//! ```text
//! bench_latency MODEL [THREADS]
//! ```
//! Prints one JSON object; `tests/bench/latency.py` makes a table of it. Prompts are
//! arithmetic, for the work does not depend on what they say.

use std::{
    error::Error,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use gapura_engine::{
    CacheParams, CpuModel, CpuOptions, CpuRunner, Engine, EngineConfig, GenerateRequest,
    QueueParams, SamplingParams, StopParams, TokenEvent, TokenId, TokenStream,
};
use serde_json::{Value, json};

/// Tokens of the prefix that is known or not, and of what follows it.
const PREFIX: usize = 1500;
const QUESTION: usize = 24;
/// Pairs of a cold and a warm prompt.
const PAIRS: usize = 5;
/// Streams that run when the long prompt arrives, and the tokens of their prompts.
const STREAMS: usize = 8;
const STREAM_PROMPT: usize = 32;
/// Tokens of the long prompt.
const LONG: usize = 8000;
/// Tokens that each stream gets before the long prompt arrives.
const BEFORE: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: bench_latency MODEL [THREADS]")?;
    let threads = args.next().map(|count| count.parse()).transpose()?;
    let model = || {
        CpuRunner::load(
            Path::new(&path),
            CpuOptions {
                threads,
                ..CpuOptions::default()
            },
        )
    };
    let prefix = prefix(start(model()?, EngineConfig::default())?)?;
    // A context beyond the model's own: what a token says does not matter, what it costs does.
    let paced = arrival(start(model()?, EngineConfig::default())?)?;
    let full_steps = EngineConfig {
        max_slowdown: f32::INFINITY,
        ..EngineConfig::default()
    };
    let unpaced = arrival(start(model()?, full_steps)?)?;
    #[expect(clippy::print_stdout, reason = "the result of the program")]
    {
        println!(
            "{}",
            json!({ "prefix": prefix, "arrival": { "paced": paced, "full_steps": unpaced } })
        );
    }
    Ok(())
}

fn start(model: CpuModel, config: EngineConfig) -> Result<Engine, Box<dyn Error>> {
    Ok(Engine::start(Box::new(model.runner), config)?)
}

/// A prompt that shares nothing with those of another `seed`.
fn prompt(seed: usize, len: usize) -> Vec<TokenId> {
    let token =
        |i: usize| TokenId(((i * i * 31 + i * 17 + (seed + 1) * 7919) % 20_000 + 100) as u32);
    (0..len).map(token).collect()
}

fn submit(
    engine: &Engine,
    prompt: Vec<TokenId>,
    max_tokens: u32,
) -> Result<TokenStream, Box<dyn Error>> {
    Ok(engine.submit(GenerateRequest {
        request_id: "bench".into(),
        prompt,
        sampling: SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        },
        stop: StopParams {
            max_tokens,
            min_tokens: 0,
            ignore_eos: true,
            stop_token_ids: vec![],
        },
        grammar: None,
        logprobs: None,
        prompt_logprobs: None,
        queue: QueueParams::default(),
        cache: CacheParams::default(),
    })?)
}

/// Seconds to the first token, and how much of the prompt was known.
fn first_token(engine: &Engine, prompt: Vec<TokenId>) -> Result<(f64, u32), Box<dyn Error>> {
    let started = Instant::now();
    let mut stream = submit(engine, prompt, 1)?;
    let mut first = None;
    while let Some(event) = stream.blocking_next() {
        match event {
            TokenEvent::Token(_) => first = Some(started.elapsed().as_secs_f64()),
            TokenEvent::Finished { usage, .. } => {
                return Ok((first.ok_or("no token came")?, usage.cached_tokens));
            }
            TokenEvent::Failed(error) => return Err(error.into()),
            TokenEvent::Prompt(_) => {}
        }
    }
    Err("no end came".into())
}

/// Each pair: a prompt with a prefix of its own, and another with the same prefix.
fn prefix(engine: Engine) -> Result<Value, Box<dyn Error>> {
    first_token(&engine, prompt(999, 64))?;
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let ask = |question: usize| {
            [
                prompt(pair, PREFIX),
                prompt(1000 + 10 * pair + question, QUESTION),
            ]
            .concat()
        };
        let (seconds, cached) = first_token(&engine, ask(0))?;
        if cached != 0 {
            return Err(format!("{cached} tokens of a new prompt were known").into());
        }
        cold.push(seconds);
        let (seconds, cached) = first_token(&engine, ask(1))?;
        if (cached as usize) < PREFIX - 16 {
            return Err(format!("only {cached} tokens of a known prefix were found").into());
        }
        warm.push(seconds);
    }
    let (cold, warm) = (quantile(&mut cold, 0.5), quantile(&mut warm, 0.5));
    Ok(json!({
        "prefix_tokens": PREFIX, "prompt_tokens": PREFIX + QUESTION, "pairs": PAIRS,
        "cold_s": cold, "warm_s": warm, "warm_to_cold": warm / cold,
    }))
}

/// Streams run; a long prompt arrives; the times between the tokens of each, before and until
/// its first token.
fn arrival(engine: Engine) -> Result<Value, Box<dyn Error>> {
    let context_length = engine.model().context_length;
    let long = LONG.min(context_length - 2);
    let streams: Vec<TokenStream> = (0..STREAMS)
        .map(|seed| {
            submit(
                &engine,
                prompt(seed, STREAM_PROMPT),
                (context_length - STREAM_PROMPT) as u32,
            )
        })
        .collect::<Result<_, _>>()?;
    let (running, started) = std::sync::mpsc::channel();
    let readers: Vec<_> = streams
        .into_iter()
        .map(|stream| {
            let running = running.clone();
            thread::spawn(move || token_times(stream, &running))
        })
        .collect();
    for _ in 0..STREAMS {
        started.recv()?;
    }
    let arrived = Instant::now();
    let (seconds, _) = first_token(&engine, prompt(77, long))?;
    let answered = arrived + Duration::from_secs_f64(seconds);
    engine.blocking_shutdown(Duration::ZERO);
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for reader in readers {
        let times = reader.join().map_err(|_| "a reader panicked")?;
        // The first few tokens come while the streams themselves arrive.
        for pair in times.windows(2).skip(BEFORE / 4) {
            let gap = pair[1].duration_since(pair[0]).as_secs_f64();
            match pair[1] {
                at if at <= arrived => before.push(gap),
                at if pair[0] <= answered => {
                    let _ = at;
                    during.push(gap);
                }
                _ => {}
            }
        }
    }
    let all_during = during.len();
    let median = quantile(&mut before, 0.5);
    let p99 = quantile(&mut during, 0.99);
    Ok(json!({
        "streams": STREAMS, "long_prompt_tokens": long, "long_first_token_s": seconds,
        "median_before_s": median, "p99_before_s": quantile(&mut before, 0.99),
        "median_during_s": quantile(&mut during, 0.5), "p99_during_s": p99,
        "most_during_s": quantile(&mut during, 1.0), "gaps_during": all_during,
        "p99_during_to_median_before": p99 / median,
    }))
}

/// When each token came; tells `running` once `BEFORE` are there.
fn token_times(mut stream: TokenStream, running: &std::sync::mpsc::Sender<()>) -> Vec<Instant> {
    let mut times = Vec::new();
    while let Some(event) = stream.blocking_next() {
        if matches!(event, TokenEvent::Token(_)) {
            times.push(Instant::now());
            if times.len() == BEFORE {
                // The other end waits for as many as there are streams.
                let _ = running.send(());
            }
        }
    }
    times
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values
        .get((q * last as f64).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}
