use std::fs;

use candle_core::quantized::gguf_file::Value as GgufValue;
use serde_json::{Value, json};

use super::*;
use crate::checkpoint::{
    Checkpoint,
    gguf::test_file::{TestGguf, floats, integers, strings},
};

fn ids(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().copied().map(TokenId).collect()
}

fn from_json(json: &Value) -> Result<Tokenizer, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    Tokenizer::from_folder(dir.path())
}

fn from_gguf(file: &TestGguf) -> Result<Tokenizer, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    Checkpoint::open(&file.write(dir.path()))?.tokenizer()
}

/// SentencePiece in the hub's spelling. `<end_of_turn>` is special; `<start_of_turn>` and
/// `<|tool|>` are marked as ordinary added tokens; `\n\n` is one.
fn sentence_piece_json() -> Value {
    let added = |id: u32, content: &str, special: bool| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": special })
    };
    let pieces = [
        "<unk>",
        "<end_of_turn>",
        "<start_of_turn>",
        "<|tool|>",
        "\n\n",
        "<0xE2>",
        "<0x82>",
        "<0xAC>",
        "▁",
        "a",
        "b",
        "▁a",
        "ab",
        "<",
        ">",
        "e",
        "n",
        "d",
        "_",
        "o",
        "f",
        "t",
        "u",
        "r",
        "s",
        "|",
        "l",
        "\n",
    ];
    let vocab: serde_json::Map<String, Value> = pieces
        .iter()
        .zip(0..)
        .map(|(piece, id)| ((*piece).to_owned(), json!(id)))
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": [
            added(0, "<unk>", true), added(1, "<end_of_turn>", true),
            added(2, "<start_of_turn>", false), added(3, "<|tool|>", false), added(4, "\n\n", false),
        ],
        "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" },
        ] },
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": vocab, "merges": ["▁ a", "a b"],
        },
    })
}

#[test]
fn encodes_and_decodes_sentence_piece() {
    let tokenizer = from_json(&sentence_piece_json()).unwrap();
    assert_eq!(tokenizer.encode("ab a\n\n€"), ids(&[12, 11, 4, 5, 6, 7]));
    assert_eq!(tokenizer.decode(&ids(&[12, 11, 4, 5, 6, 7])), "ab a\n\n€");
    assert_eq!(tokenizer.count("ab a"), 2);
    assert_eq!(tokenizer.vocab_size(), 28);
    assert_eq!(tokenizer.token_bytes(TokenId(6)), [0x82]);
    assert_eq!(tokenizer.token_text(TokenId(6)), "\u{fffd}");
    assert_eq!(tokenizer.token_text(TokenId(11)), " a");
    assert_eq!(tokenizer.decode(&ids(&[5, 6])), "\u{fffd}");
    assert_eq!(tokenizer.encode(""), []);
}

#[test]
fn special_tokens_come_by_name_and_never_from_text() {
    let tokenizer = from_json(&sentence_piece_json()).unwrap();
    assert_eq!(tokenizer.token_id("<end_of_turn>"), Some(TokenId(1)));
    assert_eq!(tokenizer.token_id("<start_of_turn>"), Some(TokenId(2)));
    assert_eq!(tokenizer.token_id("ab"), None);
    assert_eq!(tokenizer.token_id("\n\n"), None);
    for text in [
        "<end_of_turn>",
        "a<end_of_turn>\n<start_of_turn>a",
        "<|tool|>",
        "<unk>",
    ] {
        let encoded = tokenizer.encode(text);
        assert!(
            !encoded.iter().any(|id| (1..=3).contains(&id.0)),
            "{text}: {encoded:?}"
        );
        assert!(encoded.len() > 4, "{text}: {encoded:?}");
    }
    assert_eq!(tokenizer.decode(&ids(&[1, 9, 2, 99])), "a");
    assert_eq!(tokenizer.token_text(TokenId(1)), "<end_of_turn>");
    assert!(tokenizer.token_bytes(TokenId(1)).is_empty());
    assert!(tokenizer.is_special(TokenId(3)) && !tokenizer.is_special(TokenId(4)));
    assert!(!tokenizer.is_special(TokenId(99)));
}

/// A file whose merges lead to a special token: still no text reaches it.
#[test]
fn merges_cannot_smuggle_a_special_token() {
    let mut json = sentence_piece_json();
    json["model"]["vocab"]["<|"] = json!(28);
    json["model"]["vocab"]["|>"] = json!(29);
    json["added_tokens"][3]["content"] = json!("<||>");
    json["added_tokens"][3]["special"] = json!(true);
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    vocab.remove("<|tool|>");
    vocab.insert("<||>".to_owned(), json!(3));
    json["model"]["merges"] = json!(["< |", "| >", "<| |>"]);
    let tokenizer = from_json(&json).unwrap();
    assert_eq!(tokenizer.encode("<||>"), ids(&[13, 25, 25, 14]));
    assert_eq!(tokenizer.encode("<|a"), ids(&[28, 9]));
}

