//! Writes a GGUF file anew with every tensor in float32: the same weights, nothing rounded while
//! they are multiplied. `tests/verify/llamacpp.py` has both engines read it.
//!
//! ```text
//! unquantize MODEL.gguf OUT.gguf
//! ```

use std::{
    error::Error,
    fs::File,
    io::{BufReader, BufWriter, Write},
};

use candle_core::{
    Device,
    quantized::{GgmlDType, QTensor, gguf_file},
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else {
        return Err("usage: unquantize MODEL.gguf OUT.gguf".into());
    };
    let mut source = BufReader::new(File::open(from)?);
    let content = gguf_file::Content::read(&mut source)?;
    let mut names: Vec<&String> = content.tensor_infos.keys().collect();
    names.sort();
    let mut tensors = Vec::with_capacity(names.len());
    for name in names {
        let tensor = content.tensor(&mut source, name, &Device::Cpu)?;
        let values = tensor.dequantize(&Device::Cpu)?;
        tensors.push((name.as_str(), QTensor::quantize(&values, GgmlDType::F32)?));
    }
    let metadata: Vec<(&str, &gguf_file::Value)> = content
        .metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value))
        .collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, t)| (*name, t)).collect();
    let mut target = BufWriter::new(File::create(to)?);
    gguf_file::write(&mut target, &metadata, &tensors)?;
    target.flush()?;
    Ok(())
}
