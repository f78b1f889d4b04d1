//! [`CpuRunner`]: runs a model on the processor, with its weights where the file has them or
//! quantized from there.

mod cores;

use std::{collections::VecDeque, path::Path, sync::Arc};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{
    Batch, KvPlan, ModelInfo, ModelRunner, RowOutput, RunnerError, RunnerFactory, StepOutput,
};
use crate::{
    checkpoint::Checkpoint,
    error::LoadError,
    layers::{Decoder, KvCache, Step, StepLimits, Workspace},
    memory,
    model_config::ModelConfig,
    models,
    quantization::Quantization,
    tokenizer::Tokenizer,
};

const WEIGHTS_ADVICE: &str = "choose a smaller or more strongly quantized model, or free memory";
const KV_ADVICE: &str = "lower the memory of the KV cache (--kv-memory-mib), or the context or the number of \
     sequences that it is for";

/// What an operator may turn on the CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that compute. `None`: one for each physical core that the process may use.
    pub threads: Option<usize>,
    /// What weights become while they are loaded. Default: nothing, they stay in their files.
    pub quantize: Quantization,
}

/// A model that is ready to serve: what [`CpuRunner::load`] gives.
pub struct CpuModel {
    /// For [`Engine::start`](crate::Engine::start). Its [`ModelInfo`] has id and architecture.
    pub runner: CpuRunner,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// The model's own chat template (Jinja), where the files have one.
    pub chat_template: Option<String>,
    /// Makes the runner again over the same weights, for
    /// [`Engine::start_supervised`](crate::Engine::start_supervised).
    pub factory: RunnerFactory,
}

/// A decoder on the CPU. Linear layers see the tokens of the whole batch at once, so that
/// sequences that decode together share every read of the weights; attention takes each sequence
/// by itself. A token's result does not depend on what else the batch holds, bit for bit.
pub struct CpuRunner {
    model: Arc<LoadedModel>,
    limits: StepLimits,
    pool: ThreadPool,
    kv: KvCache,
    step: Step,
    workspace: Workspace,
    finished: VecDeque<StepOutput>,
}

/// What stays the same for the life of the process: no step writes to it, so a runner that is made
/// again after a panic shares it.
struct LoadedModel {
    config: ModelConfig,
    decoder: Decoder,
    info: ModelInfo,
    /// Of `info.weight_bytes`, what lies in the files.
    mapped_bytes: u64,
}

impl LoadedModel {
    fn new(
        checkpoint: &Checkpoint,
        quantize: Quantization,
        pool: &ThreadPool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, LoadError> {
        let memory = quantize.plan(checkpoint)?;
        memory::check(memory.total(), WEIGHTS_ADVICE)?;
        let mut decoder = models::load(checkpoint)?;
        quantize.apply(&mut decoder, pool, progress)?;
        let config = checkpoint.config();
        let info = ModelInfo {
            id: checkpoint.model_id().to_owned(),
            architecture: config.architecture.name().to_owned(),
            vocab_size: config.vocab_size,
            context_length: config.max_position_embeddings,
            eos_token_ids: config.eos_token_ids.clone(),
            bos_token_id: config.bos_token_id,
            kv: decoder.kv_layout(config),
            weight_bytes: memory.total(),
            device: "cpu".to_owned(),
        };
        Ok(Self {
            config: config.clone(),
            decoder,
            info,
            mapped_bytes: memory.mapped_bytes,
        })
    }
}

impl CpuRunner {
    /// Opens a model by its path (a `.gguf` file, or a folder in the hub's layout) and builds
    /// everything but the KV cache.
    ///
    /// # Errors
    /// [`LoadError`], for files that are missing, broken or not supported, and
    /// [`LoadError::NotEnoughMemory`] before anything large is touched.
    pub fn load(path: &Path, options: CpuOptions) -> Result<CpuModel, LoadError> {
        Self::load_with_progress(path, options, &mut |_, _| {})
    }

