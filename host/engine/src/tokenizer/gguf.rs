//! A tokenizer from a GGUF file's metadata: byte-level BPE with its merges (`gpt2`), or a
//! SentencePiece vocabulary with scores (`llama`), from which the merges are derived.

use std::borrow::Cow;

use rayon::prelude::*;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    models::bpe::{BPE, Merges, Vocab},
    normalizers::{Prepend, Replace, Sequence as NormalizerSequence},
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence as PreTokenizerSequence,
        split::{Split, SplitPattern},
    },
};

use super::vocabulary::{Spelling, Vocabulary};
use crate::{checkpoint::gguf::GgufFile, error::LoadError, request::TokenId};

const PRE_TOKENIZERS: &str = "default, gpt-2, smollm, llama-bpe (as `tokenizer.ggml.pre`)";

/// Llama 3's cutting of text into words, before BPE.
const LLAMA3_WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A piece of text.
    Normal,
    /// A mark of structure, never text.
    Control,
    /// A piece that is cut out of the text before anything else.
    UserDefined,
    /// One byte of a character that has no piece.
    Byte,
}

impl TokenKind {
    /// The kinds of all tokens in order; all normal where the file does not say.
    pub(crate) fn read(file: &GgufFile) -> Result<impl Iterator<Item = Self>, LoadError> {
        let kinds = file
            .integers("tokenizer.ggml.token_type")?
            .unwrap_or_default();
        Ok(kinds
            .into_iter()
            .map(Self::from_ggml)
            .chain(std::iter::repeat(Self::Normal)))
    }

    /// ggml's `llama_token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    fn from_ggml(kind: i32) -> Self {
        match kind {
            2 | 3 | 5 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// `tokenizer.ggml.model`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VocabularyKind {
    /// `gpt2`.
    ByteLevel,
    /// `llama`.
    SentencePiece,
}

impl VocabularyKind {
    /// `None` if the file has no vocabulary.
    pub(crate) fn read(file: &GgufFile) -> Result<Option<Self>, LoadError> {
        match file.string("tokenizer.ggml.model")?.as_deref() {
            None => Ok(None),
            Some("gpt2") => Ok(Some(Self::ByteLevel)),
            Some("llama") => Ok(Some(Self::SentencePiece)),
            Some(other) => {
                let feature = format!("`tokenizer.ggml.model` = {other}");
                Err(unsupported(
                    file,
                    feature,
                    "gpt2 (byte-level BPE), llama (SentencePiece)",
                ))
            }
        }
    }
}

pub(super) fn read(file: &GgufFile) -> Result<(tokenizers::Tokenizer, Vocabulary), LoadError> {
    let missing = |key: &str| malformed(file, format!("`tokenizer.ggml.{key}` is missing"));
    let kind = VocabularyKind::read(file)?.ok_or_else(|| missing("model"))?;
    let texts = file
        .strings("tokenizer.ggml.tokens")?
        .ok_or_else(|| missing("tokens"))?;
    let tokens = Tokens {
        kinds: TokenKind::read(file)?.take(texts.len()).collect(),
        texts,
    };

    let unknown = file.number("tokenizer.ggml.unknown_token_id")?;
    let unknown = unknown.and_then(|id| u32::try_from(id).ok()).map(TokenId);
    let adds_leading_space = kind == VocabularyKind::SentencePiece
        && file
            .bool("tokenizer.ggml.add_space_prefix")?
            .unwrap_or(true);
    let mut tokenizer = match kind {
        VocabularyKind::ByteLevel => byte_level(file, &tokens)?,
        VocabularyKind::SentencePiece => {
            sentence_piece(file, &tokens, unknown, adds_leading_space)?
        }
    };
    // User-defined pieces are cut out first, as they are spelled. They are in the model's
    // vocabulary too, so each keeps its id.
    let cut_out = tokens
        .of_kind(TokenKind::UserDefined)
        .filter(|(_, text)| !text.is_empty());
    tokenizer
        .add_tokens(cut_out.map(|(_, text)| AddedToken::from(text, false).normalized(false)))
        .map_err(|error| malformed(file, error.to_string()))?;

    let spelling = match kind {
        VocabularyKind::ByteLevel => Spelling::ByteLevel,
        VocabularyKind::SentencePiece => Spelling::SentencePiece {
            byte_fallback: true,
        },
    };
    let mut vocabulary = Vocabulary::new(adds_leading_space);
    for (text, kind) in tokens.texts.iter().zip(&tokens.kinds) {
        match kind {
            TokenKind::Control => vocabulary.push_special(text),
            _ => vocabulary.push_piece(text, spelling),
        }
    }
    vocabulary.set_unknown(unknown);
    Ok((tokenizer, vocabulary))
}

/// The vocabulary as the file lists it; the index is the id.
struct Tokens<'a> {
    texts: Vec<Cow<'a, str>>,
    kinds: Vec<TokenKind>,
}

