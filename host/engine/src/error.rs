//! Everything that can go wrong in the engine, as far as a caller would act differently.

use std::path::PathBuf;

use gapura_kernels::{KernelError, WeightType};
use thiserror::Error;

use crate::runner::RunnerError;

/// A request that cannot be served, or not to its end.
#[derive(Debug, Clone, Error)]
pub enum EngineError {
    /// The prompt has no token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room in the context.
    #[error("{num_tokens} prompt tokens do not fit a context of {context_length}")]
    PromptTooLong {
        /// Tokens of the prompt.
        num_tokens: usize,
        /// Most tokens of prompt and answer together.
        context_length: usize,
    },
    /// A token id that the vocabulary does not have.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Entries of the vocabulary.
        vocab_size: usize,
    },
    /// A parameter outside its range.
    #[error("{name} is {value}, allowed is {allowed}")]
    InvalidParameter {
        /// The field's name, as in [`GenerateRequest`](crate::GenerateRequest) or
        /// [`SamplingParams`](crate::SamplingParams).
        name: &'static str,
        /// The value.
        value: String,
        /// The range.
        allowed: &'static str,
    },
    /// The queue is full.
    #[error("{max_queued} requests are waiting already")]
    Overloaded {
        /// The queue's bound.
        max_queued: usize,
    },
    /// The time by which the request was to be answered has passed.
    #[error("the request's deadline has passed after {generated_tokens} generated tokens")]
    DeadlineExceeded {
        /// Tokens that were generated until then.
        generated_tokens: usize,
    },
    /// The engine takes no new requests.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The request's grammar met one of its limits in the middle of the answer.
    #[error("the grammar cannot go on: {reason}")]
    Grammar {
        /// Which, for the client.
        reason: String,
    },
    /// The device or a step failed.
    #[error("the model could not run a step: {message}")]
    Step {
        /// For the log; clients do not see it.
        message: String,
    },
}