    /// [`load`](Self::load), where `progress` is told after every matrix that was quantized how
    /// many bytes of the files are done and how many there are to do. Without quantization nothing
    /// takes long, and it is not called.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with_progress(
        path: &Path,
        options: CpuOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<CpuModel, LoadError> {
        let checkpoint = Checkpoint::open(path)?;
        let pool = thread_pool(options.threads)?;
        let model = LoadedModel::new(&checkpoint, options.quantize, &pool, progress)?;
        let model = Arc::new(model);
        let tokenizer = checkpoint.tokenizer()?;
        gapura_kernels::release_unused();
        Ok(CpuModel {
            runner: Self::over(model.clone(), pool),
            tokenizer,
            chat_template: checkpoint.chat_template().map(str::to_owned),
            factory: Box::new(move || {
                let pool = thread_pool(options.threads).map_err(RunnerError::new)?;
                Ok(Box::new(Self::over(model.clone(), pool)))
            }),
        })
    }

    /// A runner over a checkpoint that is open already.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn new(checkpoint: &Checkpoint, options: CpuOptions) -> Result<Self, LoadError> {
        let pool = thread_pool(options.threads)?;
        let model = LoadedModel::new(checkpoint, options.quantize, &pool, &mut |_, _| {})?;
        Ok(Self::over(Arc::new(model), pool))
    }

    fn over(model: Arc<LoadedModel>, pool: ThreadPool) -> Self {
        let info = &model.info;
        Self {
            limits: StepLimits {
                vocab_size: info.vocab_size,
                context_length: info.context_length,
                plan: KvPlan::default(),
                has_full_layers: info.kv.full_block_bytes > 0,
                window: (info.kv.windowed_block_bytes > 0).then_some(info.kv.window_tokens),
            },
            pool,
            kv: KvCache::default(),
            step: Step::default(),
            workspace: Workspace::new(&model.config),
            finished: VecDeque::new(),
            model,
        }
    }
}

fn thread_pool(threads: Option<usize>) -> Result<ThreadPool, LoadError> {
    let threads = threads.unwrap_or_else(cores::physical).max(1);
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("gapura-cpu-{i}"))
        .build()
        .map_err(|error| LoadError::Threads {
            threads,
            reason: error.to_string(),
        })
}

impl ModelRunner for CpuRunner {
    fn model(&self) -> &ModelInfo {
        &self.model.info
    }

    fn allocate_kv(&mut self, plan: KvPlan) -> Result<(), RunnerError> {
        // The pages of the mapped weights have to stay in memory beside it; those that were
        // quantized are taken from what is available already.
        let LoadedModel { decoder, info, .. } = &*self.model;
        let required_bytes = self.model.mapped_bytes + plan.bytes(&info.kv);
        memory::check(required_bytes, KV_ADVICE).map_err(RunnerError::new)?;
        self.kv = KvCache::new(decoder, plan).map_err(RunnerError::new)?;
        self.limits.plan = plan;
        Ok(())
    }

    /// Computes the step before it returns: the caller's thread has nothing better to do.
    fn submit(&mut self, batch: &Batch) -> Result<(), RunnerError> {
        let Self {
            model,
            pool,
            kv,
            step,
            workspace,
            ..
        } = self;
        step.fill(batch, &self.limits).map_err(RunnerError::new)?;
        let logits = match step.num_tokens() {
            0 => Vec::new(),
            _ => pool
                .install(|| model.decoder.forward(step, kv, workspace))
                .map_err(RunnerError::new)?,
        };
        let mut logits = logits.into_iter().map(RowOutput::Logits);
        let rows = step
            .sequences
            .iter()
            .map(|sequence| logits.by_ref().take(sequence.num_outputs).collect())
            .collect();
        self.finished.push_back(StepOutput { rows });
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput, RunnerError> {
        self.finished
            .pop_front()
            .ok_or_else(|| RunnerError::new("no step was submitted"))
    }
}
