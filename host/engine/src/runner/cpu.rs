//! [`CpuRunner`]: runs a model on the processor, with its weights where the file has them.

mod cores;

use std::{collections::VecDeque, path::Path};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{
    Batch, KvPlan, ModelInfo, ModelRunner, RowOutput, RunnerError, RunnerFactory, StepOutput,
};
use crate::{
    checkpoint::Checkpoint,
    error::LoadError,
    layers::{Decoder, KvCache, Step, StepLimits, Workspace},
    memory, models,
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
}

/// A model that is ready to serve: what [`CpuRunner::load`] gives.
pub struct CpuModel {
    /// For [`Engine::start`](crate::Engine::start). Its [`ModelInfo`] has id and architecture.
    pub runner: CpuRunner,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// The model's own chat template (Jinja), where the files have one.
    pub chat_template: Option<String>,
    /// Makes the runner again over the same map of the files, for
    /// [`Engine::start_supervised`](crate::Engine::start_supervised).
    pub factory: RunnerFactory,
}

/// A decoder on the CPU. Linear layers see the tokens of the whole batch at once, so that
/// sequences that decode together share every read of the weights; attention takes each sequence
/// by itself. A token's result does not depend on what else the batch holds, bit for bit.
pub struct CpuRunner {
    info: ModelInfo,
    decoder: Decoder,
    limits: StepLimits,
    pool: ThreadPool,
    kv: KvCache,
    step: Step,
    workspace: Workspace,
    finished: VecDeque<StepOutput>,
}

impl CpuRunner {
    /// Opens a model by its path (a `.gguf` file, or a folder in the hub's layout) and builds
    /// everything but the KV cache.
    ///
    /// # Errors
    /// [`LoadError`], for files that are missing, broken or not supported, and
    /// [`LoadError::NotEnoughMemory`] before anything large is touched.
    pub fn load(path: &Path, options: CpuOptions) -> Result<CpuModel, LoadError> {
        let checkpoint = Checkpoint::open(path)?;
        let runner = Self::new(&checkpoint, options)?;
        let tokenizer = checkpoint.tokenizer()?;
        gapura_kernels::release_unused();
        Ok(CpuModel {
            runner,
            tokenizer,
            chat_template: checkpoint.chat_template().map(str::to_owned),
            factory: Box::new(move || {
                let runner = Self::new(&checkpoint, options).map_err(runner_error)?;
                Ok(Box::new(runner))
            }),
        })
    }

    /// A runner over a checkpoint that is open already.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn new(checkpoint: &Checkpoint, options: CpuOptions) -> Result<Self, LoadError> {
        memory::check(checkpoint.weight_bytes(), WEIGHTS_ADVICE)?;
        let config = checkpoint.config();
        let decoder = models::load(checkpoint)?;
        let info = ModelInfo {
            id: checkpoint.model_id().to_owned(),
            architecture: config.architecture.name().to_owned(),
            vocab_size: config.vocab_size,
            context_length: config.max_position_embeddings,
            eos_token_ids: config.eos_token_ids.clone(),
            bos_token_id: config.bos_token_id,
            kv: decoder.kv_layout(config),
            weight_bytes: checkpoint.weight_bytes(),
            device: "cpu".to_owned(),
        };
        let threads = options.threads.unwrap_or_else(cores::physical).max(1);
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("gapura-cpu-{i}"))
            .build()
            .map_err(|error| LoadError::Threads {
                threads,
                reason: error.to_string(),
            })?;
        Ok(Self {
            limits: StepLimits {
                vocab_size: info.vocab_size,
                context_length: info.context_length,
                plan: KvPlan::default(),
                has_full_layers: info.kv.full_block_bytes > 0,
                window: (info.kv.windowed_block_bytes > 0).then_some(info.kv.window_tokens),
            },
            info,
            decoder,
            pool,
            kv: KvCache::default(),
            step: Step::default(),
            workspace: Workspace::new(config),
            finished: VecDeque::new(),
        })
    }
}

impl ModelRunner for CpuRunner {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn allocate_kv(&mut self, plan: KvPlan) -> Result<(), RunnerError> {
        // The pages of the mapped weights have to stay in memory beside it.
        let required_bytes = self.info.weight_bytes + plan.bytes(&self.info.kv);
        memory::check(required_bytes, KV_ADVICE).map_err(runner_error)?;
        self.kv = KvCache::new(&self.decoder, plan).map_err(runner_error)?;
        self.limits.plan = plan;
        Ok(())
    }

    /// Computes the step before it returns: the caller's thread has nothing better to do.
    fn submit(&mut self, batch: &Batch) -> Result<(), RunnerError> {
        let Self {
            decoder,
            pool,
            kv,
            step,
            workspace,
            ..
        } = self;
        step.fill(batch, &self.limits).map_err(runner_error)?;
        let logits = match step.num_tokens() {
            0 => Vec::new(),
            _ => pool
                .install(|| decoder.forward(step, kv, workspace))
                .map_err(runner_error)?,
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
            .ok_or_else(|| runner_error("no step was submitted"))
    }
}

fn runner_error(error: impl std::fmt::Display) -> RunnerError {
    RunnerError {
        message: error.to_string(),
    }
}
