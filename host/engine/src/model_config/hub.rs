//! [`ModelConfig`] from `config.json`, in the spelling of transformers 4 (`rope_theta`,
//! `torch_dtype`) or 5 (`rope_parameters`, `dtype`), with what `generation_config.json` and the
//! tokenizer's files say of special tokens. Fields that a file leaves out have the defaults of
//! the model's configuration class there.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Architecture, END_TOKEN_NAMES, MAX_DIMENSION, MAX_LAYERS, ModelConfig, RopeConfig, RopeScaling,
    RopeStyle, SUPPORTED_ARCHITECTURES, fields::Fields, token_set, windowed_by_pattern,
};
use crate::{checkpoint::hub_folder::read_optional, error::LoadError, request::TokenId};

/// Values of fields that `config.json` may leave out.
struct Defaults {
    heads: Option<usize>,
    kv_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    context: usize,
    theta: f32,
    local_theta: Option<f32>,
    window: Option<usize>,
    window_pattern: usize,
    attn_softcap: Option<f32>,
    final_softcap: Option<f32>,
    tied: bool,
}

fn defaults(architecture: Architecture) -> Defaults {
    let gemma2 = Defaults {
        heads: Some(8),
        kv_heads: Some(4),
        head_dim: Some(256),
        vocab_size: Some(256_000),
        context: 8192,
        theta: 10_000.0,
        local_theta: None,
        window: Some(4096),
        window_pattern: 2,
        attn_softcap: Some(50.0),
        final_softcap: Some(30.0),
        tied: true,
    };
    match architecture {
        Architecture::Gemma2 => gemma2,
        Architecture::Gemma3 => Defaults {
            vocab_size: Some(262_208),
            context: 131_072,
            theta: 1_000_000.0,
            local_theta: Some(10_000.0),
            window_pattern: 6,
            attn_softcap: None,
            final_softcap: None,
            ..gemma2
        },
        Architecture::Llama => Defaults {
            heads: None,
            kv_heads: None,
            head_dim: None,
            vocab_size: None,
            context: 2048,
            window: None,
            window_pattern: 1,
            attn_softcap: None,
            final_softcap: None,
            tied: false,
            ..gemma2
        },
    }
}

