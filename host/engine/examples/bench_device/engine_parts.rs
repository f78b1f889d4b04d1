//! The engine on the device, part by part.

use std::{
    thread,
    time::{Duration, Instant},
};

use gapura_engine::{
    DeviceOptions, DeviceRunner, Engine, EngineConfig, GenerateRequest, Grammar, GrammarCompiler,
    GrammarSource, LoadError, Quantization, TokenEvent, TokenId, device::Precision,
};
use serde_json::{Value, json};

use crate::{Bench, Outcome};

/// When the tokens of one answer came, after it was asked for.
type Times = Vec<Duration>;

fn prompt(seed: usize, len: usize, vocab: usize) -> Vec<TokenId> {
    let token =
        |i: usize| TokenId(((i * i * 31 + i * 17 + (seed + 1) * 7919) % (vocab - 10) + 5) as u32);
    (0..len).map(token).collect()
}

impl Bench {
    fn prompt(&self, seed: usize, len: usize) -> Vec<TokenId> {
        prompt(seed, len, self.checkpoint.config().vocab_size)
    }

    fn greedy(&self, seed: usize, prompt_tokens: usize, max_tokens: usize) -> GenerateRequest {
        GenerateRequest::greedy("bench", self.prompt(seed, prompt_tokens), max_tokens as u32)
    }

    /// Room for `num_seqs` and steps that read prompts fast.
    fn options(&self, num_seqs: usize) -> DeviceOptions {
        DeviceOptions {
            max_num_seqs: num_seqs,
            max_batched_tokens: self.sized(2048, 64),
            ..DeviceOptions::default()
        }
    }

    fn answer_tokens(&self) -> usize {
        self.sized(128, 6)
    }
}

/// Submits everything at once and waits for all of it.
fn run(engine: &Engine, requests: Vec<GenerateRequest>) -> Outcome<Vec<Times>> {
    let start = Instant::now();
    let mut threads = Vec::new();
    for request in requests {
        let mut stream = engine.submit(request)?;
        threads.push(thread::spawn(move || {
            let mut times = Times::new();
            while let Some(event) = stream.blocking_next() {
                match event {
                    TokenEvent::Token(_) => times.push(start.elapsed()),
                    TokenEvent::Failed(error) => return Err(error.to_string()),
                    TokenEvent::Prompt(_) | TokenEvent::Finished { .. } => {}
                }
            }
            Ok(times)
        }));
    }
    let mut answers = Vec::new();
    for thread in threads {
        answers.push(thread.join().map_err(|_| "a stream's thread panicked")??);
    }
    Ok(answers)
}

/// Tokens a second of all answers together, from when the last has its first token to when the
/// first ends: nothing but decoding.
fn decode_rate(answers: &[Times]) -> Option<f64> {
    let from = answers.iter().filter_map(|times| times.first()).max()?;
    let to = answers.iter().filter_map(|times| times.last()).min()?;
    let within = |times: &Times| {
        times
            .iter()
            .filter(|time| *time > from && *time <= to)
            .count()
    };
    let count: usize = answers.iter().map(within).sum();
    (to > from).then(|| count as f64 / (*to - *from).as_secs_f64())
}

/// Bytes that one decode step reads: every weight once, and the keys and values of each sequence.
fn step_bytes(engine: &Engine, context: usize, num_seqs: usize) -> f64 {
    let model = engine.model();
    let kv = model.kv;
    let per_token = |bytes: u64| bytes as f64 / 16.0;
    let windowed = context.min(kv.window_tokens) as f64 * per_token(kv.windowed_block_bytes);
    let full = context as f64 * per_token(kv.full_block_bytes);
    model.weight_bytes as f64 + num_seqs as f64 * (full + windowed)
}

