//! Any bytes as `tokenizer.json`; what loads must encode and decode.
#![no_main]

use std::fs;

use gapura_engine::{TokenId, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let folder = gapura_fuzz::folder(|_| {});
    fs::write(folder.join("tokenizer.json"), data).expect("room for the input");
    let Ok(tokenizer) = Tokenizer::from_folder(folder) else {
        return;
    };
    let ids = tokenizer.encode("Halo <eos> dünia 東京\u{1f642}\n\u{0}");
    for id in &ids {
        assert!((id.0 as usize) < tokenizer.vocab_size());
        assert!(!tokenizer.is_special(*id) || tokenizer.token_text(*id).contains("unk"));
    }
    tokenizer.decode(&ids);
    tokenizer.decode(&[TokenId(0), TokenId(u32::MAX)]);
    tokenizer.token_id("<eos>");
});