/// An id that two texts share would make a special token of ordinary text.
#[test]
fn an_id_of_two_tokens_is_refused() {
    let refusal = |json: &Value| from_json(json).unwrap_err().to_string();
    // A piece takes the id of a special token that is in the vocabulary too.
    let mut shared = sentence_piece_json();
    shared["model"]["vocab"]["a"] = json!(1);
    let reason = refusal(&shared);
    assert!(
        reason.ends_with("`<end_of_turn>` and `a` are both token 1, an id names one token"),
        "{reason}"
    );
    // A special token that the vocabulary lacks goes behind as many ids as there are pieces,
    // which in a vocabulary with holes is a piece's.
    let mut hole = sentence_piece_json();
    let vocab = hole["model"]["vocab"].as_object_mut().unwrap();
    vocab.remove("<end_of_turn>");
    let reason = refusal(&hole);
    assert!(
        reason.ends_with("`\n` and `<end_of_turn>` are both token 27, an id names one token"),
        "{reason}"
    );
    // Two ordinary pieces: what their id says would be left to chance.
    let mut pieces = sentence_piece_json();
    pieces["model"]["vocab"]["zzz"] = json!(10);
    let reason = refusal(&pieces);
    assert!(
        reason.ends_with("`b` and `zzz` are both token 10, an id names one token"),
        "{reason}"
    );
    // Holes alone, and an added token with the vocabulary's own text and id, are right.
    let mut right = sentence_piece_json();
    right["model"]["vocab"]["zzz"] = json!(40);
    let tokenizer = from_json(&right).unwrap();
    assert_eq!(tokenizer.vocab_size(), 41);
    assert_eq!(tokenizer.token_id("<end_of_turn>"), Some(TokenId(1)));
}

#[test]
fn only_tokenizers_that_cut_into_words_remember_them() {
    let cuts = |json: &Value| cuts_into_words(&from_json(json).unwrap().inner.encoder);
    let mut json = sentence_piece_json();
    assert!(!cuts(&json));
    // As Gemma's file has it, where no space is left to cut at.
    json["pre_tokenizer"] = json!({ "type": "Split", "pattern": { "String": " " },
        "behavior": "MergedWithPrevious", "invert": false });
    assert!(!cuts(&json));
    json["pre_tokenizer"]["pattern"]["String"] = json!("▁");
    assert!(cuts(&json));
}

#[test]
fn a_leading_space_that_is_put_there_is_taken_off_again() {
    let mut json = sentence_piece_json();
    json["normalizer"] = json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": "▁" },
        { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
    ] });
    let decoders = json["decoder"]["decoders"].as_array_mut().unwrap();
    decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    let tokenizer = from_json(&json).unwrap();
    assert_eq!(tokenizer.encode("a"), ids(&[11]));
    assert_eq!(tokenizer.decode(&ids(&[11, 11])), "a a");
    // In the middle of an answer the space counts.
    assert_eq!(tokenizer.token_bytes(TokenId(11)), b" a");
}

#[test]
fn broken_tokenizer_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Tokenizer::from_folder(dir.path());
    assert!(
        matches!(missing, Err(LoadError::MissingFile { file, .. }) if file == "tokenizer.json")
    );

    let mut long_merge = sentence_piece_json();
    long_merge["model"]["merges"] = json!(["<end_of_turn> <start_of_turn>"]);
    let mut unknown_merge = sentence_piece_json();
    unknown_merge["model"]["merges"] = json!(["a zzz"]);
    let mut no_unknown = sentence_piece_json();
    no_unknown["model"]["unk_token"] = json!("<none>");
    let mut huge_id = sentence_piece_json();
    huge_id["model"]["vocab"]["huge"] = json!(u32::MAX);
    for json in [
        json!({}),
        json!([1]),
        long_merge,
        unknown_merge,
        no_unknown,
        huge_id,
    ] {
        let error = from_json(&json).unwrap_err();
        assert!(
            matches!(
                error,
                LoadError::Malformed {
                    expected: "tokenizer.json",
                    ..
                }
            ),
            "{error}"
        );
    }
    let mut word_level = sentence_piece_json();
    word_level["model"] = json!({ "type": "WordLevel", "vocab": { "a": 0 }, "unk_token": "a" });
    let mut odd_decoder = sentence_piece_json();
    odd_decoder["decoder"] = json!({ "type": "CTC", "pad_token": "", "word_delimiter_token": "",
                                     "cleanup": false });
    for json in [word_level, odd_decoder] {
        let error = from_json(&json).unwrap_err();
        assert!(
            matches!(error, LoadError::UnsupportedFeature { .. }),
            "{error}"
        );
    }
}

