//! From what the configuration calls a model to one that answers: find or fetch its files,
//! check that it fits, load it, start the engine.

use std::{num::NonZeroUsize, path::PathBuf};

use anyhow::{Context as _, bail};
use gapura_engine::{
    CpuModel, CpuOptions, CpuRunner, Engine, EngineConfig, ModelRunner, Quantization,
    RunnerFactory, Tokenizer,
    hub::{self, ModelLocation, PullOptions, PullProgress},
    sim::{SimLatency, SimRunner, sim_tokenizer},
};

use crate::{
    config::{Config, Device, ModelConfig, Quantize, Secret},
    progress::Progress,
    state::LoadedModel,
};

/// The source that needs no weights: a scripted model that repeats what it was told.
pub const SIM: &str = "sim";

/// Loads what `config` names and starts its engine. Takes as long as fetching and
/// reading its files takes.
///
/// # Errors
/// One that says what is wrong with the source, its files, or the machine.
pub fn load(config: &Config) -> anyhow::Result<LoadedModel> {
    let (runner, factory, tokenizer) = runner(config)?;
    let defaults = EngineConfig::default();
    let engine = EngineConfig {
        max_num_seqs: config.engine.max_num_seqs.get(),
        max_batched_tokens: config.engine.max_step_tokens.get(),
        max_slowdown: config.engine.max_slowdown,
        max_queued: config.engine.max_queued.get(),
        kv_bytes: config.model.kv_memory_bytes.unwrap_or(defaults.kv_bytes),
        context_length: config.model.context_length.map(NonZeroUsize::get),
        prefix_cache: config.engine.prefix_cache,
    };
    let engine =
        Engine::start_supervised(runner, factory, engine).context("cannot start the engine")?;
    Ok(LoadedModel::new(engine, tokenizer))
}

fn runner(config: &Config) -> anyhow::Result<(Box<dyn ModelRunner>, RunnerFactory, Tokenizer)> {
    let source = config
        .model
        .source
        .as_deref()
        .context("no model is named")?;
    if source == SIM {
        let latency = SimLatency {
            per_decode_step: config.engine.sim_step,
            ..SimLatency::default()
        };
        let runner = move || Box::new(SimRunner::default().with_latency(latency));
        return Ok((runner(), Box::new(move || Ok(runner())), sim_tokenizer()));
    }
    if config.model.device == Device::Cuda {
        bail!(
            "device `cuda` is not there yet: this version runs models on the CPU; \
             say `--device cpu` or `auto`"
        );
    }
    let options = CpuOptions {
        threads: config.model.threads.map(NonZeroUsize::get),
        quantize: match config.model.quantize {
            Quantize::None => Quantization::None,
            Quantize::EightBit => Quantization::EightBit,
            Quantize::FourBit => Quantization::FourBit,
        },
    };
    let mut quantizing: Option<Progress> = None;
    let mut show = |done, total| {
        let progress = quantizing.get_or_insert_with(|| Progress::new("quantizing the weights"));
        progress.update(done, total);
    };
    let CpuModel {
        runner,
        tokenizer,
        factory,
        ..
    } = CpuRunner::load_with_progress(&locate(source, &config.model)?, options, &mut show)?;
    if let Some(progress) = quantizing {
        progress.finish();
    }
    Ok((Box::new(runner), factory, tokenizer))
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
