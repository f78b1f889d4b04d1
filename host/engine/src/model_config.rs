//! What a model is, whatever file says it: sizes, attention, rotary embedding, special tokens.

use crate::request::TokenId;

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
    /// Whether any layer is windowed.
    pub fn has_windowed_layers(&self) -> bool {
        self.windowed_layers.contains(&true)
    }
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
    /// Which two elements of a head turn together.
    pub style: RopeStyle,
}

/// Which two elements of a head of width `d` turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// `i` and `i + d / 2`: safetensors, and Gemma in GGUF.
    Halves,
    /// `2 i` and `2 i + 1`: Llama in GGUF, whose query and key rows are permuted for it.
    Interleaved,
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
