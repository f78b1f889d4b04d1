//! Generates JSON for many schemas and times the masks; `tests/grammar/bench.py` makes the
//! schemas and validates what comes out.
//!
//! ```text
//! echo '[{"name": "…", "prompt": "…", "schema": {…}}, …]' | bench_grammar MODEL > answers.json
//! ```
//!
//! All schemas run together in one engine. Then every answer is walked again to time its masks
//! alone, on one core, and some are generated alone with and without their grammar.

use std::{
    error::Error,
    io::{self, Write},
    time::Instant,
};

use gapura_engine::{
    Allowed, CpuOptions, CpuRunner, Engine, EngineConfig, FinishReason, GenerateRequest, Grammar,
    GrammarCompiler, GrammarError, GrammarSource, TokenEvent, TokenId, TokenStream, Tokenizer,
    Usage,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Answers longer than this are cut.
const MAX_TOKENS: u32 = 1500;
/// Answers generated again, alone.
const NUM_COMPARED: usize = 8;

#[derive(Deserialize)]
struct Case {
    name: String,
    prompt: String,
    schema: Value,
}

#[derive(Serialize)]
struct Report {
    cases: Vec<CaseReport>,
    /// Of every mask, in µs.
    mask_us: Vec<f64>,
    /// Of the decode steps of the same number of tokens alone: with grammar, without.
    step_us: Vec<(f64, f64)>,
    vocabulary_ms: f64,
    vocab_size: usize,
}

#[derive(Serialize)]
struct CaseReport {
    name: String,
    compile_ms: f64,
    /// Why there is no grammar.
    error: Option<String>,
    text: String,
    finish: Option<&'static str>,
    tokens: usize,
}

struct Answer {
    ids: Vec<TokenId>,
    reason: FinishReason,
    usage: Usage,
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os()
        .nth(1)
        .ok_or("usage: bench_grammar MODEL < cases.json")?;
    let cases: Vec<Case> = serde_json::from_reader(io::stdin().lock())?;
    let model = CpuRunner::load(path.as_ref(), CpuOptions::default())?;
    let tokenizer = model.tokenizer;
    let config = EngineConfig {
        max_num_seqs: 16,
        max_queued: cases.len() + 1,
        ..EngineConfig::default()
    };
    let engine = Engine::start(Box::new(model.runner), config)?;
    let compiler = GrammarCompiler::new(&tokenizer, &engine.model().eos_token_ids);
    let started = Instant::now();
    compiler.compile(&GrammarSource::JsonObject)?;
    let vocabulary_ms = started.elapsed().as_secs_f64() * 1e3;

    let mut reports = Vec::new();
    let mut running = Vec::new();
    for case in &cases {
        let started = Instant::now();
        let compiled = compiler.compile(&GrammarSource::JsonSchema(case.schema.to_string()));
        reports.push(CaseReport {
            name: case.name.clone(),
            compile_ms: started.elapsed().as_secs_f64() * 1e3,
            error: compiled.as_ref().err().map(GrammarError::to_string),
            text: String::new(),
            finish: None,
            tokens: 0,
        });
        if let Ok(grammar) = compiled {
            let request = request(&tokenizer, case, Some(grammar.clone()), MAX_TOKENS);
            running.push((reports.len() - 1, grammar, engine.submit(request)?));
        }
    }
    let done: Vec<_> = std::thread::scope(|scope| {
        let readers = running
            .into_iter()
            .map(|(index, grammar, stream)| (index, grammar, scope.spawn(|| read(stream))));
        let readers: Vec<_> = readers.collect();
        let join =
            |(index, grammar, reader): (usize, Grammar, std::thread::ScopedJoinHandle<'_, _>)| {
                (
                    index,
                    grammar,
                    reader
                        .join()
                        .unwrap_or_else(|_| Err("a reader panicked".into())),
                )
            };
        readers.into_iter().map(join).collect()
    });

    let mut mask_us = Vec::new();
    let mut step_us = Vec::new();
    for (index, grammar, answer) in done {
        let answer = answer?;
        time_masks(&grammar, &answer.ids, &mut mask_us)?;
        let report = &mut reports[index];
        report.text = text(&tokenizer, &answer.ids);
        report.tokens = answer.ids.len();
        report.finish = Some(match answer.reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        });
        if step_us.len() < NUM_COMPARED && answer.ids.len() > 40 {
            step_us.push(compare(&engine, &tokenizer, &cases[index], grammar)?);
        }
    }
    let report = Report {
        cases: reports,
        mask_us,
        step_us,
        vocabulary_ms,
        vocab_size: tokenizer.vocab_size(),
    };
    writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(())
}

