//! [`DeviceRunner`]: runs a model on a [`Device`]. Everything that is planned here, from the
//! weights' places to a recorded step, is the same for a GPU and for the two devices in this
//! machine's memory that stand in for one.

mod buffers;
mod forward;
mod inputs;
mod linear;
mod load;
mod options;
mod outputs;
mod sampling;
mod weights;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::Path,
    sync::Arc,
};

use gapura_kernels::device::{Device, DeviceError, Op, Precision, Recording, Specialization};
use tracing::{info, warn};

pub use options::DeviceOptions;

use self::{
    buffers::{Buffers, MAX_SPLITS, StepSizes},
    forward::{KvPages, Program, Shape},
    inputs::{DeviceStep, Inputs},
    load::Values,
    outputs::Pending,
    weights::{DeviceModel, WeightPlan},
};
use super::{
    BLOCK_TOKENS, Batch, KvLayout, KvPlan, ModelInfo, ModelRunner, Reach, RunnerError,
    RunnerFactory, SamplingInput, StepOutput,
};
use crate::{
    checkpoint::Checkpoint,
    error::LoadError,
    grammar::TokenMask,
    layers::{KvGroup, StepLimits},
    model_config::ModelConfig,
    models,
    tokenizer::Tokenizer,
};

/// Rows of a recorded step: exact for few, then powers of two, and the most there can be.
const BUCKETS: [usize; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 256];

/// Tokens of one sequence that the KV cache must hold at least for a model to be of use.
const LEAST_CONTEXT: usize = 2048;

/// Opens the device, again after it failed.
pub type OpenDevice = dyn Fn(Specialization) -> Result<Box<dyn Device>, DeviceError> + Send + Sync;

/// A model that is ready to serve on a device: what [`DeviceRunner::load`] gives.
pub struct LoadedDevice {
    /// For [`Engine::start`](crate::Engine::start).
    pub runner: DeviceRunner,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// The model's own chat template (Jinja), where the files have one.
    pub chat_template: Option<String>,
    /// Opens the device and loads the model again, for
    /// [`Engine::start_supervised`](crate::Engine::start_supervised).
    pub factory: RunnerFactory,
}

/// A decoder on a device. Its memory is planned when it is loaded and taken once.
pub struct DeviceRunner {
    device: Box<dyn Device>,
    options: DeviceOptions,
    info: ModelInfo,
    model: DeviceModel,
    buffers: Buffers,
    sizes: StepSizes,
    limits: StepLimits,
    pages: Vec<KvPages>,
    /// By their rows.
    recordings: BTreeMap<usize, Recording>,
    /// By sequence of the batch submitted last: the row in which its token was drawn.
    drawn: Vec<Option<usize>>,
    pending: VecDeque<Pending>,
    /// Its rows wait to be told what may be drawn.
    unmasked: Option<Begun>,
}

/// A step whose logits are under way.
struct Begun {
    step: DeviceStep,
    inputs: Inputs,
}

impl DeviceRunner {
    /// What kernels a model needs.
    ///
    /// # Errors
    /// [`LoadError::Device`] where there are none for its heads.
    pub fn specialization(
        config: &ModelConfig,
        precision: Precision,
    ) -> Result<Specialization, LoadError> {
        let specialization = Specialization {
            precision,
            head_dim: config.head_dim as u32,
            group: (config.num_attention_heads / config.num_key_value_heads) as u32,
        };
        specialization.check()?;
        Ok(specialization)
    }