impl Tokens<'_> {
    fn of_kind(&self, wanted: TokenKind) -> impl Iterator<Item = (u32, &str)> {
        let tokens = (0..).zip(&self.texts).zip(&self.kinds);
        tokens
            .filter(move |(_, kind)| **kind == wanted)
            .map(|((id, text), _)| (id, text.as_ref()))
    }

    /// What BPE may make of text. Control tokens are left out: no merge can ever reach one.
    fn of_text(&self) -> impl Iterator<Item = (u32, &str)> {
        let tokens = (0..).zip(&self.texts).zip(&self.kinds);
        tokens
            .filter(|(_, kind)| **kind != TokenKind::Control)
            .map(|((id, text), _)| (id, text.as_ref()))
    }

    fn bpe_vocabulary(&self) -> Vocab {
        self.of_text()
            .map(|(id, text)| (text.to_owned(), id))
            .collect()
    }
}

fn byte_level(file: &GgufFile, tokens: &Tokens<'_>) -> Result<tokenizers::Tokenizer, LoadError> {
    let pre = file
        .string("tokenizer.ggml.pre")?
        .unwrap_or(Cow::Borrowed("default"));
    let whole_words = pre == "llama-bpe";
    let byte_level = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
    let steps = match pre.as_ref() {
        "default" | "gpt-2" => vec![byte_level(true)],
        "smollm" => vec![Digits::new(true).into(), byte_level(true)],
        "llama-bpe" => {
            let pattern = SplitPattern::Regex(LLAMA3_WORDS.to_owned());
            let words = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| malformed(file, error.to_string()))?;
            vec![words.into(), byte_level(false)]
        }
        _ => {
            return Err(unsupported(
                file,
                format!("`tokenizer.ggml.pre` = {pre}"),
                PRE_TOKENIZERS,
            ));
        }
    };
    let Some(lines) = file.strings("tokenizer.ggml.merges")? else {
        return Err(malformed(
            file,
            "`tokenizer.ggml.merges` is missing".to_owned(),
        ));
    };
    let vocabulary = tokens.bpe_vocabulary();
    let mut merges = Merges::with_capacity(lines.len());
    for line in &lines {
        // The space between the halves; a half may begin with one, in files made by hand.
        let cut = line
            .char_indices()
            .skip(1)
            .find(|(_, c)| *c == ' ')
            .map(|(at, _)| at);
        let Some((left, right)) = cut.map(|at| (&line[..at], &line[at + 1..])) else {
            return Err(malformed(
                file,
                format!("the merge `{line}` has no two halves"),
            ));
        };
        // A merge into nothing can never happen, so leaving it out changes nothing.
        if [left, right, &format!("{left}{right}")]
            .iter()
            .all(|piece| vocabulary.contains_key(*piece))
        {
            merges.push((left.to_owned(), right.to_owned()));
        }
    }
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .ignore_merges(whole_words)
        .build();
    let mut tokenizer =
        tokenizers::Tokenizer::new(model.map_err(|error| malformed(file, error.to_string()))?);
    tokenizer
        .with_pre_tokenizer(Some(PreTokenizerSequence::new(steps)))
        .with_decoder(Some(DecoderWrapper::from(ByteLevel::default())));
    Ok(tokenizer)
}

