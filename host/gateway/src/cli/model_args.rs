//! The flags that name a model and say where it runs, shared by `serve` and `generate`.

use std::num::NonZeroUsize;

use clap::Args;

use crate::config::{Device, Dtype, Overrides, Quantize};

/// Which model, and where it runs.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ModelArgs {
    /// A hub id, a folder with config.json, a .gguf file, or `sim` (scripted answers, for tests).
    #[arg(long, short, value_name = "ID|DIR|FILE", env = "GAPURA_MODEL")]
    pub model: Option<String>,
    /// Where it runs.
    #[arg(long, value_enum, env = "GAPURA_DEVICE")]
    pub device: Option<Device>,
    /// Make the weights of an unquantized model (F32, F16, BF16) smaller while they load.
    #[arg(long, value_enum)]
    pub quantize: Option<Quantize>,
    /// What a GPU computes in; the CPU always computes in float32.
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Threads that compute. Default: one for each physical core.
    #[arg(long, env = "GAPURA_THREADS", value_parser = count)]
    pub threads: Option<NonZeroUsize>,
    /// Most tokens of prompt and answer together.
    #[arg(long, value_name = "TOKENS", value_parser = count)]
    pub context_length: Option<NonZeroUsize>,
    /// Memory for keys and values.
    #[arg(long, value_name = "MIB", value_parser = count)]
    pub kv_memory_mib: Option<NonZeroUsize>,
}

/// A number of things of which there must be some.
fn count(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .map_err(|_| "it must be a whole number, 1 or more".to_owned())
}

impl ModelArgs {
    /// Writes them into `overrides`.
    pub(crate) fn apply(&self, overrides: &mut Overrides) {
        overrides.model = self.model.clone();
        overrides.device = self.device;
        overrides.quantize = self.quantize;
        overrides.dtype = self.dtype;
        overrides.threads = self.threads;
        overrides.context_length = self.context_length;
        overrides.kv_memory_mib = self.kv_memory_mib;
    }
}
