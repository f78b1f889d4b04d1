//! Any bytes as a GGUF file: configuration, vocabulary, tensors and, where all of that is
//! right, the model itself. An error, never a panic, and no memory beyond the file's measure.
#![no_main]

use std::fs;

use gapura_engine::{Checkpoint, CpuOptions, CpuRunner};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = gapura_fuzz::folder(|_| {}).join("model.gguf");
    fs::write(&path, data).expect("room for the input");
    let Ok(checkpoint) = Checkpoint::open(&path) else {
        return;
    };
    if let Ok(tokenizer) = checkpoint.tokenizer() {
        let ids = tokenizer.encode("Selamat pagi <|im_end|> 42");
        tokenizer.decode(&ids);
    }
    for name in ["token_embd.weight", "blk.0.attn_q.weight", "output_norm.weight"] {
        if let Ok(weight) = checkpoint.tensor(name) {
            weight.to_f32();
        }
    }
    let options = CpuOptions {
        threads: Some(1),
        ..CpuOptions::default()
    };
    let _ = CpuRunner::new(&checkpoint, options);
});