/// Reads and checks a folder's configuration.
///
/// # Errors
/// [`LoadError::Malformed`] naming the field, [`LoadError::UnsupportedArchitecture`],
/// [`LoadError::UnsupportedFeature`].
pub(crate) fn read(dir: &Path) -> Result<ModelConfig, LoadError> {
    let path = dir.join("config.json");
    let json = read_json(&path)?.ok_or_else(|| LoadError::MissingFile {
        dir: dir.to_path_buf(),
        file: "config.json".to_owned(),
    })?;
    let outer = Fields::new(&path, "config.json", &json)?;
    let architecture = architecture(&outer)?;
    // A text model within a multimodal one.
    let fields = outer.object("text_config.")?.unwrap_or(outer);
    refuse_unsupported(architecture, &outer, &fields)?;

    let defaults = defaults(architecture);
    let size = |name| fields.size(name, MAX_DIMENSION);
    let hidden_size = fields.required_size("hidden_size", MAX_DIMENSION)?;
    let num_hidden_layers = fields.required_size("num_hidden_layers", MAX_LAYERS)?;
    let num_attention_heads = match size("num_attention_heads")?.or(defaults.heads) {
        Some(heads) => heads,
        None => fields.required_size("num_attention_heads", MAX_DIMENSION)?,
    };
    let head_dim = match size("head_dim")?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(num_attention_heads) => {
            hidden_size / num_attention_heads
        }
        None => {
            return Err(fields.error(format!(
                "`head_dim` is missing, and `hidden_size` {hidden_size} is no multiple of \
                 `num_attention_heads` {num_attention_heads}"
            )));
        }
    };
    let sliding_window = match architecture {
        Architecture::Llama => None,
        _ => size("sliding_window")?.or(defaults.window),
    };
    let windowed_layers = match sliding_window {
        Some(_) => windowed_layers(&fields, num_hidden_layers, defaults.window_pattern)?,
        None => vec![false; num_hidden_layers],
    };
    let gemma = architecture != Architecture::Llama;
    let special = SpecialTokens::read(dir)?;
    let config_bos = fields.token_ids("bos_token_id")?.first().copied();
    let config = ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: fields.required_size("intermediate_size", MAX_DIMENSION)?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: size("num_key_value_heads")?
            .or(defaults.kv_heads)
            .unwrap_or(num_attention_heads),
        head_dim,
        vocab_size: match size("vocab_size")?.or(defaults.vocab_size) {
            Some(vocab_size) => vocab_size,
            None => fields.required_size("vocab_size", MAX_DIMENSION)?,
        },
        max_position_embeddings: size("max_position_embeddings")?.unwrap_or(defaults.context),
        rms_norm_eps: fields.float("rms_norm_eps")?.unwrap_or(1e-6),
        rope: rope(&fields, &defaults)?,
        query_pre_attn_scalar: match gemma {
            true => fields.float("query_pre_attn_scalar")?.unwrap_or(256.0),
            false => head_dim as f32,
        },
        attn_logit_softcapping: softcap(&fields, "attn_logit_softcapping", defaults.attn_softcap)?,
        final_logit_softcapping: softcap(
            &fields,
            "final_logit_softcapping",
            defaults.final_softcap,
        )?,
        sliding_window: sliding_window.filter(|_| windowed_layers.contains(&true)),
        windowed_layers,
        tie_word_embeddings: match fields.bool("tie_word_embeddings")? {
            Some(tied) => tied,
            None => outer.bool("tie_word_embeddings")?.unwrap_or(defaults.tied),
        },
        norm_offset: if gemma { 1.0 } else { 0.0 },
        embedding_scale: match gemma {
            true => embedding_scale(&outer, &fields, hidden_size)?,
            false => 1.0,
        },
        bos_token_id: special.bos.unwrap_or(config_bos).map(TokenId),
        eos_token_ids: token_set(
            [
                outer.token_ids("eos_token_id")?,
                fields.token_ids("eos_token_id")?,
                special.eos,
            ]
            .concat(),
        ),
    };
    config.check().map_err(|reason| fields.error(reason))?;
    Ok(config)
}

/// A JSON file, `None` if there is none.
///
/// # Errors
/// [`LoadError::Malformed`] with line and column.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, LoadError> {
    let Some(text) = read_optional(path)? else {
        return Ok(None);
    };
    parse_json(path, &text).map(Some)
}

fn parse_json<'a, T: Deserialize<'a>>(path: &Path, text: &'a str) -> Result<T, LoadError> {
    serde_json::from_str(text).map_err(|error| LoadError::Malformed {
        path: path.to_path_buf(),
        expected: "JSON file",
        reason: error.to_string(),
    })
}

fn architecture(outer: &Fields<'_>) -> Result<Architecture, LoadError> {
    let Some(model_type) = outer.str("model_type")? else {
        return Err(outer.error("`model_type` is missing".to_owned()));
    };
    Architecture::from_name(model_type).ok_or_else(|| LoadError::UnsupportedArchitecture {
        architecture: model_type.to_owned(),
        supported: SUPPORTED_ARCHITECTURES,
    })
}

