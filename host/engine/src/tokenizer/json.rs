//! A tokenizer from `tokenizer.json`.

use std::path::Path;

use serde_json::Value;
use tokenizers::{AddedToken, ModelWrapper};

use super::vocabulary::{Spelling, Vocabulary};
use crate::{error::LoadError, request::TokenId};

/// Larger ids than these are a broken file.
const MAX_VOCABULARY: usize = 1 << 24;

pub(super) fn read(
    path: &Path,
    text: &str,
) -> Result<(tokenizers::Tokenizer, Vocabulary), LoadError> {
    let malformed = |reason: String| LoadError::Malformed {
        path: path.to_path_buf(),
        expected: "tokenizer.json",
        reason,
    };
    let mut tokenizer: tokenizers::Tokenizer = text
        .parse()
        .map_err(|error: tokenizers::Error| malformed(error.to_string()))?;
    let unknown = match tokenizer.get_model() {
        ModelWrapper::BPE(model) => model.get_unk_token().clone(),
        _ => return Err(unsupported(path, "a model other than BPE", "BPE")),
    };
    let (spelling, adds_leading_space) = spelling(path, &tokenizer)?;

    tokenizer
        .with_truncation(None)
        .map_err(|error| malformed(error.to_string()))?
        .with_padding(None)
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>);
    mark_controls(&mut tokenizer).map_err(|error| malformed(error.to_string()))?;
    tokenizer.set_encode_special_tokens(true);

    let added = tokenizer.get_added_tokens_decoder();
    let size = size(&tokenizer).map_err(malformed)?;
    if size > MAX_VOCABULARY {
        return Err(malformed(format!(
            "it has a token {}, the limit is {MAX_VOCABULARY}",
            size - 1
        )));
    }
    let mut vocabulary = Vocabulary::new(adds_leading_space);
    for id in (0..).take(size) {
        match (added.get(&id), tokenizer.id_to_token(id)) {
            (Some(token), _) if token.special => vocabulary.push_special(&token.content),
            (Some(token), _) if !token.normalized => {
                vocabulary.push_piece(&token.content, spelling);
            }
            (_, piece) => vocabulary.push_piece(&piece.unwrap_or_default(), spelling),
        }
    }
    vocabulary.set_unknown(
        unknown
            .and_then(|name| tokenizer.token_to_id(&name))
            .map(TokenId),
    );
    Ok((tokenizer, vocabulary))
}

/// One more than the largest id, or which two tokens share one: a text of the ordinary token
/// would become the special one's id, and what an id says when decoded would be left to chance.
///
/// As many ids as texts, each with a text: then they are one to one. Asking for all tokens copies
/// them, so that is left to vocabularies with holes.
fn size(tokenizer: &tokenizers::Tokenizer) -> Result<usize, String> {
    let count = tokenizer.get_vocab_size(true);
    let is_dense = (0..)
        .take(count)
        .all(|id| tokenizer.id_to_token(id).is_some());
    if is_dense {
        return Ok(count);
    }
    let mut by_id: Vec<(u32, String)> = tokenizer
        .get_vocab(true)
        .into_iter()
        .map(|(text, id)| (id, text))
        .collect();
    by_id.sort_unstable();
    let shared = by_id.array_windows().find(|[(a, _), (b, _)]| a == b);
    match shared {
        Some([(id, one), (_, other)]) => Err(format!(
            "`{one}` and `{other}` are both token {id}, an id names one token"
        )),
        None => Ok(by_id.last().map_or(0, |(id, _)| *id as usize + 1)),
    }
}

/// Makes special what is a mark of structure by its name. Fine-tuned models often carry their
/// turn marks as ordinary added tokens, which any user's text could then spell.
fn mark_controls(tokenizer: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
    let mut controls: Vec<AddedToken> = tokenizer
        .get_added_tokens_decoder()
        .into_values()
        .filter(|token| !token.special && is_control_name(&token.content))
        .collect();
    for token in &mut controls {
        token.special = true;
    }
    tokenizer.add_special_tokens(controls)?;
    Ok(())
}

fn is_control_name(name: &str) -> bool {
    matches!(name, "<start_of_turn>" | "<end_of_turn>")
        || (name.len() > 4 && name.starts_with("<|") && name.ends_with("|>"))
}

/// How the file's decoder turns pieces into text, and whether it takes a leading space off.
fn spelling(path: &Path, tokenizer: &tokenizers::Tokenizer) -> Result<(Spelling, bool), LoadError> {
    let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or_default();
    let steps = match decoder["type"].as_str() {
        Some("Sequence") => decoder["decoders"].as_array().cloned().unwrap_or_default(),
        _ => vec![decoder],
    };
    let mut spelling = None;
    let mut byte_fallback = false;
    let mut strips = false;
    for step in &steps {
        match step["type"].as_str() {
            Some("ByteLevel") => spelling = Some(Spelling::ByteLevel),
            Some("Replace") if step["pattern"]["String"] == "▁" && step["content"] == " " => {
                spelling = Some(Spelling::SentencePiece {
                    byte_fallback: false,
                });
            }
            Some("Metaspace") if step["replacement"] == "▁" => {
                spelling = Some(Spelling::SentencePiece {
                    byte_fallback: false,
                });
                strips |= step["prepend_scheme"] != "never";
            }
            Some("Strip") if is_leading_space(step) => strips = true,
            Some("ByteFallback") => byte_fallback = true,
            Some("Fuse") => {}
            _ => {
                return Err(unsupported(
                    path,
                    &format!("decoder {step}"),
                    SUPPORTED_DECODERS,
                ));
            }
        }
    }
    match spelling {
        Some(Spelling::ByteLevel) => Ok((Spelling::ByteLevel, false)),
        Some(Spelling::SentencePiece { .. }) => {
            Ok((Spelling::SentencePiece { byte_fallback }, strips))
        }
        None => Err(unsupported(path, "no decoder", SUPPORTED_DECODERS)),
    }
}

const SUPPORTED_DECODERS: &str = "byte-level, and SentencePiece with or without byte fallback";

fn is_leading_space(step: &Value) -> bool {
    step["content"] == " " && step["start"] == 1 && step["stop"] == 0
}

fn unsupported(path: &Path, feature: &str, supported: &'static str) -> LoadError {
    LoadError::UnsupportedFeature {
        path: path.to_path_buf(),
        feature: feature.to_owned(),
        supported,
    }
}
