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
    collections::BTreeMap,
    error::Error,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use gapura_engine::{
    CpuOptions, CpuRunner, Engine, EngineConfig, GenerateRequest, TokenEvent, TokenId, TokenStream,
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
    let options = CpuOptions {
        threads,
        ..CpuOptions::default()
    };
    let model = || CpuRunner::load(Path::new(&path), options);
    let start = |max_slowdown| -> Result<Engine, Box<dyn Error>> {
        let config = EngineConfig {
            max_slowdown,
            ..EngineConfig::default()
        };
        Ok(Engine::start(Box::new(model()?.runner), config)?)
    };
    let default = EngineConfig::default().max_slowdown;
    let prefix = prefix(start(default)?)?;
    let paced = arrival(|| start(default))?;
    let unpaced = arrival(|| start(f32::INFINITY))?;
    #[expect(clippy::print_stdout, reason = "the result of the program")]
    {
        println!(
            "{}",
            json!({ "prefix": prefix, "arrival": { "paced": paced, "full_steps": unpaced } })
        );
    }
    Ok(())
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
    Ok(engine.submit(GenerateRequest::greedy("bench", prompt, max_tokens))?)
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

/// Streams run; a long prompt arrives. The times between the tokens of each stream before it,
/// until its first token, and how many times as long these are as between the same tokens when
/// the same streams run by themselves: their context grows meanwhile, and with it what a token
/// takes.
fn arrival(start: impl Fn() -> Result<Engine, Box<dyn Error>>) -> Result<Value, Box<dyn Error>> {
    let engine = start()?;
    let context_length = engine.model().context_length;
    let long = LONG.min(context_length - 2);
    let streams = Streams::start(&engine, context_length - STREAM_PROMPT)?;
    streams.wait()?;
    let arrived = Instant::now();
    let (seconds, _) = first_token(&engine, prompt(77, long))?;
    let answered = arrived + Duration::from_secs_f64(seconds);
    engine.blocking_shutdown(Duration::ZERO);
    let times = streams.join()?;
    let num_tokens = |times: &Vec<Instant>| times.partition_point(|time| *time <= answered);
    let fewest = times.iter().map(num_tokens).min().unwrap_or(0);

    let engine = start()?;
    let alone = Streams::start(&engine, fewest)?.join()?;
    engine.blocking_shutdown(Duration::ZERO);

    // The first few tokens come while the streams themselves arrive.
    let seconds_of = |gaps: &[(usize, f64)]| gaps.iter().map(|gap| gap.1).collect::<Vec<_>>();
    let before = gaps(&times, |i, at| i >= BEFORE / 4 && at[1] <= arrived);
    let during = gaps(&times, |_, at| at[1] > arrived && at[0] <= answered);
    let alone = gaps(&alone, |i, _| i >= BEFORE / 4);
    let mut slowdowns = slowdowns(&during, &alone);
    let (mut before, mut during) = (seconds_of(&before), seconds_of(&during));
    let mut alone = seconds_of(&alone);
    let (median_before, median_during) = (quantile(&mut before, 0.5), quantile(&mut during, 0.5));
    let p99 = quantile(&mut during, 0.99);
    Ok(json!({
        "streams": STREAMS, "long_prompt_tokens": long, "long_first_token_s": seconds,
        "tokens_meanwhile": fewest - BEFORE.min(fewest), "gaps_during": during.len(),
        "median_before_s": median_before, "median_alone_s": quantile(&mut alone, 0.5),
        "p99_alone_s": quantile(&mut alone, 0.99),
        "median_during_s": median_during, "p99_during_s": p99,
        "most_during_s": quantile(&mut during, 1.0),
        "median_slowdown": quantile(&mut slowdowns, 0.5),
        "p99_slowdown": quantile(&mut slowdowns, 0.99),
        "p99_during_to_median_during": p99 / median_during,
        "p99_during_to_median_before": p99 / median_before,
    }))
}

/// Each of `during` relative to the median of `alone` at about the same token.
fn slowdowns(during: &[(usize, f64)], alone: &[(usize, f64)]) -> Vec<f64> {
    /// Tokens of each stream that are looked at together.
    const SPAN: usize = 16;
    let mut spans: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (i, seconds) in alone {
        spans.entry(i / SPAN).or_default().push(*seconds);
    }
    let medians: BTreeMap<usize, f64> = spans
        .iter_mut()
        .map(|(span, seconds)| (*span, quantile(seconds, 0.5)))
        .collect();
    // The slowest stream's last token is the last that all have by themselves.
    let compared = during
        .iter()
        .filter_map(|(i, seconds)| Some(seconds / medians.get(&(i / SPAN))?));
    compared.collect()
}

/// `i`, and the seconds between a stream's tokens `i` and `i + 1`, where `is_meant` says so of `i` and of when
/// they came.
fn gaps(
    times: &[Vec<Instant>],
    is_meant: impl Fn(usize, [Instant; 2]) -> bool,
) -> Vec<(usize, f64)> {
    let mut gaps = Vec::new();
    for times in times {
        for (i, at) in times.array_windows().enumerate() {
            if is_meant(i, *at) {
                gaps.push((i, at[1].duration_since(at[0]).as_secs_f64()));
            }
        }
    }
    gaps
}

/// Threads that read eight answers.
struct Streams {
    readers: Vec<thread::JoinHandle<Vec<Instant>>>,
    running: mpsc::Receiver<()>,
}

impl Streams {
    fn start(engine: &Engine, max_tokens: usize) -> Result<Self, Box<dyn Error>> {
        let (tell, running) = mpsc::channel();
        let mut readers = Vec::new();
        for seed in 0..STREAMS {
            let stream = submit(engine, prompt(seed, STREAM_PROMPT), max_tokens as u32)?;
            let tell = tell.clone();
            readers.push(thread::spawn(move || token_times(stream, &tell)));
        }
        Ok(Self { readers, running })
    }

    /// Until each has `BEFORE` tokens.
    fn wait(&self) -> Result<(), Box<dyn Error>> {
        for _ in 0..STREAMS {
            self.running.recv()?;
        }
        Ok(())
    }

    /// When each token of each came, once they end.
    fn join(self) -> Result<Vec<Vec<Instant>>, Box<dyn Error>> {
        let join = |reader: thread::JoinHandle<_>| reader.join();
        let times = self.readers.into_iter().map(join);
        times
            .map(|times| times.map_err(|_| "a reader panicked".into()))
            .collect()
    }
}

/// When each token came; tells `running` once `BEFORE` are there.
fn token_times(mut stream: TokenStream, running: &mpsc::Sender<()>) -> Vec<Instant> {
    let mut times = Vec::new();
    while let Some(event) = stream.blocking_next() {
        if matches!(event, TokenEvent::Token(_)) {
            times.push(Instant::now());
            if times.len() == BEFORE {
                // Nobody listens where the streams run by themselves.
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
