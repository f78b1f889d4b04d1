//! The launch plan of a device, carried out on this machine: it computes what the CPU engine
//! computes, whatever a step holds.

mod faults;

use std::{path::Path, sync::Arc};

use gapura_engine::{
    Checkpoint, DeviceOptions, DeviceRunner, Engine, EngineConfig, FinishReason, GenerateRequest,
    GrammarCompiler, GrammarSource, LoadError, LoadedDevice, OpenDevice, Quantization,
    SamplingParams, TokenId,
};
use gapura_kernels::device::{
    CudaDevice, Device, DeviceError, HostDevice, KernelCache, Precision, Specialization, emulation,
};

use crate::{
    quantized::wide,
    support::{Answer, fixture, greedy, run_together, scored, start},
    tokenizers::cached,
};

/// Those whose heads a device has kernels for.
const FIXTURES: [&str; 2] = ["tiny-gemma2-b", "tiny-gemma3"];

/// Of devices in this machine's memory.
const CAPACITY: u64 = 4 << 30;

/// The device under test: the interpreter; with `GAPURA_TEST_DEVICE=cuda` the first GPU, its kernels
/// kept in the folder `GAPURA_KERNEL_CACHE`.
fn tested(specialization: Specialization) -> Result<Box<dyn Device>, DeviceError> {
    if std::env::var_os("GAPURA_TEST_DEVICE").is_none_or(|device| device != "cuda") {
        return Ok(Box::new(HostDevice::interpreter(specialization, CAPACITY)?));
    }
    let folder = std::env::var_os("GAPURA_KERNEL_CACHE").unwrap();
    let device = CudaDevice::open(0, specialization, &KernelCache::new(folder.into()))?;
    Ok(Box::new(device))
}

fn options(precision: Precision) -> DeviceOptions {
    DeviceOptions {
        precision,
        max_num_seqs: 16,
        max_batched_tokens: 64,
        ..DeviceOptions::default()
    }
}

/// An engine over `path` on the device under test.
fn start_on_device(path: &Path, options: DeviceOptions, config: EngineConfig) -> Engine {
    let loaded = load(path, options).unwrap();
    let config = EngineConfig {
        max_num_seqs: options.max_num_seqs,
        max_batched_tokens: options.max_batched_tokens,
        kv_bytes: config.kv_bytes.min(64 << 20),
        ..config
    };
    Engine::start_supervised(Box::new(loaded.runner), loaded.factory, config).unwrap()
}

fn load(path: &Path, options: DeviceOptions) -> Result<LoadedDevice, LoadError> {
    DeviceRunner::load(path, options, Arc::new(tested), &mut |_, _| {})
}

/// About the edges of pages, windows and prefill tiles.
fn prompts() -> Vec<Vec<u32>> {
    [1, 2, 16, 17, 47, 50, 99]
        .into_iter()
        .enumerate()
        .map(|(n, len)| {
            let token = |i: usize| ((i * i * 31 + i * 17 + n * 101) % 256 + 6) as u32;
            std::iter::once(2).chain((1..len).map(token)).collect()
        })
        .collect()
}

fn requests() -> Vec<GenerateRequest> {
    prompts().iter().map(|prompt| greedy(prompt, 20)).collect()
}

fn scores() -> Vec<GenerateRequest> {
    prompts().iter().map(|prompt| scored(prompt, 1)).collect()
}

/// One after the other, so that nothing shares a step.
fn alone(engine: &Engine, requests: Vec<GenerateRequest>) -> Vec<Answer> {
    let answers = requests.into_iter();
    answers
        .flat_map(|request| run_together(engine, vec![request]))
        .collect()
}

fn logprobs(answers: &[Answer]) -> Vec<f32> {
    let of_one = |answer: &Answer| {
        let drawn = answer
            .tokens
            .iter()
            .filter_map(|token| token.logprobs.as_ref());
        let all: Vec<f32> = answer
            .prompt
            .iter()
            .chain(drawn)
            .map(|token| token.logprob)
            .collect();
        all
    };
    answers.iter().flat_map(of_one).collect()
}

/// The differences, the greatest last.
fn differences(found: &[Answer], expected: &[Answer]) -> Vec<f32> {
    let (found, expected) = (logprobs(found), logprobs(expected));
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(&expected);
    let mut differences: Vec<f32> = pairs.map(|(a, b)| (a - b).abs()).collect();
    differences.sort_by(f32::total_cmp);
    differences
}

fn mean(differences: &[f32]) -> f32 {
    differences.iter().sum::<f32>() / differences.len() as f32
}

