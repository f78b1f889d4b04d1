//! Text to ids as the reference tokenizers do it, and back piece by piece.
//!
//! The corpus and its reference ids lie in `tests/tokenizer`, with the scripts that made them:
//! Gemma 2 by the `tokenizers` package from the model's own `tokenizer.json`, Gemma 3 and
//! SmolLM2 by llama.cpp from the vocabulary of the GGUF file. Which is there depends on what
//! was fetched: `make models` for the GGUF files, `make verify` for Gemma 2's too.

use std::{
    fs,
    path::{Path, PathBuf},
};

use gapura_engine::{Checkpoint, TextStream, TokenId, Tokenizer};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tokenizer")
}

pub(crate) fn cached(path: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
    cache.unwrap_or_else(home).join("gapura").join(path)
}

fn corpus() -> Vec<String> {
    let text = fs::read_to_string(folder().join("corpus.jsonl")).unwrap();
    let line = |line| serde_json::from_str(line).unwrap();
    text.lines().map(line).collect()
}

/// Reads what `make_ids.py` packed: for each text, its ids with the names of special tokens as
/// text, and as special tokens.
struct Packed(std::vec::IntoIter<u8>);

impl Packed {
    fn number(&mut self) -> u32 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.0.next().unwrap();
            value |= u32::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                return value;
            }
        }
    }

    fn pair(&mut self) -> [Vec<u32>; 2] {
        let length = self.number() / 2;
        let as_text: Vec<u32> = (0..length).map(|_| self.number()).collect();
        let special = match self.number() {
            length if length % 2 == 1 => as_text.clone(),
            length => (0..length / 2).map(|_| self.number()).collect(),
        };
        [as_text, special]
    }
}

/// Special tokens by name, as a template puts them in: cut out of `text`, the first and longest
/// name first.
fn encode_with_special(tokenizer: &Tokenizer, names: &[String], text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = text;
    loop {
        let found = names
            .iter()
            .filter_map(|name| Some((rest.find(name.as_str())?, name)));
        let first = found.min_by_key(|(at, name)| (*at, usize::MAX - name.len()));
        let before = first.map_or(rest, |(at, _)| &rest[..at]);
        ids.extend(tokenizer.encode(before).iter().map(|id| id.0));
        let Some((at, name)) = first else {
            return ids;
        };
        ids.push(tokenizer.token_id(name).unwrap().0);
        rest = &rest[at + name.len()..];
    }
}

/// Every text but the empty one has the reference's ids, with special tokens off and on.
fn check(name: &str, tokenizer: &Tokenizer) {
    let packed = fs::read(folder().join(name).with_extension("ids")).unwrap();
    let mut packed = Packed(packed.into_iter());
    let names: Vec<String> = (0..u32::try_from(tokenizer.vocab_size()).unwrap())
        .filter(|id| tokenizer.is_special(TokenId(*id)))
        .map(|id| tokenizer.token_text(TokenId(id)).into_owned())
        .filter(|name| !name.is_empty())
        .collect();
    let (mut wrong, mut num_ids) = (Vec::new(), 0);
    let corpus = corpus();
    for text in &corpus {
        let [as_text, special] = packed.pair();
        let ids: Vec<u32> = tokenizer.encode(text).iter().map(|id| id.0).collect();
        num_ids += ids.len();
        if ids != as_text {
            wrong.push(format!(
                "{text:?}, special tokens off:\n ours      {ids:?}\n reference {as_text:?}"
            ));
        }
        let ids = encode_with_special(tokenizer, &names, text);
        if ids != special {
            wrong.push(format!(
                "{text:?}, special tokens on:\n ours      {ids:?}\n reference {special:?}"
            ));
        }
        stream(tokenizer, text);
    }
    assert!(packed.0.next().is_none(), "more ids than texts");
    println!(
        "gate: tokenizer, {name}, {} texts, {num_ids} ids | {} wrong | 0",
        corpus.len(),
        wrong.len()
    );
    assert!(
        wrong.is_empty(),
        "{name}: {} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Token by token the text grows to what it was, and at no place is it anything but a
/// beginning of it.
fn stream(tokenizer: &Tokenizer, text: &str) {
    let mut stream = TextStream::new(tokenizer.clone(), Vec::new());
    let mut streamed = String::new();
    let ids = tokenizer.encode(text);
    for id in &ids {
        streamed.push_str(&stream.push(*id).text);
        assert!(
            text.starts_with(&streamed) || text.contains('▁'),
            "{streamed:?} of {text:?}"
        );
    }
    streamed.push_str(&stream.finish().text);
    // SentencePiece writes spaces as `▁`, so that one in the text comes back as a space.
    if !text.contains('▁') {
        assert_eq!(streamed, text);
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

#[test]
fn gemma2_tokenizes_as_its_reference() {
    let path = cached("tokenizers/gemma2-3.7.2");
    if !path.join("tokenizer.json").exists() {
        eprintln!("{} is not there: `make verify` fetches it", path.display());
        return;
    }
    check("gemma2", &Tokenizer::from_folder(&path).unwrap());
}

#[test]
fn gemma3_tokenizes_as_llama_cpp_from_the_gguf_files_vocabulary() {
    check_gguf("gemma3", "models/gemma-3-270m-Q4_K_M.gguf");
}

#[test]
fn smollm2_tokenizes_as_llama_cpp_from_the_gguf_files_vocabulary() {
    check_gguf("smollm2", "models/SmolLM2-135M-Instruct.Q4_1.gguf");
}

fn check_gguf(name: &str, path: &str) {
    let path = cached(path);
    if !path.exists() {
        eprintln!("{} is not there: `make models` fetches it", path.display());
        return;
    }
    check(name, &Checkpoint::open(&path).unwrap().tokenizer().unwrap());
}
