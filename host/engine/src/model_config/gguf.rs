//! [`ModelConfig`] from a GGUF file's metadata. What the format does not store (Gemma's windows
//! by layer, soft caps' absence, the 27B models' query scale) is filled in as llama.cpp does.

use super::{
    Architecture, END_TOKEN_NAMES, MAX_DIMENSION, MAX_LAYERS, ModelConfig, RopeConfig, RopeScaling,
    RopeStyle, SUPPORTED_ARCHITECTURES, token_set, windowed_by_pattern,
};
use crate::{
    checkpoint::gguf::GgufFile,
    error::LoadError,
    request::TokenId,
    tokenizer::gguf::{TokenKind, VocabularyKind},
};

/// Reads and checks a file's configuration.
///
/// # Errors
/// [`LoadError::Malformed`] naming the key, [`LoadError::UnsupportedArchitecture`],
/// [`LoadError::UnsupportedFeature`].
pub(crate) fn read(file: &GgufFile) -> Result<ModelConfig, LoadError> {
    let name = file.string("general.architecture")?;
    let name =
        name.ok_or_else(|| malformed(file, "`general.architecture` is missing".to_owned()))?;
    let Some(architecture) = Architecture::from_name(&name) else {
        return Err(LoadError::UnsupportedArchitecture {
            architecture: name.into_owned(),
            supported: SUPPORTED_ARCHITECTURES,
        });
    };
    let keys = Keys {
        file,
        architecture: name.into_owned(),
    };
    let gemma = architecture != Architecture::Llama;

    let hidden_size = keys.required_size("embedding_length", MAX_DIMENSION)?;
    let num_hidden_layers = keys.required_size("block_count", MAX_LAYERS)?;
    let num_attention_heads = keys.required_size("attention.head_count", MAX_DIMENSION)?;
    let head_dim = match keys.size("attention.key_length", MAX_DIMENSION)? {
        Some(head_dim) => head_dim,
        None if gemma => 256,
        None => hidden_size / num_attention_heads,
    };
    keys.same_if_present("attention.value_length", head_dim)?;
    keys.same_if_present("rope.dimension_count", head_dim)?;

    let embedding = file
        .tensor("token_embd.weight")
        .ok_or_else(|| LoadError::MissingTensor {
            tensor: "token_embd.weight".to_owned(),
        })?;
    let default_window = if architecture == Architecture::Gemma2 {
        Some(4096)
    } else {
        None
    };
    let sliding_window = match gemma {
        true => keys
            .size("attention.sliding_window", MAX_DIMENSION)?
            .or(default_window),
        false => None,
    };
    let window_pattern = match (sliding_window, architecture) {
        (None, _) | (_, Architecture::Llama) => 1,
        (_, Architecture::Gemma2) => 2,
        (_, Architecture::Gemma3) => 6,
    };
    let default_softcaps = match architecture {
        Architecture::Gemma2 => (Some(50.0), Some(30.0)),
        _ => (None, None),
    };
    let config = ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: keys.required_size("feed_forward_length", MAX_DIMENSION)?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: keys
            .size("attention.head_count_kv", MAX_DIMENSION)?
            .unwrap_or(num_attention_heads),
        head_dim,
        vocab_size: embedding.shape[0],
        max_position_embeddings: keys.required_size("context_length", MAX_DIMENSION)?,
        rms_norm_eps: file
            .float(&keys.key("attention.layer_norm_rms_epsilon"))?
            .unwrap_or(1e-6),
        rope: rope(&keys, architecture, head_dim)?,
        query_pre_attn_scalar: match (architecture, num_hidden_layers) {
            // The two 27B models scale by the width of a head as if there were no `head_dim`.
            (Architecture::Gemma2, 46) | (Architecture::Gemma3, 62) => {
                (hidden_size / num_attention_heads) as f32
            }
            _ => head_dim as f32,
        },
        attn_logit_softcapping: file
            .float(&keys.key("attn_logit_softcapping"))?
            .or(default_softcaps.0),
        final_logit_softcapping: file
            .float(&keys.key("final_logit_softcapping"))?
            .or(default_softcaps.1),
        sliding_window,
        windowed_layers: windowed_by_pattern(num_hidden_layers, window_pattern),
        tie_word_embeddings: file.tensor("output.weight").is_none(),
        norm_offset: 0.0,
        embedding_scale: if gemma {
            (hidden_size as f32).sqrt()
        } else {
            1.0
        },
        bos_token_id: bos_token_id(file)?,
        eos_token_ids: eos_token_ids(file)?,
    };
    config.check().map_err(|reason| malformed(file, reason))?;
    Ok(config)
}

