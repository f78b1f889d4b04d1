//! The whole engine over the simulated runner.

mod answers;
mod clients;
mod failures;
mod prefixes;
mod shutdown;

use std::sync::atomic::AtomicU64;

use super::*;
use crate::{
    request::{FinishReason, TokenEvent, Usage},
    runner::{Batch, RowOutput, RunnerError, StepOutput},
    sim::{SimFault, SimLatency, SimRunner, SimToken, sim_tokens},
};

/// Long enough for any machine, short enough to fail by.
const PATIENCE: Duration = Duration::from_secs(20);

/// A step that is long against the scheduling of threads.
const SLOW: SimLatency = SimLatency {
    per_prefill_token: Duration::ZERO,
    per_decode_step: Duration::from_millis(2),
};

fn start(runner: SimRunner, config: EngineConfig) -> Engine {
    Engine::start(Box::new(runner), config).unwrap()
}

fn request(prompt: &str, max_tokens: u32) -> GenerateRequest {
    let mut request = GenerateRequest::new(prompt, sim_tokens(prompt), max_tokens);
    request.sampling.seed = Some(1);
    request
}

/// An answer's text, without its end token, and how it ended.
fn read(mut stream: TokenStream) -> (String, Result<(FinishReason, Usage), EngineError>) {
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_next().unwrap() {
            TokenEvent::Token(token) if token.id == SimToken::EOS.id() => {}
            TokenEvent::Token(token) => bytes.push(u8::try_from(token.id.0).unwrap()),
            TokenEvent::Prompt(_) => {}
            TokenEvent::Finished { reason, usage } => {
                assert!(stream.blocking_next().is_none());
                return (String::from_utf8(bytes).unwrap(), Ok((reason, usage)));
            }
            TokenEvent::Failed(error) => {
                assert!(stream.blocking_next().is_none());
                return (String::from_utf8(bytes).unwrap(), Err(error));
            }
        }
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_at_rest(engine: &Engine) -> bool {
    let stats = engine.stats();
    stats.running == 0
        && stats.waiting == 0
        && stats.full_blocks.used == 0
        && stats.windowed_blocks.used == 0
}

/// A runner whose rows are no numbers for sequences that begin with `n`, and that says so by itself
/// for those that begin with `x`.
struct Broken(SimRunner, Option<StepOutput>);

impl ModelRunner for Broken {
    fn model(&self) -> &ModelInfo {
        self.0.model()
    }

    fn allocate_kv(&mut self, plan: KvPlan) -> Result<(), RunnerError> {
        self.0.allocate_kv(plan)
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunnerError> {
        self.0.submit(batch)?;
        let mut output = self.0.collect()?;
        for (part, rows) in batch.sequences.iter().zip(&mut output.rows) {
            if part.tokens[0] == TokenId(b'n'.into()) {
                rows.fill(RowOutput::Logits(vec![f32::NAN; 263]));
            }
            if part.tokens[0] == TokenId(b'x'.into()) {
                rows.fill(RowOutput::Undrawable);
            }
        }
        self.1 = Some(output);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput, RunnerError> {
        Ok(self.1.take().unwrap())
    }
}
