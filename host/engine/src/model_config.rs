//! What a model is, whatever file says it: sizes, attention, rotary embedding, special tokens.
//! [`hub`] reads it from `config.json` and its neighbours, [`gguf`] from a GGUF file's metadata.

pub use gapura_kernels::RopeStyle;

use crate::request::TokenId;

mod fields;
pub(crate) mod gguf;
pub(crate) mod hub;

/// The architectures that this engine computes, as error messages list them.
pub(crate) const SUPPORTED_ARCHITECTURES: &str = "gemma2, gemma3 (text), llama";

/// A layer, head or width beyond this is a broken file; it also keeps sums and small allocations
/// sized by the configuration far from overflow.
pub(crate) const MAX_DIMENSION: usize = 1 << 24;
pub(crate) const MAX_LAYERS: usize = 1 << 10;

/// End-of-turn and end-of-text tokens by name. A control token of the vocabulary that has one of
/// these names ends an answer even where no field says so: many files leave `<end_of_turn>` out.
pub(crate) const END_TOKEN_NAMES: [&str; 5] = [
    "<end_of_turn>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
];

/// A family of models that share one forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Soft caps, every second layer windowed, four norms a layer.
    Gemma2,
    /// Norms on query and key, five of six layers windowed with their own rotary base.
    Gemma3,
    /// Two norms a layer, SiLU; SmolLM2 and many others are of this kind.
    Llama,
}

impl Architecture {
    /// As GGUF files and `config.json` name it: `gemma2`, `gemma3`, `llama`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3",
            Self::Llama => "llama",
        }
    }

    /// By the name of a GGUF file or the `model_type` of a `config.json`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "gemma2" => Some(Self::Gemma2),
            "gemma3" | "gemma3_text" => Some(Self::Gemma3),
            "llama" => Some(Self::Llama),
            _ => None,
        }
    }
}

/// Everything about a model but its weights and vocabulary. Checked: sizes are positive,
/// `num_attention_heads` is a multiple of `num_key_value_heads`, and `windowed_layers` has
/// `num_hidden_layers` entries, all false unless `sliding_window` is set.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Which forward pass.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of one head; not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Most tokens of prompt and answer together.
    pub max_position_embeddings: usize,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f32,
    /// Positions.
    pub rope: RopeConfig,
    /// Attention scores are multiplied by this to the power -1/2. `head_dim` for most models.
    pub query_pre_attn_scalar: f32,
    /// `cap * tanh(score / cap)` on scores, before mask and softmax.
    pub attn_logit_softcapping: Option<f32>,
    /// The same on logits, before temperature and logprobs.
    pub final_logit_softcapping: Option<f32>,
    /// Keys that a windowed layer sees, the query's own included.
    pub sliding_window: Option<usize>,
    /// Whether layer `i` is windowed.
    pub windowed_layers: Vec<bool>,
    /// The output layer is the embedding; there is no `lm_head.weight`.
    pub tie_word_embeddings: bool,
    /// To be added to every norm weight, once, at load: 1 for Gemma from safetensors; 0 for
    /// Llama, and for GGUF, whose norms carry it already.
    pub norm_offset: f32,
    /// Embedding rows are multiplied by this: for Gemma `sqrt(hidden_size)`, rounded to the
    /// checkpoint's dtype as the reference rounds it (not for GGUF); 1 for Llama.
    pub embedding_scale: f32,
    /// What a raw completion prompt begins with, if anything.
    pub bos_token_id: Option<TokenId>,
    /// What ends an answer: the union of what config, generation config, tokenizer and the names
    /// of the vocabulary's control tokens say. Ascending, without duplicates.
    pub eos_token_ids: Vec<TokenId>,
}

impl ModelConfig {
    /// What must hold between the fields, whichever file they come from. The message names fields
    /// as `config.json` does.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!(
                "`num_attention_heads` is {heads}, no multiple of `num_key_value_heads`, {kv_heads}"
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!(
                "`head_dim` is {}, expected an even number",
                self.head_dim
            ));
        }
        if self.windowed_layers.len() != self.num_hidden_layers {
            return Err(format!(
                "{} layer types for {} layers",
                self.windowed_layers.len(),
                self.num_hidden_layers
            ));
        }
        if self.has_windowed_layers() && self.sliding_window.is_none() {
            return Err("layers are windowed, but `sliding_window` is missing".to_owned());
        }
        let positive = [
            ("rms_norm_eps", Some(self.rms_norm_eps)),
            ("rope_theta", Some(self.rope.theta)),
            ("rope_local_base_freq", self.rope.local_theta),
            ("query_pre_attn_scalar", Some(self.query_pre_attn_scalar)),
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ];
        for (field, value) in positive {
            if value.is_some_and(|value| !value.is_finite() || value <= 0.0) {
                return Err(format!(
                    "`{field}` is {value:?}, expected a positive number"
                ));
            }
        }
        let vocab_size = self.vocab_size;
        match self
            .bos_token_id
            .iter()
            .chain(&self.eos_token_ids)
            .find(|id| id.0 as usize >= vocab_size)
        {
            Some(id) => Err(format!(
                "token {} is outside the vocabulary of {vocab_size}",
                id.0
            )),
            None => Ok(()),
        }
    }

    /// Whether any layer is windowed.
    pub fn has_windowed_layers(&self) -> bool {
        self.windowed_layers.contains(&true)
    }
}

/// Gemma 2: layer 0 and every even one. Gemma 3: five of six, the sixth sees everything.
pub(crate) fn windowed_by_pattern(num_layers: usize, pattern: usize) -> Vec<bool> {
    (0..num_layers)
        .map(|layer| pattern > 1 && !(layer + 1).is_multiple_of(pattern))
        .collect()
}

/// Sorted and without duplicates.
pub(crate) fn token_set(ids: impl IntoIterator<Item = u32>) -> Vec<TokenId> {
    let ids: std::collections::BTreeSet<u32> = ids.into_iter().collect();
    ids.into_iter().map(TokenId).collect()
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the wavelengths in layers that see everything (and in all where there is no other).
    pub theta: f32,
    /// Base in windowed layers, which never scale. `None`: as the others, scaling included.
    pub local_theta: Option<f32>,
    /// How the wavelengths of `theta` are stretched.
    pub scaling: RopeScaling,
    /// Which two elements of a head turn together: `Halves` in safetensors and for Gemma in GGUF,
    /// `Interleaved` for Llama in GGUF, whose query and key rows are permuted for it.
    pub style: RopeStyle,
}

/// How rotary wavelengths are stretched for long contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every position is divided by `factor`.
    Linear {
        /// At least 1.
        factor: f32,
    },
    /// Llama 3.1's: long wavelengths are stretched by `factor`, short ones not, with a ramp
    /// between.
    Llama3 {
        /// Stretch of long wavelengths.
        factor: f32,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are long.
        low_freq_factor: f32,
        /// Those below `original_max_position_embeddings / high_freq_factor` are short.
        high_freq_factor: f32,
        /// The context of pre-training.
        original_max_position_embeddings: usize,
    },
    /// Divisors of the `head_dim / 2` frequencies, spelled out: `rope_freqs.weight` of GGUF.
    Divisors(Vec<f32>),
}
