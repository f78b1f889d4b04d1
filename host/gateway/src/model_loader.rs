//! From what the configuration calls a model to one that answers: find its files, check that
//! it fits, load it, start the engine.

use std::{num::NonZeroUsize, path::Path};

use anyhow::{Context as _, bail};
use gapura_engine::{
    CpuModel, CpuOptions, CpuRunner, Engine, EngineConfig, ModelRunner, Tokenizer,
    sim::{SimLatency, SimRunner, sim_tokenizer},
};

use crate::{
    config::{Config, Device},
    state::LoadedModel,
};

/// The source that needs no weights: a scripted model that repeats what it was told.
pub const SIM: &str = "sim";

/// Loads what `config` names and starts its engine. Takes as long as reading the files takes.
///
/// # Errors
/// One that says what is wrong with the source, its files, or the machine.
pub fn load(config: &Config) -> anyhow::Result<LoadedModel> {
    let (runner, tokenizer) = runner(config)?;
    let defaults = EngineConfig::default();
    let engine = EngineConfig {
        max_num_seqs: config.engine.max_num_seqs.get(),
        max_batched_tokens: config.engine.max_step_tokens.get(),
        max_queued: config.engine.max_queued.get(),
        kv_bytes: config.model.kv_memory_bytes.unwrap_or(defaults.kv_bytes),
        context_length: config.model.context_length.map(NonZeroUsize::get),
    };
    let engine = Engine::start(runner, engine).context("cannot start the engine")?;
    Ok(LoadedModel { engine, tokenizer })
}

fn runner(config: &Config) -> anyhow::Result<(Box<dyn ModelRunner>, Tokenizer)> {
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
        let runner = SimRunner::default().with_latency(latency);
        return Ok((Box::new(runner), sim_tokenizer()));
    }
    if config.model.device == Device::Cuda {
        bail!(
            "device `cuda` is not there yet: this version runs models on the CPU; \
             say `--device cpu` or `auto`"
        );
    }
    let options = CpuOptions {
        threads: config.model.threads.map(NonZeroUsize::get),
    };
    let CpuModel {
        runner, tokenizer, ..
    } = CpuRunner::load(Path::new(source), options)?;
    Ok((Box::new(runner), tokenizer))
}