/// Weights to the device, twice, the second time with the files in the page cache; and the first
/// token.
pub(crate) fn load(bench: &Bench) -> Outcome<()> {
    for attempt in ["first", "warm page cache"] {
        let start = Instant::now();
        let options = bench.options(8);
        let path = bench.folder.path();
        let loaded = DeviceRunner::load(path, options, bench.opener(), &mut |_, _| {})?;
        let loading = start.elapsed().as_secs_f64();
        let config = EngineConfig {
            max_num_seqs: options.max_num_seqs,
            max_batched_tokens: options.max_batched_tokens,
            kv_bytes: loaded.runner.kv_bytes()?,
            ..EngineConfig::default()
        };
        let engine = Engine::start(Box::new(loaded.runner), config)?;
        let started = start.elapsed().as_secs_f64();
        run(&engine, vec![bench.greedy(1, 16, 1)])?;
        bench.report(
            "load",
            &json!({
                "attempt": attempt,
                "load_s": loading,
                "engine_started_s": started,
                "first_token_s": start.elapsed().as_secs_f64(),
                "weight_bytes": engine.model().weight_bytes,
            }),
        );
    }
    Ok(())
}

/// One stream, by weights and context.
pub(crate) fn decode(bench: &Bench) -> Outcome<()> {
    for quantize in [
        Quantization::None,
        Quantization::EightBit,
        Quantization::FourBit,
    ] {
        let engine = bench.engine(
            DeviceOptions {
                quantize,
                ..bench.options(1)
            },
            false,
        )?;
        for context in [
            bench.sized(512, 20),
            bench.sized(4096, 40),
            bench.sized(8000, 80),
        ] {
            let result = decode_at(bench, &engine, context)?;
            bench.report(
                "decode",
                &json!({ "weights": format!("{quantize:?}"), "result": result }),
            );
        }
    }
    Ok(())
}

fn decode_at(bench: &Bench, engine: &Engine, context: usize) -> Outcome<Value> {
    let mut best: f64 = 0.0;
    for seed in 0..3 {
        let answers = run(
            engine,
            vec![bench.greedy(seed, context, bench.answer_tokens())],
        )?;
        best = best.max(decode_rate(&answers).ok_or("one token is no rate")?);
    }
    let bytes = step_bytes(engine, context, 1);
    let share = bench
        .read_bandwidth
        .map(|bandwidth| bytes * best / bandwidth);
    Ok(json!({ "context": context, "tokens_per_s": best, "share_of_roofline": share }))
}

/// Many streams.
pub(crate) fn batch(bench: &Bench) -> Outcome<()> {
    let sizes = match bench.is_full_size {
        true => vec![1, 8, 16, 32, 64, 128, 256],
        false => vec![1, 3, 9],
    };
    let most = sizes.iter().copied().max().unwrap_or(1);
    let context = bench.sized(512, 20);
    for quantize in [Quantization::None, Quantization::FourBit] {
        let engine = bench.engine(
            DeviceOptions {
                quantize,
                ..bench.options(most)
            },
            false,
        )?;
        for &num_seqs in &sizes {
            let request = |seed| bench.greedy(seed, context, 2 * bench.answer_tokens());
            let answers = run(&engine, (0..num_seqs).map(request).collect())?;
            let rate = decode_rate(&answers);
            let bytes = step_bytes(&engine, context, num_seqs);
            let share = bench
                .read_bandwidth
                .zip(rate)
                .map(|(bandwidth, rate)| bytes * rate / num_seqs as f64 / bandwidth);
            bench.report(
                "batch",
                &json!({
                    "weights": format!("{quantize:?}"), "streams": num_seqs, "context": context,
                    "tokens_per_s": rate, "share_of_memory_roofline": share,
                }),
            );
        }
    }
    Ok(())
}

/// Whole prompts, alone.
pub(crate) fn prefill(bench: &Bench) -> Outcome<()> {
    let engine = bench.engine(bench.options(1), false)?;
    for tokens in [bench.sized(2048, 60), bench.sized(8000, 200)] {
        let mut best = f64::INFINITY;
        for seed in 0..3 {
            let answers = run(&engine, vec![bench.greedy(seed, tokens, 1)])?;
            best = best.min(answers[0].first().ok_or("no token")?.as_secs_f64());
        }
        // Two operations a weight and token; the output layer computes one row.
        let config = bench.checkpoint.config();
        let table = (config.vocab_size * config.hidden_size) as f64;
        let weights = engine.model().weight_bytes as f64 / 2.0 - table;
        let rate = 2.0 * weights * tokens as f64 / best;
        bench.report(
            "prefill",
            &json!({
                "tokens": tokens, "first_token_s": best, "tokens_per_s": tokens as f64 / best,
                "share_of_matrix_rate": bench.matrix_rate.map(|most| rate / most),
            }),
        );
    }
    Ok(())
}

