//! From what the configuration calls a model to one that answers: find or fetch its files,
//! check that it fits, load it, start the engine.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use gapura_engine::{
    CpuOptions, CpuRunner, DeviceOptions, DeviceRunner, Engine, EngineConfig, LoadError,
    ModelRunner, Quantization, RunnerFactory, Tokenizer,
    device::{CudaDevice, DeviceError, KernelCache, Precision},
    hub::{self, ModelLocation, PullOptions, PullProgress},
    sim::{SimLatency, SimRunner, sim_tokenizer},
};
use tracing::info;

use crate::{
    config::{Config, Device, Dtype, ModelConfig, Quantize, Secret},
    progress::Progress,
    state::LoadedModel,
};

/// The source that needs no weights: a scripted model that repeats what it was told.
pub const SIM: &str = "sim";

/// Tokens of one step where the configuration says nothing: on a CPU few, so that running streams
/// go on; a GPU reads a prompt's weights once for all of a step's tokens.
const CPU_STEP_TOKENS: usize = 256;
const GPU_STEP_TOKENS: usize = 2048;

/// A model that has been loaded, and what its engine is to be told.
struct Ready {
    runner: Box<dyn ModelRunner>,
    factory: RunnerFactory,
    tokenizer: Tokenizer,
    /// For keys and values, where the configuration says nothing.
    kv_bytes: u64,
    step_tokens: usize,
}

/// Loads what `config` names and starts its engine. Takes as long as fetching and
/// reading its files takes.
///
/// # Errors
/// One that says what is wrong with the source, its files, or the machine.
pub fn load(config: &Config) -> anyhow::Result<LoadedModel> {
    let ready = ready(config)?;
    let engine = EngineConfig {
        max_num_seqs: config.engine.max_num_seqs.get(),
        max_batched_tokens: ready.step_tokens,
        max_slowdown: config.engine.max_slowdown,
        max_queued: config.engine.max_queued.get(),
        kv_bytes: config.model.kv_memory_bytes.unwrap_or(ready.kv_bytes),
        context_length: config.model.context_length.map(NonZeroUsize::get),
        prefix_cache: config.engine.prefix_cache,
    };
    let engine = Engine::start_supervised(ready.runner, ready.factory, engine)
        .context("cannot start the engine")?;
    Ok(LoadedModel::new(engine, ready.tokenizer))
}

fn ready(config: &Config) -> anyhow::Result<Ready> {
    let source = config
        .model
        .source
        .as_deref()
        .context("no model is named")?;
    if source == SIM {
        return Ok(simulated(config));
    }
    let path = locate(source, &config.model)?;
    match config.model.device {
        Device::Cpu => on_cpu(config, &path),
        Device::Cuda => on_gpu(config, &path).map_err(Into::into),
        Device::Auto => match on_gpu(config, &path) {
            Err(reason) if is_for_the_cpu(&reason) => {
                info!(%reason, "the model runs on the CPU");
                on_cpu(config, &path)
            }
            ready => ready.map_err(Into::into),
        },
    }
}

/// Whether there is no GPU, or none that has kernels for the model; rather than one that fails, or
/// is too small, which the operator should know.
fn is_for_the_cpu(error: &LoadError) -> bool {
    match error {
        LoadError::Device(error) => {
            error.is_absence() || matches!(error, DeviceError::Launch { .. })
        }
        LoadError::UnsupportedFeature { .. } => true,
        _ => false,
    }
}

fn step_tokens(config: &Config, default: usize) -> usize {
    config
        .engine
        .max_step_tokens
        .map_or(default, NonZeroUsize::get)
}

fn simulated(config: &Config) -> Ready {
    let latency = SimLatency {
        per_decode_step: config.engine.sim_step,
        ..SimLatency::default()
    };
    let runner = move || Box::new(SimRunner::default().with_latency(latency));
    Ready {
        runner: runner(),
        factory: Box::new(move || Ok(runner())),
        tokenizer: sim_tokenizer(),
        kv_bytes: EngineConfig::default().kv_bytes,
        step_tokens: step_tokens(config, CPU_STEP_TOKENS),
    }
}