fn rope(
    keys: &Keys<'_>,
    architecture: Architecture,
    head_dim: usize,
) -> Result<RopeConfig, LoadError> {
    let file = keys.file;
    let (default_theta, local_theta, style) = match architecture {
        Architecture::Gemma2 => (10_000.0, None, RopeStyle::Halves),
        Architecture::Gemma3 => {
            let local = file
                .float(&keys.key("rope.freq_base_swa"))?
                .unwrap_or(10_000.0);
            (1_000_000.0, Some(local), RopeStyle::Halves)
        }
        Architecture::Llama => (10_000.0, None, RopeStyle::Interleaved),
    };
    let scaling = match (
        rope_divisors(file, head_dim)?,
        scaling_type(keys)?.as_deref(),
    ) {
        (Some(divisors), _) => RopeScaling::Divisors(divisors),
        (None, None | Some("none")) => RopeScaling::None,
        (None, Some("linear")) => {
            let factor = file.float(&keys.key("rope.scaling.factor"))?.unwrap_or(1.0);
            if !factor.is_finite() || factor <= 0.0 {
                let key = keys.key("rope.scaling.factor");
                return Err(malformed(
                    file,
                    format!("`{key}` is {factor}, expected a positive number"),
                ));
            }
            RopeScaling::Linear { factor }
        }
        (None, Some(other)) => {
            return Err(LoadError::UnsupportedFeature {
                path: file.path().to_path_buf(),
                feature: format!("`{}` = {other}", keys.key("rope.scaling.type")),
                supported: "none, linear",
            });
        }
    };
    Ok(RopeConfig {
        theta: file
            .float(&keys.key("rope.freq_base"))?
            .unwrap_or(default_theta),
        local_theta,
        scaling,
        style,
    })
}

fn scaling_type(keys: &Keys<'_>) -> Result<Option<String>, LoadError> {
    Ok(keys
        .file
        .string(&keys.key("rope.scaling.type"))?
        .map(|name| name.into_owned()))
}

/// `rope_freqs.weight`, which Llama 3.1 files hold in place of scaling parameters.
fn rope_divisors(file: &GgufFile, head_dim: usize) -> Result<Option<Vec<f32>>, LoadError> {
    let Some(tensor) = file.weight("rope_freqs.weight") else {
        return Ok(None);
    };
    if tensor.shape() != [head_dim / 2] {
        return Err(LoadError::WrongShape {
            tensor: "rope_freqs.weight".to_owned(),
            found: tensor.shape().to_vec(),
            expected: vec![head_dim / 2],
        });
    }
    let divisors = tensor.to_f32();
    match divisors
        .iter()
        .find(|divisor| !divisor.is_finite() || **divisor <= 0.0)
    {
        Some(bad) => Err(malformed(
            file,
            format!("`rope_freqs.weight` holds {bad}, expected positive numbers"),
        )),
        None => Ok(Some(divisors)),
    }
}

fn bos_token_id(file: &GgufFile) -> Result<Option<TokenId>, LoadError> {
    let added = match file.bool("tokenizer.ggml.add_bos_token")? {
        Some(added) => added,
        // SentencePiece vocabularies are used with one, byte-level ones without, but for Llama 3.
        None => match VocabularyKind::read(file)? {
            Some(VocabularyKind::SentencePiece) => true,
            Some(VocabularyKind::ByteLevel) => file
                .string("tokenizer.ggml.pre")?
                .is_some_and(|pre| pre == "llama-bpe"),
            None => false,
        },
    };
    Ok(match added {
        true => token_id(file, "tokenizer.ggml.bos_token_id")?.map(TokenId),
        false => None,
    })
}

fn eos_token_ids(file: &GgufFile) -> Result<Vec<TokenId>, LoadError> {
    let mut ids = Vec::new();
    for key in ["eos_token_id", "eot_token_id"] {
        ids.extend(token_id(file, &format!("tokenizer.ggml.{key}"))?);
    }
    let (tokens, kinds) = (
        file.strings("tokenizer.ggml.tokens")?,
        TokenKind::read(file)?,
    );
    for ((id, token), kind) in (0..).zip(tokens.iter().flatten()).zip(kinds) {
        if kind == TokenKind::Control && END_TOKEN_NAMES.contains(&token.as_ref()) {
            ids.push(id);
        }
    }
    Ok(token_set(ids))
}

fn token_id(file: &GgufFile, key: &str) -> Result<Option<u32>, LoadError> {
    match file.number(key)? {
        None => Ok(None),
        // Some converters write -1, as 32 bits, for none.
        Some(id) if id == u64::from(u32::MAX) => Ok(None),
        Some(id) => match u32::try_from(id) {
            Ok(id) => Ok(Some(id)),
            Err(_) => Err(malformed(file, format!("`{key}` is {id}, no token id"))),
        },
    }
}

fn malformed(file: &GgufFile, reason: String) -> LoadError {
    LoadError::Malformed {
        path: file.path().to_path_buf(),
        expected: "GGUF file",
        reason,
    }
}

/// Keys that begin with the architecture's name.
struct Keys<'a> {
    file: &'a GgufFile,
    architecture: String,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size(&self, name: &str, limit: usize) -> Result<Option<usize>, LoadError> {
        let key = self.key(name);
        let Some(number) = self.file.number(&key)? else {
            return Ok(None);
        };
        match usize::try_from(number)
            .ok()
            .filter(|number| (1..=limit).contains(number))
        {
            Some(number) => Ok(Some(number)),
            None => Err(malformed(
                self.file,
                format!("`{key}` is {number}, expected a whole number from 1 to {limit}"),
            )),
        }
    }

    fn required_size(&self, name: &str, limit: usize) -> Result<usize, LoadError> {
        let missing = || malformed(self.file, format!("`{}` is missing", self.key(name)));
        self.size(name, limit)?.ok_or_else(missing)
    }

    /// A width that could differ from the head's but does so in no supported model.
    fn same_if_present(&self, name: &str, head_dim: usize) -> Result<(), LoadError> {
        match self.size(name, MAX_DIMENSION)? {
            Some(found) if found != head_dim => Err(LoadError::UnsupportedFeature {
                path: self.file.path().to_path_buf(),
                feature: format!("`{}` = {found} with heads of {head_dim}", self.key(name)),
                supported: "the same width for query, key, value and rotation",
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
