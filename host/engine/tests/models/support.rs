//! Fixtures, an engine over them, and what came back of a request.

use std::path::{Path, PathBuf};

use gapura_engine::{
    CpuOptions, CpuRunner, Engine, EngineConfig, FinishReason, GenerateRequest, Quantization,
    SampledToken, TokenEvent, TokenId, TokenLogprobs, TokenStream,
};

/// The tiny models that the repository carries.
pub(crate) const FIXTURES: [&str; 3] = ["tiny-gemma2-b", "tiny-gemma3", "tiny-llama"];

/// The folder of a fixture.
pub(crate) fn fixture(name: &str) -> PathBuf {
    // Cargo sets it; where the tests were carried elsewhere, whoever carried them does.
    let crate_dir = std::env::var("CARGO_MANIFEST_DIR");
    let crate_dir = crate_dir.as_deref().unwrap_or(env!("CARGO_MANIFEST_DIR"));
    Path::new(crate_dir).join("../../tests/fixtures").join(name)
}

/// An engine over the model in `path`.
pub(crate) fn start(path: &Path, config: EngineConfig) -> Engine {
    start_quantized(path, config, Quantization::None)
}

/// The same, its weights quantized while it loads.
pub(crate) fn start_quantized(path: &Path, config: EngineConfig, quantize: Quantization) -> Engine {
    let model = CpuRunner::load(path, options(quantize)).unwrap();
    Engine::start(Box::new(model.runner), config).unwrap()
}

/// Two threads, so that work is split.
pub(crate) fn options(quantize: Quantization) -> CpuOptions {
    CpuOptions {
        threads: Some(2),
        quantize,
    }
}

/// A greedy request for exactly `max_tokens`, with five logprobs for every token of the answer.
pub(crate) fn greedy(prompt: &[u32], max_tokens: u32) -> GenerateRequest {
    let prompt = prompt.iter().map(|id| TokenId(*id)).collect();
    GenerateRequest {
        logprobs: Some(5),
        ..GenerateRequest::greedy("test", prompt, max_tokens)
    }
}

/// As [`greedy`], with five logprobs for every token of the prompt too.
pub(crate) fn scored(prompt: &[u32], max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt_logprobs: Some(5),
        ..greedy(prompt, max_tokens)
    }
}

/// What a request gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answer {
    /// Why it ended.
    pub(crate) reason: Option<FinishReason>,
    pub(crate) prompt: Vec<TokenLogprobs>,
    pub(crate) tokens: Vec<SampledToken>,
}

impl Answer {
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id.0).collect()
    }
}

/// Submits everything at once and waits for all of it.
pub(crate) fn run_together(engine: &Engine, requests: Vec<GenerateRequest>) -> Vec<Answer> {
    let streams: Vec<(TokenStream, bool)> = requests
        .into_iter()
        .map(|request| {
            let is_free = request.grammar.is_none();
            (engine.submit(request).unwrap(), is_free)
        })
        .collect();
    // Streams are bounded; a thread each keeps any from holding its sequence up.
    std::thread::scope(|scope| {
        let answers: Vec<_> = streams
            .into_iter()
            .map(|(stream, is_free)| scope.spawn(move || collect(stream, is_free)))
            .collect();
        answers
            .into_iter()
            .map(|answer| answer.join().unwrap())
            .collect()
    })
}

fn collect(mut stream: TokenStream, is_free: bool) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = stream.blocking_next() {
        match event {
            TokenEvent::Prompt(logprobs) => answer.prompt.extend(logprobs),
            TokenEvent::Token(token) => answer.tokens.push(token),
            TokenEvent::Finished { reason, .. } => {
                // Without a grammar nothing but the limit ends what ignores end tokens.
                assert!(!is_free || reason == FinishReason::Length, "{reason:?}");
                answer.reason = Some(reason);
            }
            TokenEvent::Failed(error) => panic!("{error}"),
        }
    }
    answer
}
