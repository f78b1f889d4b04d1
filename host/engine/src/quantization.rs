//! Quantizing while loading: which matrix becomes what, and the pass that does it.
//!
//! Norms and other vectors stay as they are; they are small, and every value passes through them.

use gapura_kernels::{KernelError, WeightType, quantize};
use rayon::ThreadPool;

use crate::{
    checkpoint::{Checkpoint, Weight},
    error::LoadError,
    layers::Decoder,
};

/// What the matrices of an unquantized model (F32, F16, BF16) become while it is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Quantization {
    /// As the files have them, and left there.
    #[default]
    None,
    /// Q8_0: 8.5 bits a weight.
    EightBit,
    /// Q4_K (4.5 bits a weight), or Q4_1 (5 bits) where rows are no multiple of 256; the
    /// embedding and the output layer are Q8_0.
    FourBit,
}

/// Embedding and output layer, by their names on the hub and in GGUF. Often they are one matrix.
const VOCABULARY_TABLES: [&str; 4] = [
    "model.embed_tokens.weight",
    "lm_head.weight",
    "token_embd.weight",
    "output.weight",
];

impl Quantization {
    /// The type that `weight` is computed with. Its own where rows are no whole blocks of any
    /// format, and for vectors.
    pub(crate) fn stored_as(self, weight: &Weight) -> WeightType {
        if weight.shape().len() < 2 {
            return weight.weight_type();
        }
        let choices: &[WeightType] = match self {
            Self::None => &[],
            Self::EightBit => &[WeightType::Q8_0],
            Self::FourBit if VOCABULARY_TABLES.contains(&weight.name()) => &[WeightType::Q8_0],
            Self::FourBit => &[WeightType::Q4K, WeightType::Q4_1],
        };
        choices
            .iter()
            .copied()
            .find(|choice| weight.cols().is_multiple_of(choice.block_len()))
            .unwrap_or(weight.weight_type())
    }

    /// Looks at a checkpoint before anything is read of its tensors.
    ///
    /// # Errors
    /// [`LoadError::AlreadyQuantized`] where there is something to do and a matrix is quantized.
    pub(crate) fn plan(self, checkpoint: &Checkpoint) -> Result<WeightMemory, LoadError> {
        let mut memory = WeightMemory::default();
        for weight in checkpoint.tensors() {
            let found = weight.weight_type();
            if self != Self::None && found.is_quantized() {
                return Err(LoadError::AlreadyQuantized {
                    path: checkpoint.path().to_path_buf(),
                    tensor: weight.name().to_owned(),
                    weight_type: found,
                });
            }
            let to = self.stored_as(&weight);
            let bytes = weight.bytes_as(to) as u64;
            match to == found {
                true => memory.mapped_bytes += bytes,
                false => memory.owned_bytes += bytes,
            }
        }
        Ok(memory)
    }

    /// Replaces the matrices of `decoder`, one after the other, each by all threads of `pool`.
    /// `progress` gets the bytes of the files that are done, and of all that will be.
    ///
    /// # Errors
    /// [`LoadError::Unquantizable`] names the first tensor with a value that is not finite or too
    /// large.
    pub(crate) fn apply(
        self,
        decoder: &mut Decoder,
        pool: &ThreadPool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), LoadError> {
        let is_due = |weight: &&mut Weight| self.stored_as(weight) != weight.weight_type();
        let due: Vec<&mut Weight> = decoder.matrices_mut().into_iter().filter(is_due).collect();
        let size = |weight: &Weight| weight.bytes().len() as u64;
        let total = due.iter().map(|weight| size(weight)).sum();
        let mut done = 0;
        for weight in due {
            let to = self.stored_as(weight);
            let mut blocks = vec![0; weight.bytes_as(to)];
            pool.install(|| quantize(weight.matrix(), to, &mut blocks))
                .map_err(|error| unquantizable(weight, error))?;
            done += size(weight);
            *weight = weight.replaced(to, blocks);
            progress(done, total);
        }
        Ok(())
    }
}

fn unquantizable(weight: &Weight, reason: KernelError) -> LoadError {
    LoadError::Unquantizable {
        tensor: weight.name().to_owned(),
        reason,
    }
}

/// Where the weights of a model lie once it is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WeightMemory {
    /// In the files, whose pages have to stay in memory.
    pub(crate) mapped_bytes: u64,
    /// In memory of this process.
    pub(crate) owned_bytes: u64,
}

impl WeightMemory {
    /// Both.
    pub(crate) fn total(self) -> u64 {
        self.mapped_bytes + self.owned_bytes
    }
}