/// First token of a prompt whose beginning is known, and of one that is not.
pub(crate) fn prefix(bench: &Bench) -> Outcome<()> {
    let engine = bench.engine(bench.options(2), true)?;
    let (prefix, question) = (bench.sized(1500, 96), bench.sized(24, 5));
    for pair in 0..3 {
        let mut request = bench.greedy(10 + pair, prefix + question, bench.answer_tokens());
        let cold = run(&engine, vec![request.clone()])?;
        let other = bench.prompt(100 + pair, question);
        request.prompt.splice(prefix.., other);
        let warm = run(&engine, vec![request])?;
        let first = |answers: &[Times]| answers[0].first().map(Duration::as_secs_f64);
        let step = decode_rate(&cold).map(|rate| 1.0 / rate);
        bench.report(
            "prefix",
            &json!({ "prompt": prefix + question, "cold_s": first(&cold), "warm_s": first(&warm), "decode_step_s": step }),
        );
    }
    Ok(())
}

/// Eight streams while a long prompt arrives, with the scheduler's pacing as it is by default.
pub(crate) fn arrival(bench: &Bench) -> Outcome<()> {
    let options = bench.options(16);
    let device = bench.open(bench.specialization(&options)?)?;
    let runner = DeviceRunner::random(&bench.checkpoint, options, device, 2)?;
    let config = EngineConfig {
        max_num_seqs: options.max_num_seqs,
        max_batched_tokens: options.max_batched_tokens,
        kv_bytes: runner.kv_bytes()?,
        prefix_cache: false,
        ..EngineConfig::default()
    };
    let engine = Engine::start(Box::new(runner), config)?;
    let (before, during, long) = (
        bench.sized(100, 3),
        bench.sized(1500, 30),
        bench.sized(8000, 150),
    );
    let streams: Vec<_> = (0..8)
        .map(|seed| engine.submit(bench.greedy(seed, bench.sized(64, 8), during)))
        .collect::<Result<_, _>>()?;
    let start = Instant::now();
    let collect = |mut stream: gapura_engine::TokenStream| {
        thread::spawn(move || {
            let mut times = Times::new();
            while let Some(event) = stream.blocking_next() {
                if matches!(event, TokenEvent::Token(_)) {
                    times.push(start.elapsed());
                }
            }
            times
        })
    };
    let threads: Vec<_> = streams.into_iter().map(collect).collect();
    while engine.stats().decode_tokens < (8 * before) as u64 {
        thread::sleep(Duration::from_millis(1));
    }
    let arrived = start.elapsed();
    let first = run(&engine, vec![bench.greedy(99, long, 1)])?;
    let answered = arrived + *first[0].first().ok_or("no token")?;
    let mut gaps = (Vec::new(), Vec::new());
    for thread in threads {
        let times = thread.join().map_err(|_| "a stream's thread panicked")?;
        for pair in times.windows(2) {
            let gap = (pair[1] - pair[0]).as_secs_f64();
            if pair[1] < arrived {
                gaps.0.push(gap);
            } else if pair[0] > arrived && pair[1] < answered {
                gaps.1.push(gap);
            }
        }
    }
    let quantile = |gaps: &mut Vec<f64>, share: f64| {
        gaps.sort_by(f64::total_cmp);
        gaps.get(((gaps.len() as f64 * share) as usize).min(gaps.len().saturating_sub(1)))
            .copied()
    };
    bench.report(
        "arrival",
        &json!({
            "median_before_s": quantile(&mut gaps.0, 0.5), "median_during_s": quantile(&mut gaps.1, 0.5),
            "p99_during_s": quantile(&mut gaps.1, 0.99), "long_first_token_s": first[0].first().map(Duration::as_secs_f64),
        }),
    );
    Ok(())
}