fn sentence_piece(
    file: &GgufFile,
    tokens: &Tokens<'_>,
    unknown: Option<TokenId>,
    adds_leading_space: bool,
) -> Result<tokenizers::Tokenizer, LoadError> {
    let Some(scores) = file.floats("tokenizer.ggml.scores")? else {
        return Err(malformed(
            file,
            "`tokenizer.ggml.scores` is missing".to_owned(),
        ));
    };
    if scores.len() != tokens.texts.len() {
        let (found, expected) = (scores.len(), tokens.texts.len());
        return Err(malformed(
            file,
            format!("{found} scores for {expected} tokens"),
        ));
    }
    let mut vocabulary = tokens.bpe_vocabulary();
    let merges = merges_by_score(tokens, &vocabulary, &scores);
    let mut model = BPE::builder().byte_fallback(true).fuse_unk(true);
    // The only control token that encoding may name: it stands for text without bytes.
    if let Some((id, name)) = unknown.and_then(|id| Some((id.0, tokens.texts.get(id.0 as usize)?)))
    {
        vocabulary.insert(name.clone().into_owned(), id);
        model = model.unk_token(name.clone().into_owned());
    }
    let model = model.vocab_and_merges(vocabulary, merges).build();
    let mut tokenizer =
        tokenizers::Tokenizer::new(model.map_err(|error| malformed(file, error.to_string()))?);
    let spaces = Replace::new(" ", "▁").map_err(|error| malformed(file, error.to_string()))?;
    let mut steps: Vec<NormalizerWrapper> = vec![spaces.into()];
    if adds_leading_space {
        steps.insert(0, Prepend::new("▁".to_owned()).into());
    }
    tokenizer
        .with_normalizer(Some(NormalizerSequence::new(steps)))
        .map_err(|error| malformed(file, error.to_string()))?;
    Ok(tokenizer)
}

/// SentencePiece joins the two neighbours whose union has the best score. As BPE: every way to
/// cut a piece into two others is a merge, in the order of the pieces' scores.
fn merges_by_score(tokens: &Tokens<'_>, vocabulary: &Vocab, scores: &[f32]) -> Merges {
    let is_normal = |piece: &str| {
        let id = vocabulary.get(piece);
        id.is_some_and(|id| tokens.kinds[*id as usize] == TokenKind::Normal)
    };
    let pieces: Vec<(u32, &str)> = tokens.of_kind(TokenKind::Normal).collect();
    let mut merges: Vec<(f32, usize, &str, &str)> = pieces
        .par_iter()
        .flat_map_iter(|(id, piece)| {
            let cuts = piece
                .char_indices()
                .skip(1)
                .map(|(cut, _)| (cut, piece.split_at(cut)));
            let cuts = cuts.filter(|(_, (left, right))| is_normal(left) && is_normal(right));
            cuts.map(|(cut, (left, right))| (scores[*id as usize], cut, left, right))
        })
        .collect();
    // Of one piece's cuts, the one with the longer left half first.
    merges.par_sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    merges
        .into_par_iter()
        .map(|(_, _, left, right)| (left.to_owned(), right.to_owned()))
        .collect()
}

fn malformed(file: &GgufFile, reason: String) -> LoadError {
    LoadError::Malformed {
        path: file.path().to_path_buf(),
        expected: "GGUF file",
        reason,
    }
}

fn unsupported(file: &GgufFile, feature: String, supported: &'static str) -> LoadError {
    LoadError::UnsupportedFeature {
        path: file.path().to_path_buf(),
        feature,
        supported,
    }
}