/// An engine that cannot start over a loaded model.
#[derive(Debug, Error)]
pub enum StartError {
    /// The KV budget does not hold even one block of each group.
    #[error(
        "a KV budget of {budget_bytes} bytes is too small; at least {required_bytes} are needed"
    )]
    KvBudget {
        /// The configured budget.
        budget_bytes: u64,
        /// The least that would do.
        required_bytes: u64,
    },
    /// A limit of the configuration is zero.
    #[error("{name} must be at least 1")]
    ZeroLimit {
        /// The field's name, as in `EngineConfig`.
        name: &'static str,
    },
    /// A slowdown below none at all.
    #[error("max_slowdown is {0}, it must be at least 1")]
    Slowdown(f32),
    /// The device has not the memory that was planned.
    #[error("cannot allocate the KV cache: {0}")]
    Allocate(#[from] RunnerError),
    /// The operating system gives no thread.
    #[error("cannot start the engine thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// A model that cannot be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is there but is not what it should be.
    #[error("{} is not a valid {expected}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format: `GGUF file`, `config.json`, `safetensors file`, `tokenizer.json`.
        expected: &'static str,
        /// What is wrong with it, with the offending name.
        reason: String,
    },
    /// A file that the model needs is missing.
    #[error("{} has no {file}", dir.display())]
    MissingFile {
        /// The model's folder.
        dir: PathBuf,
        /// The file's name.
        file: String,
    },
    /// A model of a kind that is not supported.
    #[error("architecture `{architecture}` is not supported; supported are {supported}")]
    UnsupportedArchitecture {
        /// As the file names it.
        architecture: String,
        /// The names that would do.
        supported: &'static str,
    },
    /// Weights of a kind that is not supported.
    #[error("tensor `{tensor}` has the unsupported type {dtype}; supported are {supported}")]
    UnsupportedDtype {
        /// The first such tensor.
        tensor: String,
        /// Its type.
        dtype: String,
        /// The types that would do.
        supported: &'static str,
    },
    /// A tensor is missing.
    #[error("tensor `{tensor}` is missing")]
    MissingTensor {
        /// Its name.
        tensor: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{tensor}` has shape {found:?}, expected {expected:?}")]
    WrongShape {
        /// Its name.
        tensor: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// Weights were to be quantized while they load, and are quantized in the file.
    #[error(
        "{} is quantized already (`{tensor}` is {weight_type}) and cannot be quantized while it \
         loads: serve it as it is (`--quantize none`), or take the model's files in F32, F16 or \
         BF16", path.display()
    )]
    AlreadyQuantized {
        /// The file or folder.
        path: PathBuf,
        /// The first such tensor by name.
        tensor: String,
        /// Its type.
        weight_type: WeightType,
    },
    /// A tensor has a value that no block of the wanted format holds.
    #[error("tensor `{tensor}` cannot be quantized: {reason}")]
    Unquantizable {
        /// Its name.
        tensor: String,
        /// The row and the type.
        #[source]
        reason: KernelError,
    },
    /// A tensor holds a value that is infinite or not a number.
    #[error("tensor `{tensor}` has values that are infinite or not a number: the file is damaged")]
    NotFinite {
        /// The first such tensor.
        tensor: String,
    },
    /// The device refused or failed.
    #[error(transparent)]
    Device(#[from] gapura_kernels::device::DeviceError),
    /// The device has not the memory that the model needs.
    #[error(
        "the model needs {required_bytes} bytes of device memory ({weight_bytes} for its weights, \
         {workspace_bytes} to compute in, {kv_bytes} for one sequence's keys and values), \
         {available_bytes} are free: quantize it (`--quantize 8bit` or `4bit`), or lower \
         `context_length`, `max_num_seqs` or `max_step_tokens`"
    )]
    NotEnoughDeviceMemory {
        /// All of the following.
        required_bytes: u64,
        /// As they will lie on the device.
        weight_bytes: u64,
        /// Activations and logits of the largest step.
        workspace_bytes: u64,
        /// Of one sequence of the least useful length.
        kv_bytes: u64,
        /// What the device has free.
        available_bytes: u64,
    },
    /// The machine has not the memory that the model needs.
    #[error(
        "the model needs {required_bytes} bytes of memory, {available_bytes} are available; {advice}"
    )]
    NotEnoughMemory {
        /// Weights and KV cache.
        required_bytes: u64,
        /// What the machine has free.
        available_bytes: u64,
        /// What the operator can change.
        advice: &'static str,
    },
    /// The operating system gives no threads to compute with.
    #[error("cannot start {threads} threads to compute with: {reason}")]
    Threads {
        /// How many were wanted.
        threads: usize,
        /// Why not.
        reason: String,
    },
    /// The files ask for something that is not built, such as another quantization or scaling.
    #[error("{} asks for {feature}, which is not supported; supported: {supported}", path.display())]
    UnsupportedFeature {
        /// The file that asks.
        path: PathBuf,
        /// The field and its value.
        feature: String,
        /// What would do.
        supported: &'static str,
    },
    /// A name that is neither a file, a folder nor a model on the hub.
    #[error("`{spec}` names no model: {reason}")]
    InvalidModelSpec {
        /// As the operator gave it.
        spec: String,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// The hub wants a token, or another one.
    #[error(
        "{endpoint} answered {status} for {what}: if the model is gated, accept its licence on its \
         page, and pass a token that may read it (HF_TOKEN or HUGGINGFACE_TOKEN)"
    )]
    HubUnauthorized {
        /// Model and file.
        what: String,
        /// The hub's address.
        endpoint: String,
        /// 401 or 403.
        status: u16,
    },
    /// The hub has no such model, revision or file.
    #[error("{endpoint} has no {what}")]
    NotOnHub {
        /// Model, revision and file.
        what: String,
        /// The hub's address.
        endpoint: String,
    },
    /// What was fetched is not what the hub promised. The bad file is gone; fetching again is safe.
    #[error("{what} has the checksum {found}, expected {expected}; fetch it again")]
    Checksum {
        /// Model and file.
        what: String,
        /// As the hub gives it, in hex.
        expected: String,
        /// Of the bytes that came, in hex.
        found: String,
    },
    /// The cache folder cannot be written: no permission, or the disk is full.
    #[error("cannot write to {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The hub could not be reached, or the transfer broke off. What has come is kept, and the
    /// next attempt goes on from there.
    #[error("cannot fetch {what} from {endpoint}: {reason}")]
    Fetch {
        /// Model and file.
        what: String,
        /// The hub's address.
        endpoint: String,
        /// Why, with what to do about it.
        reason: String,
    },
}