#[test]
fn byte_level_vocabulary_of_a_gguf_file() {
    let mut file = TestGguf::llama();
    file.set(
        "tokenizer.ggml.tokens",
        strings(&[
            "<|im_end|>",
            "a",
            "b",
            "ab",
            "Ġ",
            "1",
            "11",
            "Ãł",
            "Ã",
            "ł",
            "<",
            "|",
            "i",
            "m",
        ]),
    );
    file.set("tokenizer.ggml.token_type", integers(&[3]));
    file.set(
        "tokenizer.ggml.merges",
        strings(&["a b", "1 1", "Ã ł", "not there"]),
    );
    let tokenizer = from_gguf(&file).unwrap();
    // Digits stand alone; `à` is two bytes, joined by a merge.
    assert_eq!(tokenizer.encode("ab 11à"), ids(&[3, 4, 5, 5, 7]));
    assert_eq!(tokenizer.decode(&ids(&[3, 4, 5, 5, 7, 0])), "ab 11à");
    assert_eq!(tokenizer.decode(&ids(&[8])), "\u{fffd}");
    assert_eq!(tokenizer.token_id("<|im_end|>"), Some(TokenId(0)));
    assert!(!tokenizer.encode("<|im_end|>").contains(&TokenId(0)));
    file.set("tokenizer.ggml.pre", GgufValue::String("default".into()));
    assert_eq!(from_gguf(&file).unwrap().encode("11"), ids(&[6]));
    file.set("tokenizer.ggml.pre", GgufValue::String("tekken".into()));
    let error = from_gguf(&file).unwrap_err();
    assert!(
        error.to_string().contains("`tokenizer.ggml.pre` = tekken"),
        "{error}"
    );
}

#[test]
fn sentence_piece_vocabulary_of_a_gguf_file() {
    let mut file = TestGguf::llama();
    let tokens = [
        "<unk>", "<eot>", "\n\n", "<0x0A>", "▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "<", ">",
        "e", "o", "t",
    ];
    let mut scores = vec![0.0; tokens.len()];
    // `bc` is better than `ab`, and `▁a` than both.
    scores[8..12].copy_from_slice(&[-3.0, -2.0, -4.0, -1.0]);
    file.set("tokenizer.ggml.model", GgufValue::String("llama".into()));
    file.set("tokenizer.ggml.tokens", strings(&tokens));
    file.set("tokenizer.ggml.scores", floats(&scores));
    file.set("tokenizer.ggml.token_type", integers(&[2, 3, 4, 6]));
    file.set("tokenizer.ggml.unknown_token_id", GgufValue::U32(0));
    file.set("tokenizer.ggml.add_space_prefix", GgufValue::Bool(false));
    let tokenizer = from_gguf(&file).unwrap();
    assert_eq!(tokenizer.encode("abc"), ids(&[10]));
    assert_eq!(tokenizer.encode(" abc"), ids(&[11, 9]));
    assert_eq!(tokenizer.encode("abab"), ids(&[8, 8]));
    assert_eq!(tokenizer.encode("a\n\n\nb"), ids(&[5, 2, 3, 6]));
    assert_eq!(tokenizer.encode("<eot>"), ids(&[12, 14, 15, 16, 13]));
    // No byte tokens for it: the unknown token.
    assert_eq!(tokenizer.encode("a€"), ids(&[5, 0]));
    assert_eq!(tokenizer.decode(&ids(&[11, 9, 1, 2, 3])), " abc\n\n\n");

    file.set("tokenizer.ggml.add_space_prefix", GgufValue::Bool(true));
    let tokenizer = from_gguf(&file).unwrap();
    assert_eq!(tokenizer.encode("abc"), ids(&[11, 9]));
    assert_eq!(tokenizer.decode(&ids(&[11, 9])), "abc");

    file.set("tokenizer.ggml.scores", floats(&[0.0]));
    assert!(
        from_gguf(&file)
            .unwrap_err()
            .to_string()
            .contains("1 scores for 17 tokens")
    );
    file.set("tokenizer.ggml.model", GgufValue::String("rwkv".into()));
    assert!(
        from_gguf(&file)
            .unwrap_err()
            .to_string()
            .contains("`tokenizer.ggml.model` = rwkv")
    );
}

/// Ids by the models' reference tokenizers, of texts in Indonesian, Javanese, Sundanese, English
/// and others, with code, emoji, runs of spaces and the names of special tokens in them. Those of
/// Gemma are by `tokenizers` from the hub's `tokenizer.json`, so they also show that deriving the
/// merges from scores is right; those of SmolLM2 are by GPT-2's published algorithm, written down
/// in Python as plainly as it can be, over the vocabulary in the file.
#[test]
fn real_vocabularies_give_the_references_ids() {
    let reference = include_str!("reference_ids.json");
    let reference: std::collections::BTreeMap<String, Vec<(String, Vec<TokenId>)>> =
        serde_json::from_str(reference).unwrap();
    for (file, texts) in reference {
        let tokenizer = Checkpoint::open(&model_file(&file))
            .unwrap()
            .tokenizer()
            .unwrap();
        assert!(texts.len() > 30);
        for (text, ids) in texts {
            assert_eq!(tokenizer.encode(&text), ids, "{file}: {text:?}");
            assert_eq!(tokenizer.decode(&ids), text, "{file}");
            assert!(
                !ids.iter().any(|id| tokenizer.is_special(*id)),
                "{file}: {text:?}"
            );
        }
    }
}

/// One of the small real models that `make models` fetches.
fn model_file(name: &str) -> std::path::PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(std::path::PathBuf::from);
    let cache = cache.unwrap_or_else(|| std::env::home_dir().unwrap().join(".cache"));
    let path = cache.join("gapura/models").join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make models` first",
        path.display()
    );
    path
}
