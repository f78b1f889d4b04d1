//! An engine that panics, stalls or dies: who hears of it, what goes on, and what `/readyz` says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use gapura_engine::sim::{SimFault, SimLatency, SimRunner, sim_tokens};
use gapura_engine::{
    Batch, Engine, EngineConfig, GenerateRequest, KvPlan, ModelInfo, ModelRunner, RunnerError,
    RunnerFactory, StepOutput, TokenEvent, TokenStream,
};
use gapura_tests::{PLAIN, Server};
use serde_json::json;

use crate::expect::{CHAT, assert_alive, halo};

/// Asks the runner to panic.
const POISON: u8 = b'#';

fn is_poisoned(batch: &Batch) -> bool {
    let mut tokens = batch.sequences.iter().flat_map(|part| &part.tokens);
    tokens.any(|token| token.0 == u32::from(POISON))
}

/// A simulated model that panics over poison, and answers 200 letters in 200 ms otherwise.
fn touchy() -> SimRunner {
    let panic = |_, batch: &Batch| is_poisoned(batch).then(|| SimFault::Panic("poison".into()));
    SimRunner::default()
        .answering(&"a".repeat(200))
        .with_latency(SimLatency {
            per_decode_step: Duration::from_millis(1),
            ..SimLatency::default()
        })
        .with_faults(panic)
}

/// An engine of touchy runners, and how many were made after the first.
fn supervised(config: EngineConfig) -> (Engine, Arc<AtomicU64>) {
    let made = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&made);
    let factory: RunnerFactory = Box::new(move || {
        count.fetch_add(1, Relaxed);
        Ok(Box::new(touchy()))
    });
    let engine = Engine::start_supervised(Box::new(touchy()), factory, config);
    (engine.expect("the engine starts"), made)
}

fn asked(prompt: &str) -> GenerateRequest {
    GenerateRequest::new(prompt, sim_tokens(prompt), 300)
}

/// The number of tokens, or the error.
async fn read(mut stream: TokenStream) -> Result<usize, String> {
    let mut num_tokens = 0;
    loop {
        match stream.next().await.expect("an end comes before nothing") {
            TokenEvent::Token(_) => num_tokens += 1,
            TokenEvent::Prompt(_) => {}
            TokenEvent::Finished { .. } => return Ok(num_tokens),
            TokenEvent::Failed(error) => return Err(error.to_string()),
        }
    }
}

async fn wait_until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(outcome.is_ok(), "waited for a minute until {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_fails_the_requests_of_its_step_and_no_other() {
    let (engine, made) = supervised(EngineConfig {
        max_num_seqs: 2,
        ..EngineConfig::default()
    });
    let server = Server::over(PLAIN, engine.clone());
    // Nobody reads it: it pauses, with keys and values in the runner that will be lost.
    let paused = engine.submit(asked("paused")).expect("room");
    wait_until("it pauses", async || {
        let decode_tokens = engine.stats().decode_tokens;
        tokio::time::sleep(Duration::from_millis(50)).await;
        decode_tokens >= 60 && engine.stats().decode_tokens == decode_tokens
    })
    .await;

    let poisoned = engine.submit(asked("poison #")).expect("room");
    let waiting: Vec<_> = (0..3)
        .map(|_| engine.submit(asked("b")).expect("room"))
        .collect();
    let error = read(poisoned).await.expect_err("its step panicked");
    assert_eq!(
        error,
        "the model could not run a step: the runner panicked: poison"
    );
    // 200 letters and the end token. The paused one was computed again in the new runner.
    assert_eq!(read(paused).await, Ok(201));
    let mut num_touched = 0;
    for stream in waiting {
        match read(stream).await {
            Ok(num_tokens) => assert_eq!(num_tokens, 201),
            // In the seat beside the poison.
            Err(_) => num_touched += 1,
        }
    }
    assert!(
        num_touched <= 1,
        "{num_touched} of those that waited failed"
    );
    assert_eq!(made.load(Relaxed), 1);
    assert_alive(&server).await;
    assert_eq!(server.get("/readyz").await.status, 200);
    let metrics = server.get("/metrics").await;
    assert!(
        metrics
            .text()
            .contains("\ngapura_engine_restarts_total 1\n")
    );
    wait_until("all is free", async || {
        let stats = engine.stats();
        stats.full_blocks.used + stats.running + stats.waiting == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_runner_can_be_made_the_server_is_not_ready_and_requests_wait() {
    let attempts = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&attempts);
    let factory: RunnerFactory = Box::new(move || match count.fetch_add(1, Relaxed) {
        0..4 => Err(RunnerError::new("the device is gone")),
        _ => Ok(Box::new(touchy())),
    });
    let engine = Engine::start_supervised(Box::new(touchy()), factory, EngineConfig::default());
    let server = Server::over(PLAIN, engine.expect("the engine starts"));
    assert!(
        read(server.engine.submit(asked("#")).expect("room"))
            .await
            .is_err()
    );
    let waiting = server.engine.submit(asked("b")).expect("room");
    let mut answer = server.get("/readyz").await;
    wait_until("it says so", async || {
        answer = server.get("/readyz").await;
        answer.status == 503
    })
    .await;
    assert_eq!(answer.json()["error"]["code"], "engine_restarting");
    assert_eq!(server.get("/health").await.json()["status"], "restarting");
    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!(read(waiting).await, Ok(201));
    assert_eq!(attempts.load(Relaxed), 5);
    assert_eq!(server.get("/readyz").await.status, 200);
}

/// A panic that panics again when its payload is dropped: it escapes the guard around the
/// runner and unwinds the engine's own loop.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the loop itself");
    }
}