/// ChatML where the model has it, else the prompt as it is.
fn prompt(tokenizer: &Tokenizer, text: &str) -> Vec<TokenId> {
    let marks = (
        tokenizer.token_id("<|im_start|>"),
        tokenizer.token_id("<|im_end|>"),
    );
    let (Some(start), Some(end)) = marks else {
        return tokenizer.encode(text);
    };
    let mut ids = vec![start];
    ids.extend(tokenizer.encode(&format!("user\n{text}")));
    ids.push(end);
    ids.extend(tokenizer.encode("\n"));
    ids.push(start);
    ids.extend(tokenizer.encode("assistant\n"));
    ids
}

fn request(
    tokenizer: &Tokenizer,
    case: &Case,
    grammar: Option<Grammar>,
    max_tokens: u32,
) -> GenerateRequest {
    let prompt = prompt(tokenizer, &case.prompt);
    let mut request = GenerateRequest::new(&case.name, prompt, max_tokens);
    // What keeps a small model from repeating itself for ever.
    request.sampling.temperature = 0.7;
    request.sampling.seed = Some(1);
    request.sampling.frequency_penalty = 0.4;
    request.stop.ignore_eos = grammar.is_none();
    request.grammar = grammar;
    request
}

fn read(mut stream: TokenStream) -> Result<Answer, String> {
    let mut ids = Vec::new();
    loop {
        match stream.blocking_next() {
            Some(TokenEvent::Token(token)) => ids.push(token.id),
            Some(TokenEvent::Finished { reason, usage }) => {
                return Ok(Answer { ids, reason, usage });
            }
            Some(TokenEvent::Prompt(_)) => {}
            Some(TokenEvent::Failed(error)) => return Err(error.to_string()),
            None => return Err("no end".to_owned()),
        }
    }
}

fn text(tokenizer: &Tokenizer, ids: &[TokenId]) -> String {
    let bytes: Vec<u8> = ids
        .iter()
        .flat_map(|id| tokenizer.token_bytes(*id))
        .copied()
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn time_masks(
    grammar: &Grammar,
    ids: &[TokenId],
    times: &mut Vec<f64>,
) -> Result<(), Box<dyn Error>> {
    let mut state = grammar.start();
    for &id in ids {
        let started = Instant::now();
        let allowed = state.allowed()?;
        if !matches!(allowed, Allowed::Tokens(mask) if mask.contains(id)) {
            return Err(format!("{id:?} was generated and is not allowed").into());
        }
        state.accept(id)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(())
}

/// The time of a decode step alone, in µs, with the grammar and without.
fn compare(
    engine: &Engine,
    tokenizer: &Tokenizer,
    case: &Case,
    grammar: Grammar,
) -> Result<(f64, f64), Box<dyn Error>> {
    let step = |usage: Usage| {
        usage.decode_time.as_secs_f64() * 1e6 / f64::from(usage.completion_tokens - 1)
    };
    let constrained = read(engine.submit(request(tokenizer, case, Some(grammar), 100))?)?;
    let count = constrained.usage.completion_tokens;
    let free = read(engine.submit(request(tokenizer, case, None, count))?)?;
    Ok((step(constrained.usage), step(free.usage)))
}
