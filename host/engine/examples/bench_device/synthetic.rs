//! A checkpoint of Gemma 2 9B's shape without its weights: a file of zeros that takes no room on
//! the disk, and nothing is read of it where weights are random. Or with random weights in it, so
//! that others compute with the same.

use std::{
    fs::{self, File},
    io::{self, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use gapura_engine::Checkpoint;
use half::bf16;
use serde_json::{Map, Value, json};

use crate::Outcome;

/// A vocabulary of bytes; ids beyond it are numbers like any other.
const TOKENIZER: &str = include_str!("../../../../tests/fixtures/tiny-gemma2-b/tokenizer.json");

/// Of random values: what models are initialized with.
const STD: f32 = 0.02;

/// Bytes of the file that a thread fills at a time.
const PIECE_BYTES: u64 = 16 << 20;

/// Sizes of a model.
struct Sizes {
    layers: u64,
    hidden: u64,
    inner: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
    vocab: u64,
    window: u64,
    context: u64,
}

const GEMMA_2_9B: Sizes = Sizes {
    layers: 42,
    hidden: 3584,
    inner: 14_336,
    heads: 16,
    kv_heads: 8,
    head_dim: 256,
    vocab: 256_000,
    window: 4096,
    context: 8192,
};

/// The same in small, to rehearse with.
const TINY: Sizes = Sizes {
    layers: 2,
    hidden: 256,
    inner: 512,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    vocab: 512,
    window: 64,
    context: 512,
};

/// The folder, which lives as long as its name does, and what it holds.
pub(crate) fn checkpoint(is_full_size: bool) -> Outcome<(tempfile::TempDir, Checkpoint)> {
    let folder = tempfile::tempdir()?;
    write(folder.path(), is_full_size, None)?;
    let checkpoint = Checkpoint::open(folder.path())?;
    Ok((folder, checkpoint))
}

/// Writes the files into `folder`; with a seed, matrices of random values.
pub(crate) fn write(folder: &Path, is_full_size: bool, random: Option<u64>) -> Outcome<()> {
    let sizes = if is_full_size { GEMMA_2_9B } else { TINY };
    let write = |name: &str, value: &Value| fs::write(folder.join(name), value.to_string());
    write("config.json", &config(&sizes))?;
    write("generation_config.json", &json!({ "eos_token_id": [1] }))?;
    fs::write(folder.join("tokenizer.json"), TOKENIZER)?;
    let (header, data_bytes, matrices) = header(&sizes);
    let header = header.to_string();
    let mut file = File::create(folder.join("model.safetensors"))?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let data = 8 + header.len() as u64;
    file.set_len(data + data_bytes)?;
    if let Some(seed) = random {
        fill(&file, data, &matrices, seed)?;
    }
    Ok(())
}

/// Writes random values over `matrices`, which are ranges of the data that begins at `data`, by all
/// processors. Which values does not depend on how many there are.
fn fill(file: &File, data: u64, matrices: &[Range<u64>], seed: u64) -> io::Result<()> {
    let of_matrix = |matrix: &Range<u64>| {
        let end = matrix.end;
        let starts = matrix.clone().step_by(PIECE_BYTES as usize);
        starts.map(move |start| start..end.min(start + PIECE_BYTES))
    };
    let pieces: Vec<Range<u64>> = matrices.iter().flat_map(of_matrix).collect();
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<()> {
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.get(next.fetch_add(1, Relaxed)) {
            bytes.clear();
            let mut state = seed ^ piece.start;
            let values = (piece.end - piece.start) / 2;
            bytes.extend((0..values).flat_map(|_| normal(&mut state).to_le_bytes()));
            file.write_all_at(&bytes, data + piece.start)?;
        }
        Ok(())
    };
    let num_threads = thread::available_parallelism()?.get();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..num_threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            let done = thread.join();
            done.unwrap_or_else(|_| Err(io::Error::other("a thread that fills the file panicked")))
        })
    })
}

/// About normal: the sum of four numbers, which splitmix64 gives at a time.
fn normal(state: &mut u64) -> bf16 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    let sum: u64 = [0, 16, 32, 48]
        .map(|shift| (bits >> shift) & 0xffff)
        .iter()
        .sum();
    // Of each of the four the mean is 32767.5 and the variance 2^32 / 12.
    let deviation = 65_536.0 / 3.0_f32.sqrt();
    bf16::from_f32((sum as f32 - 131_070.0) / deviation * STD)
}

fn config(sizes: &Sizes) -> Value {
    json!({
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "head_dim": sizes.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "max_position_embeddings": sizes.context,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "query_pre_attn_scalar": sizes.head_dim,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "sliding_window": sizes.window,
        "torch_dtype": "bfloat16",
        "vocab_size": sizes.vocab,
    })
}

/// The header of a safetensors file, the bytes of the data behind it, and where in them matrices
/// lie.
fn header(sizes: &Sizes) -> (Value, u64, Vec<Range<u64>>) {
    let mut tensors = Map::new();
    // Some readers refuse a file that does not say whose it is.
    tensors.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut matrices = Vec::new();
    let mut end = 0;
    let mut add = |name: String, shape: &[u64]| {
        let begin = end;
        end += 2 * shape.iter().product::<u64>();
        let tensor = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [begin, end] });
        tensors.insert(name, tensor);
        if shape.len() == 2 {
            matrices.push(begin..end);
        }
    };
    let (hidden, inner) = (sizes.hidden, sizes.inner);
    let (q, kv) = (
        sizes.heads * sizes.head_dim,
        sizes.kv_heads * sizes.head_dim,
    );
    add("model.embed_tokens.weight".into(), &[sizes.vocab, hidden]);
    for layer in 0..sizes.layers {
        let mut of_layer =
            |part: &str, shape: &[u64]| add(format!("model.layers.{layer}.{part}.weight"), shape);
        of_layer("self_attn.q_proj", &[q, hidden]);
        of_layer("self_attn.k_proj", &[kv, hidden]);
        of_layer("self_attn.v_proj", &[kv, hidden]);
        of_layer("self_attn.o_proj", &[hidden, q]);
        of_layer("mlp.gate_proj", &[inner, hidden]);
        of_layer("mlp.up_proj", &[inner, hidden]);
        of_layer("mlp.down_proj", &[hidden, inner]);
        for norm in [
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ] {
            of_layer(norm, &[hidden]);
        }
    }
    add("model.norm.weight".into(), &[hidden]);
    (Value::Object(tensors), end, matrices)
}