fn refuse_unsupported(
    architecture: Architecture,
    outer: &Fields<'_>,
    fields: &Fields<'_>,
) -> Result<(), LoadError> {
    const UNQUANTIZED: &str = "unquantized safetensors (F32, F16, BF16), and quantized GGUF files";
    for fields in [outer, fields] {
        if let Some(quantization) = fields.object("quantization_config.")? {
            return Err(match quantization.get("quant_method") {
                Some(_) => quantization.unsupported("quant_method", UNQUANTIZED),
                None => fields.unsupported("quantization_config", UNQUANTIZED),
            });
        }
    }
    let activation = match architecture {
        // Gemma's reference reads `hidden_activation`; its old `hidden_act` says something else
        // and means nothing.
        Architecture::Gemma2 | Architecture::Gemma3 => ("hidden_activation", "gelu_pytorch_tanh"),
        Architecture::Llama => ("hidden_act", "silu"),
    };
    if fields
        .str(activation.0)?
        .is_some_and(|found| found != activation.1)
    {
        return Err(fields.unsupported(activation.0, "gelu_pytorch_tanh for Gemma, silu for Llama"));
    }
    for name in ["attention_bias", "mlp_bias", "use_bidirectional_attention"] {
        if fields.bool(name)? == Some(true) {
            return Err(fields.unsupported(name, "false"));
        }
    }
    Ok(())
}

/// A cap that is `null` is off; one that is missing has the class's default.
fn softcap(
    fields: &Fields<'_>,
    name: &str,
    default: Option<f32>,
) -> Result<Option<f32>, LoadError> {
    match fields.is_null(name) {
        true => Ok(None),
        false => Ok(fields.float(name)?.or(default)),
    }
}

fn windowed_layers(
    fields: &Fields<'_>,
    num_layers: usize,
    default_pattern: usize,
) -> Result<Vec<bool>, LoadError> {
    const EXPECTED: &str = "a list of `sliding_attention` and `full_attention`";
    if let Some(value) = fields.get("layer_types") {
        let kind = |kind: &Value| match kind.as_str() {
            Some("sliding_attention") => Some(true),
            Some("full_attention") => Some(false),
            _ => None,
        };
        let windowed = value
            .as_array()
            .and_then(|kinds| kinds.iter().map(kind).collect());
        return windowed.ok_or_else(|| fields.wrong("layer_types", value, EXPECTED));
    }
    let pattern = match fields.size("sliding_window_pattern", MAX_LAYERS)? {
        Some(pattern) => pattern,
        None => fields
            .size("_sliding_window_pattern", MAX_LAYERS)?
            .unwrap_or(default_pattern),
    };
    Ok(windowed_by_pattern(num_layers, pattern))
}

/// `rope_theta`, `rope_local_base_freq` and `rope_scaling`; or `rope_parameters`, either flat or
/// with one entry per kind of layer.
fn rope(fields: &Fields<'_>, defaults: &Defaults) -> Result<RopeConfig, LoadError> {
    let parameters = fields.object("rope_parameters.")?;
    let full = match &parameters {
        Some(parameters) => parameters.object("full_attention.")?.or(Some(*parameters)),
        None => None,
    };
    let local = match &parameters {
        Some(parameters) => parameters.object("sliding_attention.")?,
        None => None,
    };
    let scaled = match full {
        Some(full) => Some(full),
        None => fields.object("rope_scaling.")?,
    };
    let in_parameters = |of: Option<Fields<'_>>| match of {
        Some(of) => of.float("rope_theta"),
        None => Ok(None),
    };
    let theta = match in_parameters(full)? {
        Some(theta) => theta,
        None => fields.float("rope_theta")?.unwrap_or(defaults.theta),
    };
    let local_theta = match defaults.local_theta {
        None => None,
        Some(default) => match in_parameters(local)? {
            Some(theta) => Some(theta),
            None => Some(fields.float("rope_local_base_freq")?.unwrap_or(default)),
        },
    };
    let scaling = match scaled {
        Some(scaled) => rope_scaling(&scaled)?,
        None => RopeScaling::None,
    };
    Ok(RopeConfig {
        theta,
        local_theta,
        scaling,
        style: RopeStyle::Halves,
    })
}

