//! Steps by hand, and masks that come when the test says so.

use std::{path::Path, sync::mpsc, time::Instant};

use gapura_kernels::device::{HostDevice, Precision};
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::{
    checkpoint::Checkpoint,
    grammar::{Grammar, GrammarCompiler, GrammarSource, Job},
    request::TokenId,
    runner::{DeviceOptions, DeviceRunner},
    sim::{SimRunner, SimToken, sim_tokenizer, sim_tokens},
};

/// Steps in which a mask is missing, or that an answer may take.
const MANY: usize = 40;

/// A loop whose masks are computed by [`Job::run`] alone.
struct Bench {
    engine_loop: EngineLoop,
    jobs: mpsc::Receiver<Job>,
    stats: Arc<SharedStats>,
    num_requests: u64,
}

impl Bench {
    fn new(mut runner: Box<dyn ModelRunner>) -> Self {
        let model = runner.model().clone();
        let plan = KvPlan {
            num_full_blocks: 64,
            num_windowed_blocks: 64,
        };
        runner.allocate_kv(plan).unwrap();
        let limits = SchedulerLimits {
            max_num_seqs: 2,
            max_batched_tokens: 64,
            max_slowdown: f32::INFINITY,
            context_length: 256,
            eos_token_ids: model.eos_token_ids,
            prefix_cache: true,
        };
        let stats = Arc::new(SharedStats::new(plan));
        let supply = Supply {
            runner,
            factory: None,
        };
        let dropped = DroppedStreams::default();
        let mut engine_loop =
            EngineLoop::new(supply, limits, model.kv, plan, dropped, Arc::clone(&stats));
        let (masks, jobs) = MaskWorkers::by_hand();
        engine_loop.masks = masks;
        Self {
            engine_loop,
            jobs,
            stats,
            num_requests: 0,
        }
    }

    fn submit(&mut self, prompt: &[TokenId], grammar: Option<Grammar>) -> Receiver<StepEvents> {
        let (events, received) = tokio::sync::mpsc::channel(64);
        let mut request = GenerateRequest::new("test", prompt.to_vec(), 24);
        request.sampling.seed = Some(7);
        request.grammar = grammar;
        let submission = Submission {
            id: SequenceId(self.num_requests),
            request,
            events,
            slot: self.stats.take_queue_slot(8).unwrap(),
            submitted: Instant::now(),
        };
        self.num_requests += 1;
        self.engine_loop.obey(Command::Submit(Box::new(submission)));
        received
    }

    /// Runs steps until `is_enough` or there is none left to run; before each, `does_jobs` says
    /// whether the masks that are wanted become known.
    fn run(&mut self, mut does_jobs: impl FnMut(usize) -> bool, is_enough: impl Fn() -> bool) {
        for step in 0.. {
            if does_jobs(step) {
                self.jobs.try_iter().for_each(Job::run);
            }
            if self.engine_loop.step() == Turn::Idle || is_enough() {
                return;
            }
            assert!(step < 100 * MANY, "the answers do not end");
        }
    }
}

/// The tokens that are there, and whether the answer is over.
fn read(events: &mut Receiver<StepEvents>) -> (Vec<TokenId>, bool) {
    let (mut tokens, mut is_over) = (Vec::new(), false);
    while let Ok(step) = events.try_recv() {
        for event in step {
            match event {
                TokenEvent::Token(token) => tokens.push(token.id),
                TokenEvent::Finished { .. } => is_over = true,
                other => panic!("{other:?}"),
            }
        }
    }
    (tokens, is_over)
}

fn sim() -> (Box<dyn ModelRunner>, GrammarCompiler) {
    let compiler = GrammarCompiler::new(&sim_tokenizer(), &[SimToken::EOS.id()]);
    (
        Box::new(SimRunner::default().answering("aabbccdd")),
        compiler,
    )
}

/// Draws tokens itself and is a step ahead.
fn device() -> (Box<dyn ModelRunner>, GrammarCompiler) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-gemma3");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let options = DeviceOptions {
        precision: Precision::F32,
        max_num_seqs: 2,
        max_batched_tokens: 64,
        ..DeviceOptions::default()
    };
    let specialization =
        DeviceRunner::specialization(checkpoint.config(), options.precision).unwrap();
    let device = HostDevice::interpreter(specialization, 1 << 30).unwrap();
    let runner = DeviceRunner::new(&checkpoint, options, Box::new(device), &mut |_, _| {}).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let compiler = GrammarCompiler::new(&tokenizer, &runner.model().eos_token_ids);
    (Box::new(runner), compiler)
}

fn prompts() -> [Vec<TokenId>; 2] {
    // The second ends with a block, so that its first row completes one.
    [sim_tokens("the free one"), sim_tokens("constrained, 16.")]
}

/// While a mask is missing the other answer goes on, to its end if need be; the late one goes on
/// as soon as its mask is there, and has the tokens that it would have had.
fn late_masks_change_nothing(make: impl Fn() -> (Box<dyn ModelRunner>, GrammarCompiler)) {
    let source = GrammarSource::Regex("[a-d]{20,30}".to_owned());
    let [free, constrained] = prompts();
    let answers = |does_jobs: fn(usize) -> bool| {
        let (runner, compiler) = make();
        let grammar = compiler.compile(&source).unwrap();
        let mut bench = Bench::new(runner);
        let mut streams = [
            bench.submit(&free, None),
            bench.submit(&constrained, Some(grammar)),
        ];
        bench.run(does_jobs, || false);
        streams.each_mut().map(|events| {
            let (tokens, is_over) = read(events);
            assert!(is_over);
            tokens
        })
    };
    let expected = answers(|_| true);
    assert!(expected[1].len() >= 20);
    assert_eq!(answers(|step| step >= MANY), expected, "the first mask");
    assert_eq!(answers(|step| step % 3 == 2), expected, "every mask");

    let begin = || {
        let (runner, compiler) = make();
        let mut bench = Bench::new(runner);
        let streams = (
            bench.submit(&free, None),
            bench.submit(&constrained, Some(compiler.compile(&source).unwrap())),
        );
        (bench, streams)
    };
    let (mut bench, (free, late)) = begin();
    bench.run(|step| step > 4, || late.len() > 2);
    assert!(
        free.len() > 2 && !free.is_closed(),
        "the late one was kept waiting"
    );

    let (mut bench, (mut free, mut late)) = begin();
    bench.run(|step| step < 3, || free.is_closed());
    assert_eq!(read(&mut free), (expected[0].clone(), true));
    let (tokens, is_over) = read(&mut late);
    assert!(!is_over && expected[1].starts_with(&tokens) && tokens.len() <= 3);
    bench.run(|_| true, || false);
    assert_eq!(read(&mut late).0, expected[1][tokens.len()..]);
    assert_eq!(
        bench.engine_loop.scheduler.kv_use().used,
        BlockDemand::default()
    );
}

#[test]
fn late_masks_change_nothing_on_a_runner_that_returns_logits() {
    late_masks_change_nothing(sim);
}

#[test]
fn late_masks_change_nothing_on_a_runner_that_draws() {
    late_masks_change_nothing(device);
}