    /// Opens a model by its path and loads it to the device that `open` gives; `progress` gets
    /// the bytes of the files that are done, and all of them.
    ///
    /// # Errors
    /// [`LoadError`]: as [`Checkpoint::open`]; [`LoadError::NotEnoughDeviceMemory`] before anything
    /// is loaded, [`LoadError::NotFinite`], [`LoadError::Device`].
    pub fn load(
        path: &Path,
        options: DeviceOptions,
        open: Arc<OpenDevice>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<LoadedDevice, LoadError> {
        let checkpoint = Arc::new(Checkpoint::open(path)?);
        let specialization = Self::specialization(checkpoint.config(), options.precision)?;
        let runner = Self::new(&checkpoint, options, open(specialization)?, progress)?;
        let tokenizer = checkpoint.tokenizer()?;
        Ok(LoadedDevice {
            runner,
            tokenizer,
            chat_template: checkpoint.chat_template().map(str::to_owned),
            factory: Box::new(move || {
                let device = open(specialization).map_err(RunnerError::new)?;
                let runner = Self::new(&checkpoint, options, device, &mut |_, _| {});
                Ok(Box::new(runner.map_err(RunnerError::new)?))
            }),
        })
    }

    /// Loads a checkpoint that is open already.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn new(
        checkpoint: &Checkpoint,
        options: DeviceOptions,
        device: Box<dyn Device>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, LoadError> {
        Self::with_values(checkpoint, options, device, Values::Files, progress)
    }

    /// A model of the checkpoint's shape, its matrices filled with random numbers on the device:
    /// for measurements. Nothing but norms is read of the files.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn random(
        checkpoint: &Checkpoint,
        options: DeviceOptions,
        device: Box<dyn Device>,
        seed: u64,
    ) -> Result<Self, LoadError> {
        Self::with_values(
            checkpoint,
            options,
            device,
            Values::Random { seed },
            &mut |_, _| {},
        )
    }

