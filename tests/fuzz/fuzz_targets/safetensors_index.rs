//! An index of shards and a shard, both any bytes: up to the first zero byte the index, then
//! the shard that it may name.
#![no_main]

use std::fs;

use gapura_engine::{Checkpoint, CpuOptions, CpuRunner};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let folder = gapura_fuzz::folder(|folder| {
        for name in ["config.json", "tokenizer.json"] {
            fs::copy(format!("{}/{name}", gapura_fuzz::FIXTURE), folder.join(name))
                .expect("the fixture is there");
        }
    });
    let (index, shard) = match data.iter().position(|byte| *byte == 0) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    fs::write(folder.join("model.safetensors.index.json"), index).expect("room for the input");
    fs::write(folder.join("s"), shard).expect("room for the input");
    let Ok(checkpoint) = Checkpoint::open(folder) else {
        return;
    };
    for name in ["model.embed_tokens.weight", "model.norm.weight", "a"] {
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
