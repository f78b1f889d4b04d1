//! Writes a GGUF file anew with every tensor in float32: the same weights, nothing rounded while
//! they are multiplied. `tests/verify/llamacpp.py` has both engines read it.
//!
//! ```text
//! unquantize MODEL.gguf OUT.gguf [--rescale] [--bf16]
//! ```
//!
//! `--rescale` multiplies what goes into the linear layers and divides their columns by it, by
//! another factor for each column, so that the model stays the same but its weights lie on the
//! grid of the file's format no longer. Quantizing them again then costs what it costs with
//! weights that never were: see `tests/verify/quantize.py`. `--bf16` writes
//! bfloat16 instead, as most models are published.

use std::{
    collections::BTreeMap,
    error::Error,
    fs::File,
    io::{BufReader, BufWriter, Write},
};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};

const USAGE: &str = "usage: unquantize MODEL.gguf OUT.gguf [--rescale] [--bf16]";

type Tensors = BTreeMap<String, Tensor>;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, flags @ ..] = arguments.as_slice() else {
        return Err(USAGE.into());
    };
    let (mut rescaled, mut dtype) = (false, GgmlDType::F32);
    for flag in flags {
        match flag.as_str() {
            "--rescale" => rescaled = true,
            "--bf16" => dtype = GgmlDType::BF16,
            _ => return Err(USAGE.into()),
        }
    }
    let mut source = BufReader::new(File::open(from)?);
    let content = gguf_file::Content::read(&mut source)?;
    let mut tensors = Tensors::new();
    for name in content.tensor_infos.keys() {
        let tensor = content.tensor(&mut source, name, &Device::Cpu)?;
        tensors.insert(name.clone(), tensor.dequantize(&Device::Cpu)?);
    }
    if rescaled {
        rescale(&mut tensors, &content)?;
    }
    let metadata: Vec<(&str, &gguf_file::Value)> = content
        .metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value))
        .collect();
    let tensors = tensors
        .into_iter()
        .map(|(name, values)| Ok((name, QTensor::quantize(&values, dtype)?)))
        .collect::<Result<Vec<(String, QTensor)>, candle_core::Error>>()?;
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let mut target = BufWriter::new(File::create(to)?);
    gguf_file::write(&mut target, &metadata, &tensors)?;
    target.flush()?;
    Ok(())
}

/// The same model with other weights: norms against the projections behind them, `up` against
/// `down`, values against the attention's output. All of Llama, Gemma 2 and 3.
fn rescale(tensors: &mut Tensors, content: &gguf_file::Content) -> Result<(), Box<dyn Error>> {
    let number = |key: &str| -> Result<usize, Box<dyn Error>> {
        let value = content.metadata.get(key).ok_or(format!("no `{key}`"))?;
        Ok(usize::try_from(value.to_u32()?)?)
    };
    let architecture = content.metadata.get("general.architecture");
    let architecture = architecture.ok_or("no architecture")?.to_string()?;
    let heads = number(&format!("{architecture}.attention.head_count"))?;
    let kv_heads = number(&format!("{architecture}.attention.head_count_kv"))?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for layer in 0..number(&format!("{architecture}.block_count"))? {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        for (norm, readers) in [
            ("attn_norm", ["attn_q", "attn_k", "attn_v"].as_slice()),
            ("ffn_norm", &["ffn_gate", "ffn_up"]),
        ] {
            let factors = random.factors(tensors[&name(norm)].dim(0)?);
            scale_rows(tensors, &name(norm), &factors)?;
            for reader in readers {
                divide_columns(tensors, &name(reader), &factors)?;
            }
        }
        let factors = random.factors(tensors[&name("ffn_up")].dim(0)?);
        scale_rows(tensors, &name("ffn_up"), &factors)?;
        divide_columns(tensors, &name("ffn_down"), &factors)?;

        let factors = random.factors(tensors[&name("attn_v")].dim(0)?);
        scale_rows(tensors, &name("attn_v"), &factors)?;
        // Each head of the values is read by as many heads of the queries.
        let of_queries: Vec<f32> = factors
            .chunks(factors.len() / kv_heads)
            .flat_map(|head| head.repeat(heads / kv_heads))
            .collect();
        divide_columns(tensors, &name("attn_output"), &of_queries)?;
    }
    Ok(())
}

/// The elements of a vector, or the rows of a matrix, each by its own factor.
fn scale_rows(tensors: &mut Tensors, name: &str, factors: &[f32]) -> candle_core::Result<()> {
    let tensor = &tensors[name];
    let shape = match tensor.rank() {
        1 => vec![factors.len()],
        _ => vec![factors.len(), 1],
    };
    let scaled = tensor.broadcast_mul(&Tensor::from_slice(factors, shape, &Device::Cpu)?)?;
    tensors.insert(name.to_owned(), scaled);
    Ok(())
}

fn divide_columns(tensors: &mut Tensors, name: &str, factors: &[f32]) -> candle_core::Result<()> {
    let factors = Tensor::from_slice(factors, (1, factors.len()), &Device::Cpu)?;
    let divided = tensors[name].broadcast_div(&factors)?;
    tensors.insert(name.to_owned(), divided);
    Ok(())
}

/// Xorshift: the same factors every time.
struct Random(u64);

impl Random {
    /// Evenly spread by their logarithm, from 0.8 to 1.25.
    fn factors(&mut self, count: usize) -> Vec<f32> {
        let mut next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            0.8 * 1.5625_f32.powf((self.0 >> 40) as f32 / (1 << 24) as f32)
        };
        (0..count).map(|_| next()).collect()
    }
}
