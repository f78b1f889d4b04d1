//! Text to token ids and back. Text never becomes a control token, however it is spelled: those
//! come by name from [`Tokenizer::token_id`] alone. That is what keeps a user's
//! `<end_of_turn>` from ending a turn.

use std::{borrow::Cow, fmt, panic::AssertUnwindSafe, path::Path, sync::Arc};

use crate::{
    checkpoint::{gguf::GgufFile, hub_folder::read_optional},
    error::LoadError,
    request::TokenId,
};

pub(crate) mod gguf;
mod json;
mod vocabulary;

use vocabulary::Vocabulary;

/// A model's vocabulary and its rules for cutting text. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    /// With special tokens unmatched in text, without truncation, padding or post-processing.
    encoder: tokenizers::Tokenizer,
    vocabulary: Vocabulary,
}

impl Tokenizer {
    /// From `tokenizer.json` of a folder.
    ///
    /// # Errors
    /// [`LoadError::MissingFile`], [`LoadError::Malformed`], and
    /// [`LoadError::UnsupportedFeature`] for models other than BPE.
    pub fn from_folder(dir: &Path) -> Result<Self, LoadError> {
        let path = dir.join("tokenizer.json");
        match read_optional(&path)? {
            Some(text) => Self::from_json(&path, &text),
            None => Err(LoadError::MissingFile {
                dir: dir.to_path_buf(),
                file: "tokenizer.json".to_owned(),
            }),
        }
    }

    /// From the text of a `tokenizer.json`; `path` is for errors.
    pub(crate) fn from_json(path: &Path, text: &str) -> Result<Self, LoadError> {
        Self::build(path, "tokenizer.json", || json::read(path, text))
    }

    /// From a GGUF file's metadata.
    pub(crate) fn from_gguf(file: &GgufFile) -> Result<Self, LoadError> {
        Self::build(file.path(), "GGUF file", || gguf::read(file))
    }

    /// `tokenizers` indexes without checks where a vocabulary contradicts itself (a merge longer
    /// than every token, for one). That is a broken file, not a bug of ours, so it is caught here.
    fn build(
        path: &Path,
        expected: &'static str,
        read: impl FnOnce() -> Result<(tokenizers::Tokenizer, Vocabulary), LoadError>,
    ) -> Result<Self, LoadError> {
        let malformed = |reason: String| LoadError::Malformed {
            path: path.to_path_buf(),
            expected,
            reason,
        };
        let (mut encoder, vocabulary) = std::panic::catch_unwind(AssertUnwindSafe(read))
            .unwrap_or_else(|_| Err(malformed("its vocabulary contradicts itself".to_owned())))?;
        if !cuts_into_words(&encoder) {
            // Each thread would remember 10,000 texts of up to 255 bytes, and how each becomes
            // tokens: 35 MiB of prompts that never come again. Words do.
            let mut model = encoder.get_model().clone();
            model.resize_cache(0);
            encoder.with_model(model);
        }
        // A character that no vocabulary has takes the one path on which encoding can fail.
        match encoder.encode_fast("\u{10fffd}", false) {
            Ok(_) => Ok(Self {
                inner: Arc::new(Inner {
                    encoder,
                    vocabulary,
                }),
            }),
            Err(error) => Err(malformed(error.to_string())),
        }
    }

    /// The ids of a text, without beginning- or end-of-text. Special tokens spelled in it are
    /// text like any other.
    pub fn encode(&self, text: &str) -> Vec<TokenId> {
        let ids = self.encode_pieces(text);
        let unknown = self.inner.vocabulary.unknown();
        let smuggled = |id: &TokenId| self.is_special(*id) && Some(*id) != unknown;
        if !ids.iter().any(smuggled) {
            return ids;
        }
        // A vocabulary whose merges spell a special token. One character at a time they cannot.
        let mut buffer = [0; 4];
        text.chars()
            .flat_map(|c| self.encode_pieces(c.encode_utf8(&mut buffer)))
            .collect()
    }

    fn encode_pieces(&self, text: &str) -> Vec<TokenId> {
        let encoding = self.inner.encoder.encode_fast(text, false);
        let encoding = encoding.expect("encoding fails on unknown characters alone, tried at load");
        encoding.get_ids().iter().copied().map(TokenId).collect()
    }

    /// How many tokens [`encode`](Self::encode) makes of a text.
    pub fn count(&self, text: &str) -> u32 {
        u32::try_from(self.encode(text).len()).unwrap_or(u32::MAX)
    }

    /// How many tokens a text of so many bytes has at the least, known without reading it. The
    /// runs of characters that some vocabularies answer with a single unknown token aside.
    pub fn least_count(&self, num_bytes: usize) -> usize {
        num_bytes.div_ceil(self.inner.vocabulary.longest_bytes().max(1))
    }

    /// The text of a sequence of ids. Special tokens and ids outside the vocabulary add nothing;
    /// bytes that are no UTF-8 become U+FFFD. Where the vocabulary puts a space before every
    /// text, that one is taken off again.
    pub fn decode(&self, ids: &[TokenId]) -> String {
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|id| self.token_bytes(*id))
            .copied()
            .collect();
        let text = String::from_utf8_lossy(&bytes);
        let text = match self.inner.vocabulary.adds_leading_space() {
            true => text.strip_prefix(' ').unwrap_or(&text),
            false => &text,
        };
        text.to_owned()
    }

    /// What a token adds to the text in the middle of an answer: often a part of a character.
    /// Nothing for special tokens and ids outside the vocabulary.
    pub fn token_bytes(&self, id: TokenId) -> &[u8] {
        match self.is_special(id) {
            true => &[],
            false => self.inner.vocabulary.bytes(id),
        }
    }

    /// A token for display: its name if it is special, else its bytes with U+FFFD for what is no
    /// UTF-8. Empty for ids outside the vocabulary.
    pub fn token_text(&self, id: TokenId) -> Cow<'_, str> {
        String::from_utf8_lossy(self.inner.vocabulary.bytes(id))
    }

    /// A special token's id by its name, such as `<start_of_turn>`; `None` for ordinary tokens.
    pub fn token_id(&self, name: &str) -> Option<TokenId> {
        self.inner.vocabulary.special_id(name)
    }

    /// Whether a token is a control token: a mark of structure, no text.
    pub fn is_special(&self, id: TokenId) -> bool {
        self.inner.vocabulary.is_special(id)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocabulary.len()
    }
}

/// Whether a text becomes tokens word by word, and not as a whole.
fn cuts_into_words(encoder: &tokenizers::Tokenizer) -> bool {
    let words = encoder.encode_char_offsets("a b", false);
    words.is_ok_and(|encoding| {
        encoding
            .get_word_ids()
            .iter()
            .flatten()
            .any(|word| *word > 0)
    })
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.vocab_size())
    }
}

#[cfg(test)]
mod tests;