#[track_caller]
fn same_ids(found: &[Answer], expected: &[Answer]) {
    let ids = |answers: &[Answer]| answers.iter().map(Answer::ids).collect::<Vec<_>>();
    assert_eq!(ids(found), ids(expected));
}

#[test]
fn in_float32_the_plan_computes_what_the_cpu_engine_computes() {
    for name in FIXTURES {
        let cpu = start(&fixture(name), EngineConfig::default());
        let device = start_on_device(
            &fixture(name),
            options(Precision::F32),
            EngineConfig::default(),
        );
        let (expected, found) = (
            run_together(&cpu, requests()),
            run_together(&device, requests()),
        );
        same_ids(&found, &expected);
        let mut all = differences(&found, &expected);
        all.extend(differences(
            &run_together(&device, scores()),
            &run_together(&cpu, scores()),
        ));
        let greatest = all.iter().copied().fold(0.0, f32::max);
        println!(
            "gate: launch plan f32 = CPU engine, {name}, {} logprobs | {greatest:e} | 1e-3",
            all.len()
        );
        assert!(greatest < 1e-3, "{name}: {greatest}");
    }
}

#[test]
fn in_bf16_logprobs_stay_close_to_those_of_float32() {
    let wide = wide(|_, _| {});
    let expected = run_together(&start(wide.path(), EngineConfig::default()), scores());
    for fused_attention in [true, false] {
        let options = DeviceOptions {
            fused_attention,
            ..options(Precision::Bf16)
        };
        let device = start_on_device(wide.path(), options, EngineConfig::default());
        let all = differences(&run_together(&device, scores()), &expected);
        let (mean, p99) = (mean(&all), all[all.len() * 99 / 100]);
        println!("gate: launch plan bf16, mean, fused attention {fused_attention} | {mean} | 0.06");
        println!("gate: launch plan bf16, p99, fused attention {fused_attention} | {p99} | 0.2");
        assert!(mean < 0.06 && p99 < 0.2, "{mean} {p99}");
    }
}