fn rope_scaling(fields: &Fields<'_>) -> Result<RopeScaling, LoadError> {
    let name = if fields.get("rope_type").is_some() {
        "rope_type"
    } else {
        "type"
    };
    let required = |name: &str| match fields.float(name)? {
        Some(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err(fields.error(format!("rope scaling needs `{name}`, a positive number"))),
    };
    match fields.str(name)? {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear {
            factor: required("factor")?,
        }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original_max_position_embeddings: fields
                .required_size("original_max_position_embeddings", MAX_DIMENSION)?,
        }),
        Some(_) => Err(fields.unsupported(name, "default, linear, llama3")),
    }
}

/// `sqrt(hidden_size)`, rounded to the dtype in which the model was saved, as the reference
/// computes it.
fn embedding_scale(
    outer: &Fields<'_>,
    fields: &Fields<'_>,
    hidden_size: usize,
) -> Result<f32, LoadError> {
    let scale = (hidden_size as f32).sqrt();
    for fields in [fields, outer] {
        for name in ["dtype", "torch_dtype"] {
            match fields.str(name)? {
                None => {}
                Some("float32") => return Ok(scale),
                Some("bfloat16") => return Ok(half::bf16::from_f32(scale).to_f32()),
                Some("float16") => return Ok(half::f16::from_f32(scale).to_f32()),
                Some(_) => return Err(fields.unsupported(name, "float32, bfloat16, float16")),
            }
        }
    }
    Ok(scale)
}

/// What the files beside `config.json` say of beginning and end.
struct SpecialTokens {
    /// `Some(None)`: the tokenizer says that no prompt begins with one.
    bos: Option<Option<u32>>,
    eos: Vec<u32>,
}

/// The part of `tokenizer.json` that is about special tokens; the rest is skipped, not built.
#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    post_processor: Value,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    special: bool,
}

impl SpecialTokens {
    fn read(dir: &Path) -> Result<Self, LoadError> {
        let mut found = Self {
            bos: None,
            eos: Vec::new(),
        };
        let path = dir.join("generation_config.json");
        if let Some(json) = read_json(&path)? {
            found.eos =
                Fields::new(&path, "generation_config.json", &json)?.token_ids("eos_token_id")?;
        }
        let path = dir.join("tokenizer.json");
        let Some(text) = read_optional(&path)? else {
            return Ok(found);
        };
        let tokenizer: TokenizerJson = parse_json(&path, &text)?;
        let tokens = &tokenizer.added_tokens;
        let id = |name: &str| {
            tokens
                .iter()
                .find(|token| token.content == name)
                .map(|token| token.id)
        };
        // A template that puts a token before every text says that there is one to be put there.
        let templated = first_of_template(&tokenizer.post_processor).and_then(id);
        found.bos = templated.map(Some);
        for token in tokens {
            if token.special && END_TOKEN_NAMES.contains(&token.content.as_str()) {
                found.eos.push(token.id);
            }
        }
        let path = dir.join("tokenizer_config.json");
        if let Some(json) = read_json(&path)? {
            let fields = Fields::new(&path, "tokenizer_config.json", &json)?;
            found
                .eos
                .extend(token_name(&fields, "eos_token").and_then(id));
            found.bos = match fields.bool("add_bos_token")? {
                Some(false) => Some(None),
                Some(true) => token_name(&fields, "bos_token").and_then(id).map(Some),
                // Byte-level vocabularies begin with nothing unless something above says so.
                None if fields
                    .str("tokenizer_class")?
                    .is_some_and(|class| class.starts_with("GPT2")) =>
                {
                    Some(templated)
                }
                None => found.bos,
            };
        }
        Ok(found)
    }
}

/// The special token that a post-processor of `tokenizer.json` puts before a text.
fn first_of_template(post_processor: &Value) -> Option<&str> {
    match post_processor["type"].as_str()? {
        "TemplateProcessing" => post_processor["single"][0]["SpecialToken"]["id"].as_str(),
        "Sequence" => post_processor["processors"]
            .as_array()?
            .iter()
            .find_map(first_of_template),
        _ => None,
    }
}

/// A token's name: text, or an object with it as `content`.
fn token_name<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a str> {
    let value = fields.get(name)?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

#[cfg(test)]
mod tests;
