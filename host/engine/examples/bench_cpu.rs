//! Times one model on the CPU and prints JSON; `tests/bench/cpu.py` races it against llama.cpp.
//!
//! ```text
//! echo '{"ids": [2, 651, …], "decode": 128, "warm_up": 8, "together": [[8, 32]]}' |
//!     bench_cpu MODEL [--threads 1] [--quantize 8bit|4bit]
//! ```
//!
//! Prefill and decode go through the engine, batch 1, greedy; then so many streams that decode
//! together, each behind a prompt of so many tokens.

use std::{
    error::Error,
    fs,
    io::{self, Write},
    path::PathBuf,
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use gapura_engine::{
    CpuOptions, CpuRunner, Engine, EngineConfig, GenerateRequest, Quantization, TokenEvent, TokenId,
};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Request {
    ids: Vec<u32>,
    decode: u32,
    warm_up: usize,
    /// Numbers of streams that decode together, and of the prompt tokens of each.
    #[serde(default)]
    together: Vec<(usize, usize)>,
}

#[derive(Serialize)]
struct Measured {
    load_s: f64,
    load_cpu_s: f64,
    weight_bytes: u64,
    prefill_s: f64,
    prefill_cpu_s: f64,
    decode_s: f64,
    decode_cpu_s: f64,
    peak_rss_bytes: u64,
    kv_bytes: u64,
    greedy: Vec<u32>,
    together: Vec<Together>,
}

/// What streams that decode together gave while all of them did.
#[derive(Serialize)]
struct Together {
    streams: usize,
    prompt_tokens: usize,
    tokens: usize,
    wall_s: f64,
    cpu_s: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: bench_cpu MODEL [--threads N] [--quantize 8bit|4bit] < request.json";
    let (path, options) = arguments().ok_or(usage)?;
    let request: Request = serde_json::from_reader(io::stdin().lock())?;
    let engine_for = |runner, max_num_seqs| -> Result<Engine, Box<dyn Error>> {
        let config = EngineConfig {
            max_num_seqs,
            context_length: Some(
                request.ids.len() + request.decode as usize + 4 * max_num_seqs + 8,
            ),
            // Every prompt is to be computed, and at once.
            prefix_cache: false,
            max_slowdown: f32::INFINITY,
            ..EngineConfig::default()
        };
        Ok(Engine::start(Box::new(runner), config)?)
    };
    let load = Clock::now()?;
    let runner = CpuRunner::load(&path, options)?.runner;
    let loaded = Clock::now()?;
    let engine = engine_for(runner, 1)?;
    generate(&engine, &request.ids[..request.warm_up], 2)?;
    let run = generate(&engine, &request.ids, request.decode + 1)?;
    let [start, first, end] = run.times;
    let kv = engine.stats();
    let layout = engine.model().kv;
    let mut measured = Measured {
        load_s: loaded.wall - load.wall,
        load_cpu_s: loaded.cpu - load.cpu,
        weight_bytes: engine.model().weight_bytes,
        prefill_s: first.wall - start.wall,
        prefill_cpu_s: first.cpu - start.cpu,
        decode_s: end.wall - first.wall,
        decode_cpu_s: end.cpu - first.cpu,
        peak_rss_bytes: peak_rss_bytes()?,
        kv_bytes: kv.full_blocks.total as u64 * layout.full_block_bytes
            + kv.windowed_blocks.total as u64 * layout.windowed_block_bytes,
        greedy: run.greedy,
        together: Vec::new(),
    };
    drop(engine);
    for &(streams, prompt_tokens) in &request.together {
        let engine = engine_for(CpuRunner::load(&path, options)?.runner, streams)?;
        let ids = &request.ids[..prompt_tokens];
        let run = together(&engine, streams, ids, request.decode)?;
        measured.together.push(run);
    }
    writeln!(io::stdout(), "{}", serde_json::to_string(&measured)?)?;
    Ok(())
}

fn arguments() -> Option<(PathBuf, CpuOptions)> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next()?.into();
    let mut options = CpuOptions::default();
    while let Some(flag) = arguments.next() {
        let value = arguments.next()?;
        match (flag.as_str(), value.as_str()) {
            ("--threads", threads) => options.threads = Some(threads.parse().ok()?),
            ("--quantize", "8bit") => options.quantize = Quantization::EightBit,
            ("--quantize", "4bit") => options.quantize = Quantization::FourBit,
            _ => return None,
        }
    }
    Some((path, options))
}