/// Whole models by the kernels' own source, compiled for this machine, threads in another order
/// than their own.
#[test]
fn the_kernels_compute_what_their_references_compute() {
    if !emulation::has_compiler() {
        println!("SKIPPED: there is no C++ compiler, so no model ran on the kernels");
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    let emulator = move |specialization| -> Result<Box<dyn Device>, DeviceError> {
        let library = emulation::build(specialization, &folder)?;
        let mut device = HostDevice::emulator(specialization, CAPACITY, &library)?;
        device.shuffle_threads(7);
        Ok(Box::new(device))
    };
    let emulator: Arc<OpenDevice> = Arc::new(emulator);
    let wide = wide(|_, _| {});
    let cases = [
        (
            fixture("tiny-gemma2-b"),
            Precision::F32,
            Quantization::None,
            1e-4,
        ),
        (
            fixture("tiny-gemma3"),
            Precision::F32,
            Quantization::None,
            1e-4,
        ),
        (
            wide.path().to_owned(),
            Precision::Bf16,
            Quantization::None,
            0.05,
        ),
        (
            wide.path().to_owned(),
            Precision::Bf16,
            Quantization::FourBit,
            0.05,
        ),
    ];
    for (path, precision, quantize, bound) in cases {
        let options = DeviceOptions {
            quantize,
            max_num_seqs: 4,
            ..options(precision)
        };
        let requests = || -> Vec<GenerateRequest> {
            let prompts = prompts();
            [1, 4, 6].map(|index| scored(&prompts[index], 4)).into()
        };
        let run = |open: Arc<OpenDevice>| {
            let loaded = DeviceRunner::load(&path, options, open, &mut |_, _| {}).unwrap();
            let config = EngineConfig {
                max_num_seqs: options.max_num_seqs,
                max_batched_tokens: options.max_batched_tokens,
                kv_bytes: 64 << 20,
                ..EngineConfig::default()
            };
            let engine = Engine::start(Box::new(loaded.runner), config).unwrap();
            run_together(&engine, requests())
        };
        let (found, expected) = (run(Arc::clone(&emulator)), run(Arc::new(tested)));
        // In bf16 a rounding may decide a draw; what the prompt is given is the same either way.
        let of_prompts = |answers: &[Answer]| -> Vec<Answer> {
            let only = |answer: &Answer| Answer {
                prompt: answer.prompt.clone(),
                ..Answer::default()
            };
            answers.iter().map(only).collect()
        };
        let mean = mean(&differences(&of_prompts(&found), &of_prompts(&expected)));
        println!(
            "gate: kernels emulated = interpreted, {precision:?} {quantize:?} | {mean:e} | {bound}"
        );
        assert!(mean < bound, "{path:?} {precision:?}: {mean}");
        if precision == Precision::F32 {
            same_ids(&found, &expected);
        }
    }
}

/// What `what` made of requests is what came of each alone, to the last bits.
#[track_caller]
fn same_as_alone(what: &str, name: &str, found: &[Answer], alone: &[Answer]) {
    same_ids(found, alone);
    let greatest = differences(found, alone).last().copied().unwrap_or(0.0);
    println!("gate: launch plan, {what} = alone, {name} | {greatest:e} | 1e-4");
    assert!(greatest < 1e-4, "{name}, {what}: {greatest}");
}

/// Short prompts, again and again, and answers that outlast the reading of all of them.
fn long_answers(count: usize, max_tokens: u32) -> Vec<GenerateRequest> {
    let prompts = prompts().into_iter().take(4).cycle();
    let prompts = prompts.take(count);
    prompts.map(|prompt| greedy(&prompt, max_tokens)).collect()
}

/// Alone, in company, in chunks of a few tokens, recorded or not, after a prefix hit, with blocks
/// so scarce that sequences are preempted.
#[test]
fn answers_do_not_depend_on_what_a_step_holds() {
    for name in FIXTURES {
        let path = fixture(name);
        let base = options(Precision::F32);
        let cold = EngineConfig {
            prefix_cache: false,
            ..EngineConfig::default()
        };
        let engine = start_on_device(&path, base, cold.clone());
        let expected = alone(&engine, requests());
        let check = |what, found: &[Answer]| same_as_alone(what, name, found, &expected);
        check("batched", &run_together(&engine, requests()));
        let eager = DeviceOptions {
            graphs: false,
            ..base
        };
        let eager = start_on_device(&path, eager, cold.clone());
        check("eager", &run_together(&eager, requests()));
        let small = DeviceOptions {
            max_batched_tokens: 7,
            max_num_seqs: 5,
            ..base
        };
        let small = start_on_device(&path, small, cold.clone());
        check("chunked", &run_together(&small, requests()));
        let warm = start_on_device(&path, base, EngineConfig::default());
        run_together(&warm, requests());
        check("prefix hit", &run_together(&warm, requests()));
        assert!(warm.stats().prefix_hit_tokens > 0, "{name}: no hit");

        // Room for one of the answers and a half.
        let expected = alone(&engine, long_answers(4, 100));
        let layout = warm.model().kv;
        let scarce = EngineConfig {
            kv_bytes: 10 * (layout.full_block_bytes + layout.windowed_block_bytes),
            ..cold
        };
        let scarce = start_on_device(&path, base, scarce);
        let found = run_together(&scarce, long_answers(4, 100));
        same_as_alone("preempted", name, &found, &expected);
        assert!(
            scarce.stats().preemptions > 0,
            "{name}: nothing was preempted"
        );
    }
}

/// Eleven answers, which a recorded step of sixteen rows computes. The first has the first block,
/// since the engine is new.
#[test]
fn rows_that_pad_a_step_touch_nothing() {
    for name in FIXTURES {
        let base = options(Precision::F32);
        let start = || start_on_device(&fixture(name), base, EngineConfig::default());
        let expected = alone(&start(), long_answers(4, 60));
        let found = run_together(&start(), long_answers(11, 60));
        same_as_alone("padded", name, &found[..4], &expected);
    }
}

/// Penalties, biases and filters where the device chooses, against the CPU engine.
#[test]
fn the_device_chooses_what_the_host_would() {
    let sampling = [
        SamplingParams {
            temperature: 0.0,
            repetition_penalty: 1.3,
            ..SamplingParams::default()
        },
        SamplingParams {
            temperature: 0.0,
            presence_penalty: 0.7,
            frequency_penalty: 0.4,
            ..SamplingParams::default()
        },
        SamplingParams {
            temperature: 0.0,
            logit_bias: vec![(TokenId(40), 3.0), (TokenId(41), -100.0)],
            ..SamplingParams::default()
        },
        SamplingParams {
            temperature: 1.2,
            seed: Some(7),
            ..SamplingParams::default()
        },
        SamplingParams {
            temperature: 0.9,
            top_p: 0.9,
            min_p: 0.01,
            seed: Some(8),
            ..SamplingParams::default()
        },
    ];
    let requests = || -> Vec<GenerateRequest> {
        let mut requests = Vec::new();
        for sampling in &sampling {
            for prompt in prompts() {
                requests.push(GenerateRequest {
                    sampling: sampling.clone(),
                    logprobs: None,
                    ..greedy(&prompt, 20)
                });
            }
        }
        requests
    };
    for name in FIXTURES {
        let cpu = start(&fixture(name), EngineConfig::default());
        let device = start_on_device(
            &fixture(name),
            options(Precision::F32),
            EngineConfig::default(),
        );
        same_ids(
            &run_together(&device, requests()),
            &run_together(&cpu, requests()),
        );
    }
}

/// Answers within a grammar, alone and among others: the device draws them, masks reach it in time,
/// and end tokens come no sooner than they may.
#[test]
fn within_a_grammar_the_device_chooses_what_the_host_would() {
    let name = "tiny-gemma2-b";
    let tokenizer = Checkpoint::open(&fixture(name))
        .unwrap()
        .tokenizer()
        .unwrap();
    let cpu = start(&fixture(name), EngineConfig::default());
    let compiler = GrammarCompiler::new(&tokenizer, &cpu.model().eos_token_ids);
    let source = GrammarSource::Regex("[a-z]{3,12}( [0-9]+)?".to_owned());
    let grammar = compiler.compile(&source).unwrap();
    let requests = || -> Vec<GenerateRequest> {
        let constrained = prompts().into_iter().enumerate().map(|(index, prompt)| {
            let mut request = greedy(&prompt, 20);
            request.logprobs = None;
            request.grammar = Some(grammar.clone());
            request.stop.min_tokens = if index % 2 == 0 { 6 } else { 0 };
            if index % 3 == 0 {
                request.sampling.temperature = 1.3;
                request.sampling.seed = Some(index as u64);
            }
            request
        });
        constrained.chain(crate::device::requests()).collect()
    };
    let device = start_on_device(
        &fixture(name),
        options(Precision::F32),
        EngineConfig::default(),
    );
    let expected = run_together(&cpu, requests());
    same_ids(&run_together(&device, requests()), &expected);
    same_ids(&alone(&device, requests()), &expected);
    let constrained = expected.iter().take(prompts().len());
    assert!(constrained.clone().all(|answer| answer.tokens.len() >= 3));
    assert!(
        constrained
            .filter(|answer| answer.reason == Some(FinishReason::Stop))
            .count()
            > 3
    );
}

/// Scores of a model whose weights were rounded on the device.
#[test]
fn quantized_on_the_device_logprobs_stay_close() {
    let wide = wide(|_, _| {});
    let expected = run_together(&start(wide.path(), EngineConfig::default()), scores());
    for (quantize, bound) in [(Quantization::EightBit, 0.1), (Quantization::FourBit, 0.7)] {
        let options = DeviceOptions {
            quantize,
            ..options(Precision::F32)
        };
        let device = start_on_device(wide.path(), options, EngineConfig::default());
        let mean = mean(&differences(&run_together(&device, scores()), &expected));
        println!("gate: quantized on the device, {quantize:?} | {mean} | {bound}");
        assert!(mean < bound && mean > 0.0, "{quantize:?}: {mean}");
    }
}

/// Real weights in every format that a device reads as it is, and in those that it turns into
/// activations while it loads: SmolLM2 holds Q4_1 and Q8_0, Gemma 3 Q4_K, Q6_K, Q8_0 and Q5_0. The
/// CPU engine rounds activations to 8 bits, the plan does not; that is the difference.
#[test]
fn gguf_files_give_the_logprobs_that_the_cpu_engine_gives() {
    for file in [
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "gemma-3-270m-Q4_K_M.gguf",
    ] {
        let path = cached(&format!("models/{file}"));
        assert!(
            path.exists(),
            "{} is missing: run `make models` first",
            path.display()
        );
        let checkpoint = Checkpoint::open(&path).unwrap();
        let ids = checkpoint
            .tokenizer()
            .unwrap()
            .encode("Ibu kota Indonesia adalah Jakarta. The capital");
        let prompt: Vec<u32> = std::iter::once(2)
            .chain(ids.iter().map(|id| id.0))
            .collect();
        let requests = || vec![scored(&prompt, 1)];
        let expected = run_together(&start(&path, EngineConfig::default()), requests());
        let options = DeviceOptions {
            context_length: Some(64),
            max_num_seqs: 2,
            ..options(Precision::F32)
        };
        let loaded = load(&path, options).unwrap();
        let config = EngineConfig {
            max_num_seqs: 2,
            max_batched_tokens: 64,
            kv_bytes: 64 << 20,
            ..EngineConfig::default()
        };
        let device = Engine::start(Box::new(loaded.runner), config).unwrap();
        let mean = mean(&differences(&run_together(&device, requests()), &expected));
        println!("gate: launch plan f32, {file}, mean absolute Δlogprob | {mean} | 0.2");
        assert!(mean < 0.2, "{file}: {mean}");
    }
}