struct Explosive(SimRunner);

impl ModelRunner for Explosive {
    fn model(&self) -> &ModelInfo {
        self.0.model()
    }

    fn allocate_kv(&mut self, plan: KvPlan) -> Result<(), RunnerError> {
        self.0.allocate_kv(plan)
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunnerError> {
        if is_poisoned(batch) {
            std::panic::panic_any(Bomb);
        }
        self.0.submit(batch)
    }

    fn collect(&mut self) -> Result<StepOutput, RunnerError> {
        self.0.collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_loop_itself_fails_what_it_held_and_the_engine_begins_anew() {
    let runner = || Box::new(Explosive(SimRunner::default().answering("ya")));
    let factory: RunnerFactory = Box::new(move || Ok(runner()));
    let engine = Engine::start_supervised(runner(), factory, EngineConfig::default());
    let server = Server::over(PLAIN, engine.expect("the engine starts"));
    let error = read(server.engine.submit(asked("#")).expect("room")).await;
    assert_eq!(
        error.expect_err("it was held"),
        "the model could not run a step: the engine panicked: the loop itself"
    );
    assert_alive(&server).await;
    assert_eq!(server.get("/readyz").await.status, 200);
    let is_free = async || server.engine.stats().full_blocks.used == 0;
    wait_until("all is free", is_free).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engine_is_not_ready_and_answers_every_request_with_an_error() {
    let runner = Explosive(SimRunner::default());
    let engine = Engine::start(Box::new(runner), EngineConfig::default());
    let server = Server::over(PLAIN, engine.expect("the engine starts"));
    assert!(
        read(server.engine.submit(asked("#")).expect("room"))
            .await
            .is_err()
    );
    wait_until("the thread has ended", async || {
        !server.engine.stats().alive
    })
    .await;
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["error"]["code"], "engine_dead");
    assert_eq!(server.get("/health").await.json()["status"], "dead");
    assert_eq!(server.post(CHAT, halo()).await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_engine_is_not_ready_until_it_moves_again() {
    let stall = |step, _: &Batch| {
        if step == 0 {
            std::thread::sleep(Duration::from_secs(6));
        }
        None
    };
    let runner = SimRunner::default().answering("ya").with_faults(stall);
    // An idle engine shows itself once a second.
    let server = Server::start(&format!("[server]\nstall_seconds = 3\n{PLAIN}"), runner);
    assert_eq!(server.get("/readyz").await.status, 200);
    let watch = async {
        let mut answer = server.get("/readyz").await;
        wait_until("it is noticed", async || {
            answer = server.get("/readyz").await;
            answer.status == 503
        })
        .await;
        answer.json()
    };
    let (chat, unready) = tokio::join!(server.post(CHAT, halo()), watch);
    let expected = json!("engine_stuck");
    assert_eq!(unready["error"]["code"], expected);
    let message = unready["error"]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("the engine has not moved for "),
        "{message}"
    );
    assert_eq!(chat.status, 200);
    wait_until("it is ready", async || {
        server.get("/readyz").await.status == 200
    })
    .await;
}