/// What choosing tokens costs: greedy, sampled with all filters and penalties, constrained.
pub(crate) fn sampling(bench: &Bench) -> Outcome<()> {
    let engine = bench.engine(bench.options(1), false)?;
    let context = bench.sized(512, 20);
    let plain = bench.greedy(1, context, bench.answer_tokens());
    let mut sampled = plain.clone();
    sampled.sampling.temperature = 0.7;
    sampled.sampling.top_k = 50;
    sampled.sampling.top_p = 0.9;
    sampled.sampling.seed = Some(1);
    let mut penalized = sampled.clone();
    penalized.sampling.repetition_penalty = 1.1;
    let mut nucleus = sampled.clone();
    nucleus.sampling.top_k = 0;
    let mut constrained = plain.clone();
    constrained.grammar = Some(any_text(bench)?);
    for (what, request) in [
        ("greedy", plain),
        ("top-k 50, top-p 0.9", sampled),
        ("top-p 0.9", nucleus),
        ("top-k 50, top-p 0.9, repetition penalty", penalized),
        ("constrained", constrained),
    ] {
        let mut best = None;
        for _ in 0..3 {
            let rate = decode_rate(&run(&engine, vec![request.clone()])?);
            best = best.into_iter().chain(rate).reduce(f64::max);
        }
        let vocabulary = (what == "constrained").then_some("bytes");
        bench.report(
            "sampling",
            &json!({ "what": what, "tokens_per_s": best, "vocabulary": vocabulary }),
        );
    }
    Ok(())
}

/// A grammar that any answer of bytes matches, for its price alone.
fn any_text(bench: &Bench) -> Outcome<Grammar> {
    let tokenizer = bench.checkpoint.tokenizer()?;
    let compiler = GrammarCompiler::new(&tokenizer, &bench.checkpoint.config().eos_token_ids);
    Ok(compiler.compile(&GrammarSource::Regex("(?s:.*)".to_owned()))?)
}

/// Each switch of the configuration against the default, of one stream.
pub(crate) fn switches(bench: &Bench) -> Outcome<()> {
    let base = bench.options(1);
    let quantized = |quantize| DeviceOptions { quantize, ..base };
    let float32 = |allow_tf32| DeviceOptions {
        precision: Precision::F32,
        allow_tf32,
        ..base
    };
    let eager = DeviceOptions {
        graphs: false,
        ..base
    };
    let by_library = DeviceOptions {
        fused_attention: false,
        ..base
    };
    let context = bench.sized(2048, 60);
    for (what, options) in [
        ("default", base),
        ("graphs off", eager),
        ("fused attention off", by_library),
        ("8 bit", quantized(Quantization::EightBit)),
        ("4 bit", quantized(Quantization::FourBit)),
        ("float32", float32(false)),
        ("float32, TF32 allowed", float32(true)),
    ] {
        let engine = match bench.engine(options, false) {
            Ok(engine) => engine,
            Err(error) => match error.downcast_ref::<LoadError>() {
                Some(LoadError::NotEnoughDeviceMemory { .. }) => {
                    let skipped = error.to_string();
                    bench.report("switches", &json!({ "what": what, "skipped": skipped }));
                    continue;
                }
                _ => return Err(error),
            },
        };
        let answers = run(
            &engine,
            vec![bench.greedy(1, context, bench.answer_tokens())],
        )?;
        bench.report(
            "switches",
            &json!({
                "what": what, "tokens_per_s": decode_rate(&answers),
                "first_token_s": answers[0].first().map(Duration::as_secs_f64), "prompt": context,
            }),
        );
    }
    batching(bench)
}

/// Eight streams in the same steps, and one after the other.
fn batching(bench: &Bench) -> Outcome<()> {
    let context = bench.sized(512, 20);
    for (what, num_seqs) in [
        ("8 streams, batched", 8),
        ("8 streams, one after the other", 1),
    ] {
        let engine = bench.engine(bench.options(num_seqs), false)?;
        let request = |seed| bench.greedy(seed, context, bench.answer_tokens());
        let answers = run(&engine, (0..8).map(request).collect())?;
        let tokens: usize = answers.iter().map(Vec::len).sum();
        let whole = answers.iter().filter_map(|times| times.last()).max();
        bench.report(
            "switches",
            &json!({
                "what": what, "prompt": context,
                "tokens_per_s_with_prompts": whole.map(|whole| tokens as f64 / whole.as_secs_f64()),
            }),
        );
    }
    Ok(())
}