    fn with_values(
        checkpoint: &Checkpoint,
        options: DeviceOptions,
        mut device: Box<dyn Device>,
        values: Values,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, LoadError> {
        options.quantize.plan(checkpoint)?;
        let config = checkpoint.config();
        let context_length = options
            .context_length
            .map_or(config.max_position_embeddings, |limit| {
                limit.min(config.max_position_embeddings)
            });
        let decoder = models::load(checkpoint)?;
        let mut plan = WeightPlan::new(&decoder, config, &options);
        let mut model = plan.lay_out();
        model.check(checkpoint)?;
        let sizes = StepSizes::new(&options, context_length);
        let (buffers, workspace_bytes) = Buffers::lay_out(&model, &sizes, &options, context_length);
        let kv = kv_layout(&model, config, options.precision);
        let weight_bytes = plan.bytes();
        check_memory(
            &*device,
            weight_bytes,
            workspace_bytes,
            &kv,
            context_length,
            options.kv_bytes,
        )?;
        plan.load(&mut model, &mut *device, values, progress)?;
        let buffers = buffers.at(device.allocate(workspace_bytes)?);
        let info = ModelInfo {
            id: checkpoint.model_id().to_owned(),
            architecture: config.architecture.name().to_owned(),
            vocab_size: config.vocab_size,
            context_length,
            eos_token_ids: config.eos_token_ids.clone(),
            bos_token_id: config.bos_token_id,
            kv,
            weight_bytes,
            device: device.properties().name.clone(),
        };
        info!(
            device = info.device,
            weight_bytes, workspace_bytes, "loaded to the device"
        );
        Ok(Self {
            limits: StepLimits {
                vocab_size: info.vocab_size,
                context_length,
                plan: KvPlan::default(),
                has_full_layers: kv.full_block_bytes > 0,
                window: (kv.windowed_block_bytes > 0).then_some(kv.window_tokens),
            },
            device,
            options,
            info,
            model,
            buffers,
            sizes,
            pages: Vec::new(),
            recordings: BTreeMap::new(),
            drawn: Vec::new(),
            pending: VecDeque::new(),
            unmasked: None,
        })
    }

    /// Bytes that the KV cache may take: what is free now but for a reserve.
    ///
    /// # Errors
    /// [`LoadError::Device`].
    pub fn kv_bytes(&self) -> Result<u64, LoadError> {
        let free = self.device.free_bytes()?;
        Ok(free.saturating_sub(reserve(free)))
    }

    fn program<'a>(&'a self, inputs: &'a Inputs) -> Program<'a> {
        Program {
            model: &self.model,
            buffers: &self.buffers,
            inputs,
            pages: &self.pages,
            options: &self.options,
            table_stride: self.sizes.table,
            ops: Vec::new(),
        }
    }

    /// Splits of the keys that keep every multiprocessor busy twice over.
    fn splits(&self, num_decodes: usize) -> usize {
        let blocks = num_decodes.max(1) * self.model.sizes.kv_heads;
        let wanted = 2 * self.device.properties().num_multiprocessors as usize;
        (wanted / blocks).clamp(1, MAX_SPLITS)
    }

    fn ops(&self, step: &DeviceStep, inputs: &Inputs) -> Vec<Op> {
        let mut program = self.program(inputs);
        program.forward(&Shape {
            num_decodes: step.num_decodes,
            num_tokens: step.num_tokens(),
            num_outputs: step.num_outputs(),
            num_tiles: step.num_tiles(),
            prompts: &step.prompts,
            splits: self.splits(step.num_decodes),
        });
        program.ops
    }

    /// Records steps of all sizes; where the device has no room for more of them, larger ones are
    /// queued operation by operation.
    fn record_decodes(&mut self) -> Result<(), DeviceError> {
        let most = self.sizes.sequences;
        let sizes: BTreeSet<usize> = BUCKETS
            .into_iter()
            .filter(|rows| *rows < most)
            .chain([most])
            .collect();
        for rows in sizes {
            let mut step = DeviceStep::default();
            step.pad_decodes(rows, self.limits.plan, self.sizes.table);
            let inputs = Inputs::at(self.buffers.inputs, &step.counts(self.sizes.table));
            let ops = self.ops(&step, &inputs);
            match self.device.record(&ops) {
                Ok(recording) => self.recordings.insert(rows, recording),
                Err(error @ DeviceError::Refused { .. }) => {
                    warn!(%error, rows, "steps of so many rows are not recorded");
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    /// The smallest recorded step that holds one of decodes alone.
    fn bucket(&self, step: &DeviceStep) -> Option<(usize, Recording)> {
        let decodes = step.is_decode().then_some(step.num_decodes)?;
        let (rows, recording) = self.recordings.range(decodes..).next()?;
        Some((*rows, *recording))
    }

    /// Queues a step up to its logits.
    fn begin(&mut self, mut step: DeviceStep) -> Result<Begun, DeviceError> {
        let bucket = self.bucket(&step);
        if let Some((rows, _)) = bucket {
            step.pad_decodes(rows, self.limits.plan, self.sizes.table);
        }
        let counts = step.counts(self.sizes.table);
        let inputs = Inputs::at(self.buffers.inputs, &counts);
        self.device
            .write(self.buffers.inputs, &step.pack(&counts))?;
        match bucket {
            Some((_, recording)) => self.device.replay(recording)?,
            None => {
                let ops = self.ops(&step, &inputs);
                self.device.run(&ops)?;
            }
        }
        Ok(Begun { step, inputs })
    }

    /// Has a step's tokens drawn and what the host wants of it copied.
    fn end(&mut self, begun: Begun) -> Result<(), DeviceError> {
        self.sample(&begun)?;
        let pending = self.read_back(begun.step)?;
        self.pending.push_back(pending);
        Ok(())
    }
}

impl ModelRunner for DeviceRunner {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn allocate_kv(&mut self, plan: KvPlan) -> Result<(), RunnerError> {
        let layers = &self.model.layers;
        let half_block = self.model.half_block_bytes(self.options.precision);
        let bytes = |group: KvGroup| {
            let blocks = match group {
                KvGroup::Full => plan.num_full_blocks,
                KvGroup::Windowed => plan.num_windowed_blocks,
            };
            // One more than planned, for rows that pad a batch.
            half_block * (u64::from(blocks) + 1)
        };
        let total = layers.iter().map(|layer| 2 * bytes(layer.group)).sum();
        let region = self.device.allocate(total).map_err(RunnerError::new)?;
        let mut next = 0;
        self.pages.clear();
        for layer in layers {
            let bytes = bytes(layer.group);
            let mut take = || {
                let taken = region.slice(next, bytes);
                next += bytes;
                taken.address
            };
            let (k, v) = (take(), take());
            self.pages.push(KvPages { k, v });
        }
        self.limits.plan = plan;
        // No sequence has more blocks than there are.
        if self.info.kv.full_block_bytes > 0 {
            self.sizes.table = self.sizes.table.min(plan.num_full_blocks as usize);
        }
        if self.options.graphs {
            self.record_decodes().map_err(RunnerError::new)?;
        }
        Ok(())
    }

    fn submit(&mut self, batch: &Batch) -> Result<(), RunnerError> {
        let step = DeviceStep::new(batch, &self.limits, self.sizes.table, &self.drawn);
        let step = step.map_err(RunnerError::new)?;
        let begun = self.begin(step).map_err(device_error)?;
        if !begun.step.refers.masked.is_empty() {
            self.unmasked = Some(begun);
            return Ok(());
        }
        self.end(begun).map_err(device_error)
    }

    fn mask(&mut self, masks: &[Option<TokenMask>]) -> Result<(), RunnerError> {
        let Some(begun) = self.unmasked.take() else {
            return Err(RunnerError::new("no step waits for masks"));
        };
        let words = self.info.vocab_size.div_ceil(32);
        let masked = &begun.step.refers.masked;
        let mut bytes = Vec::with_capacity(4 * words * masked.len());
        for &sequence in masked {
            // Where there is no mask, nobody reads what is drawn.
            let mask = masks.get(sequence).and_then(Option::as_ref);
            let given = mask.map_or(&[][..], TokenMask::words);
            let beyond = if mask.is_some() { 0 } else { u32::MAX };
            let given = given.iter().copied().chain(std::iter::repeat(beyond));
            bytes.extend(given.take(words).flat_map(u32::to_le_bytes));
        }
        let masks = self.device.write(self.buffers.masks, &bytes);
        masks.and_then(|()| self.end(begun)).map_err(device_error)
    }

    fn draws(&self, input: &SamplingInput) -> bool {
        sampling::on_device(input)
    }

    fn collect(&mut self) -> Result<StepOutput, RunnerError> {
        let pending = self.pending.pop_front();
        let pending = pending.ok_or_else(|| RunnerError::new("no step was submitted"))?;
        self.finish(pending).map_err(device_error)
    }
}

fn kv_layout(model: &DeviceModel, config: &ModelConfig, precision: Precision) -> KvLayout {
    let mut layout = KvLayout {
        window_tokens: config.sliding_window.unwrap_or(0),
        ..KvLayout::default()
    };
    let bytes = 2 * model.half_block_bytes(precision);
    for layer in &model.layers {
        match layer.group {
            KvGroup::Full => layout.full_block_bytes += bytes,
            KvGroup::Windowed => layout.windowed_block_bytes += bytes,
        }
    }
    layout
}

/// What is left to the driver and its libraries: recorded steps, code that is loaded late.
fn reserve(free_bytes: u64) -> u64 {
    (free_bytes / 20).max(256 << 20)
}

/// Refuses, before anything is loaded, what would leave no room for the KV cache that is wanted, or
/// for a sequence of useful length.
fn check_memory(
    device: &dyn Device,
    weight_bytes: u64,
    workspace_bytes: u64,
    kv: &KvLayout,
    context_length: usize,
    wanted_kv_bytes: Option<u64>,
) -> Result<(), LoadError> {
    let blocks = context_length.min(LEAST_CONTEXT).div_ceil(BLOCK_TOKENS) as u64 + 1;
    let least_kv_bytes = blocks * (kv.full_block_bytes + kv.windowed_block_bytes);
    let kv_bytes = wanted_kv_bytes.unwrap_or(0).max(least_kv_bytes);
    let free_bytes = device.free_bytes()?;
    let required_bytes = weight_bytes + workspace_bytes + kv_bytes;
    let available_bytes = free_bytes.saturating_sub(reserve(free_bytes));
    if required_bytes <= available_bytes {
        return Ok(());
    }
    Err(LoadError::NotEnoughDeviceMemory {
        required_bytes,
        weight_bytes,
        workspace_bytes,
        kv_bytes,
        available_bytes,
    })
}

/// After a failed call of the driver nothing that is on the device can be relied on.
fn device_error(error: DeviceError) -> RunnerError {
    let reach = match error {
        DeviceError::Driver {
            is_sticky: true, ..
        } => Reach::Process,
        DeviceError::Driver { .. } => Reach::Runner,
        _ => Reach::Step,
    };
    RunnerError {
        message: error.to_string(),
        reach,
    }
}