fn quantization(config: &Config) -> Quantization {
    match config.model.quantize {
        Quantize::None => Quantization::None,
        Quantize::EightBit => Quantization::EightBit,
        Quantize::FourBit => Quantization::FourBit,
    }
}

fn on_cpu(config: &Config, path: &Path) -> anyhow::Result<Ready> {
    let options = CpuOptions {
        threads: config.model.threads.map(NonZeroUsize::get),
        quantize: quantization(config),
    };
    let mut quantizing: Option<Progress> = None;
    let mut show = |done, total| {
        let progress = quantizing.get_or_insert_with(|| Progress::new("quantizing the weights"));
        progress.update(done, total);
    };
    let model = CpuRunner::load_with_progress(path, options, &mut show)?;
    if let Some(progress) = quantizing {
        progress.finish();
    }
    Ok(Ready {
        runner: Box::new(model.runner),
        factory: model.factory,
        tokenizer: model.tokenizer,
        kv_bytes: EngineConfig::default().kv_bytes,
        step_tokens: step_tokens(config, CPU_STEP_TOKENS),
    })
}

fn on_gpu(config: &Config, path: &Path) -> Result<Ready, LoadError> {
    let step_tokens = step_tokens(config, GPU_STEP_TOKENS);
    let options = DeviceOptions {
        precision: match config.model.dtype {
            Dtype::Float32 => Precision::F32,
            Dtype::Auto | Dtype::Bfloat16 | Dtype::Float16 => Precision::Bf16,
        },
        quantize: quantization(config),
        fused_attention: config.cuda.flash_attention,
        graphs: config.cuda.graphs,
        allow_tf32: config.cuda.tf32,
        max_num_seqs: config.engine.max_num_seqs.get(),
        max_batched_tokens: step_tokens,
        context_length: config.model.context_length.map(NonZeroUsize::get),
        kv_bytes: config.model.kv_memory_bytes,
    };
    let ordinal = config.cuda.device;
    let cache = KernelCache::new(config.cuda.cache_dir.clone());
    let open =
        move |specialization| -> Result<Box<dyn gapura_engine::device::Device>, DeviceError> {
            Ok(Box::new(CudaDevice::open(ordinal, specialization, &cache)?))
        };
    let mut loading: Option<Progress> = None;
    let mut show = |done, total| {
        let progress = loading.get_or_insert_with(|| Progress::new("loading the weights"));
        progress.update(done, total);
    };
    let model = DeviceRunner::load(path, options, Arc::new(open), &mut show)?;
    if let Some(progress) = loading {
        progress.finish();
    }
    Ok(Ready {
        kv_bytes: model.runner.kv_bytes()?,
        runner: Box::new(model.runner),
        factory: model.factory,
        tokenizer: model.tokenizer,
        step_tokens,
    })
}

/// Where the model `source` lies on this machine, once it has been fetched if need be.
///
/// # Errors
/// A name that is neither a path nor of the hub's form, and everything that can befall a
/// transfer.
pub fn locate(source: &str, config: &ModelConfig) -> anyhow::Result<PathBuf> {
    let ModelLocation::Hub(_) = hub::resolve(source)? else {
        return Ok(PathBuf::from(source));
    };
    let mut current: Option<(String, Progress)> = None;
    let mut show = |piece: PullProgress<'_>| {
        let is_same = current.as_ref().is_some_and(|(file, _)| file == piece.file);
        if !is_same
            && let Some((_, done)) =
                current.replace((piece.file.to_owned(), Progress::new(piece.file)))
        {
            done.finish();
        }
        if let Some((_, progress)) = &mut current {
            progress.update(piece.done_bytes, piece.total_bytes);
        }
    };
    let path = hub::pull(
        source,
        PullOptions {
            revision: Some(config.revision.clone()),
            token: config
                .hub_token
                .as_ref()
                .map(|token| Secret::expose(token).to_owned()),
            endpoint: config.hub.clone(),
            cache_dir: Some(config.cache_dir.clone()),
            progress: &mut show,
        },
    )?;
    if let Some((_, progress)) = current {
        progress.finish();
    }
    Ok(path)
}
