//! Measures a device: its memory and its multipliers, then the engine on it, with random weights
//! of Gemma 2 9B's shape, each result beside what the memory allows.
//!
//! ```text
//! bench_device [--device cuda|interpreter] [--model 9b|tiny] [--cache DIR] PART...
//! bench_device [--model 9b|tiny] --write-model DIR [--random SEED]
//! ```
//! Parts: probes, load, decode, batch, prefill, prefix, arrival, sampling, switches. Every result
//! is one line of JSON; `tests/cuda/bundle/table.py` makes tables of them. `--write-model` writes a
//! checkpoint of zeros, with `--random` one of random weights, for whatever reads such files.

mod engine_parts;
mod probes;
mod synthetic;

use std::{error::Error, path::PathBuf, sync::Arc};

use gapura_engine::{
    Checkpoint, DeviceOptions, DeviceRunner, Engine, EngineConfig,
    device::{CudaDevice, Device, DeviceError, HostDevice, KernelCache, Specialization},
};
use serde_json::{Value, json};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// The seed of all weights.
const SEED: u64 = 2;

/// What the interpreter gets of this machine's memory.
const INTERPRETER_BYTES: u64 = 2 << 30;

/// Where and what is measured.
pub(crate) struct Bench {
    is_cuda: bool,
    cache: KernelCache,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) folder: tempfile::TempDir,
    /// Contexts, batches and answers are as large as they are meant to be.
    pub(crate) is_full_size: bool,
    /// Bytes a second that a kernel reads, once measured.
    pub(crate) read_bandwidth: Option<f64>,
    /// Operations a second of a large product, once measured.
    pub(crate) matrix_rate: Option<f64>,
}

impl Bench {
    pub(crate) fn specialization(&self, options: &DeviceOptions) -> Outcome<Specialization> {
        let config = self.checkpoint.config();
        Ok(DeviceRunner::specialization(config, options.precision)?)
    }

    pub(crate) fn open(
        &self,
        specialization: Specialization,
    ) -> Result<Box<dyn Device>, DeviceError> {
        open(self.is_cuda, &self.cache, specialization)
    }

    pub(crate) fn opener(&self) -> Arc<gapura_engine::OpenDevice> {
        let (is_cuda, cache) = (self.is_cuda, self.cache.clone());
        Arc::new(move |specialization| open(is_cuda, &cache, specialization))
    }

    /// An engine with random weights.
    pub(crate) fn engine(&self, options: DeviceOptions, prefix_cache: bool) -> Outcome<Engine> {
        let device = self.open(self.specialization(&options)?)?;
        let runner = DeviceRunner::random(&self.checkpoint, options, device, SEED)?;
        let config = EngineConfig {
            max_num_seqs: options.max_num_seqs,
            max_batched_tokens: options.max_batched_tokens,
            max_slowdown: f32::INFINITY,
            max_queued: 1024,
            kv_bytes: runner.kv_bytes()?,
            context_length: options.context_length,
            prefix_cache,
        };
        Ok(Engine::start(Box::new(runner), config)?)
    }

    /// The smaller one where the model is.
    pub(crate) fn sized(&self, full: usize, tiny: usize) -> usize {
        if self.is_full_size { full } else { tiny }
    }

    pub(crate) fn report(&self, part: &str, result: &Value) {
        #[expect(clippy::print_stdout, reason = "the result of the program")]
        {
            println!("{}", json!({ "part": part, "result": result }));
        }
    }
}

fn open(
    is_cuda: bool,
    cache: &KernelCache,
    specialization: Specialization,
) -> Result<Box<dyn Device>, DeviceError> {
    Ok(match is_cuda {
        true => Box::new(CudaDevice::open(0, specialization, cache)?),
        false => Box::new(HostDevice::interpreter(specialization, INTERPRETER_BYTES)?),
    })
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let (mut is_cuda, mut is_full_size) = (true, true);
    let mut cache = PathBuf::from("kernels");
    let (mut written, mut random) = (None, None);
    let mut parts = Vec::new();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--device" => is_cuda = value()? == "cuda",
            "--model" => is_full_size = value()? == "9b",
            "--cache" => cache = PathBuf::from(value()?),
            "--write-model" => written = Some(PathBuf::from(value()?)),
            "--random" => random = Some(value()?.parse()?),
            _ => parts.push(arg),
        }
    }
    if let Some(folder) = written {
        std::fs::create_dir_all(&folder)?;
        return synthetic::write(&folder, is_full_size, random);
    }
    let (folder, checkpoint) = synthetic::checkpoint(is_full_size)?;
    let mut bench = Bench {
        is_cuda,
        cache: KernelCache::new(cache),
        checkpoint,
        folder,
        is_full_size,
        read_bandwidth: None,
        matrix_rate: None,
    };
    // The denominators first.
    probes::measure(&mut bench)?;
    for part in parts {
        match part.as_str() {
            "probes" => {}
            "load" => engine_parts::load(&bench)?,
            "decode" => engine_parts::decode(&bench)?,
            "batch" => engine_parts::batch(&bench)?,
            "prefill" => engine_parts::prefill(&bench)?,
            "prefix" => engine_parts::prefix(&bench)?,
            "arrival" => engine_parts::arrival(&bench)?,
            "sampling" => engine_parts::sampling(&bench)?,
            "switches" => engine_parts::switches(&bench)?,
            other => return Err(format!("there is no part `{other}`").into()),
        }
    }
    Ok(())
}