struct Run {
    /// At submission, at the first token and at the last.
    times: [Clock; 3],
    greedy: Vec<u32>,
}

fn generate(engine: &Engine, ids: &[u32], max_tokens: u32) -> Result<Run, Box<dyn Error>> {
    let start = Clock::now()?;
    let prompt = ids.iter().map(|id| TokenId(*id)).collect();
    let mut stream = engine.submit(GenerateRequest::greedy("bench", prompt, max_tokens))?;
    let (mut first, mut greedy) = (None, Vec::new());
    while let Some(event) = stream.blocking_next() {
        match event {
            TokenEvent::Token(token) => {
                greedy.push(token.id.0);
                if first.is_none() {
                    first = Some(Clock::now()?);
                }
            }
            TokenEvent::Failed(error) => return Err(error.into()),
            TokenEvent::Prompt(_) | TokenEvent::Finished { .. } => {}
        }
    }
    let first = first.ok_or("no token came")?;
    Ok(Run {
        times: [start, first, Clock::now()?],
        greedy,
    })
}

/// Has `streams` decode at once, and counts from when the last has begun until the first ends.
fn together(
    engine: &Engine,
    streams: usize,
    ids: &[u32],
    decode: u32,
) -> Result<Together, Box<dyn Error>> {
    let (tell, told) = mpsc::channel();
    let num_tokens = AtomicUsize::new(0);
    thread::scope(|scope| {
        for stream in 0..streams {
            // Prompts that share nothing, all of the same tokens.
            let mut prompt: Vec<TokenId> = ids.iter().map(|id| TokenId(*id)).collect();
            prompt.rotate_left(stream * ids.len() / streams);
            // Prompts are read one after the other, so that the first is some tokens ahead.
            let max_tokens = decode + 4 * (streams - 1) as u32;
            let ask = GenerateRequest::greedy("bench", prompt, max_tokens);
            let (tell, num_tokens) = (tell.clone(), &num_tokens);
            let mut stream = engine.submit(ask)?;
            scope.spawn(move || {
                let mut is_first = true;
                while let Some(event) = stream.blocking_next() {
                    if let TokenEvent::Token(_) = event {
                        num_tokens.fetch_add(1, Relaxed);
                        if std::mem::take(&mut is_first) && tell.send(()).is_err() {
                            return;
                        }
                    }
                }
                // It ends early only where the others are no longer listened to.
                let _ = tell.send(());
            });
        }
        for _ in 0..streams {
            told.recv()?;
        }
        let (start, before) = (Clock::now()?, num_tokens.load(Relaxed));
        told.recv()?;
        let (end, after) = (Clock::now()?, num_tokens.load(Relaxed));
        engine.blocking_shutdown(Duration::ZERO);
        Ok(Together {
            streams,
            prompt_tokens: ids.len(),
            tokens: after - before,
            wall_s: end.wall - start.wall,
            cpu_s: end.cpu - start.cpu,
        })
    })
}

/// Seconds since some moment, on the wall and of this process's threads.
#[derive(Clone, Copy)]
struct Clock {
    wall: f64,
    cpu: f64,
}

impl Clock {
    fn now() -> Result<Self, Box<dyn Error>> {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let wall = START.get_or_init(Instant::now).elapsed().as_secs_f64();
        // Linux counts in hundredths of a second; user and system time are fields 14 and 15, and
        // the name before them may hold spaces.
        let stat = fs::read_to_string("/proc/self/stat")?;
        let fields = stat.rsplit(") ").next().ok_or("/proc/self/stat")?;
        let ticks: Vec<f64> = fields
            .split(' ')
            .skip(11)
            .take(2)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            wall,
            cpu: ticks.iter().sum::<f64>() / 100.0,
        })
    }
}

fn peak_rss_bytes() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}
