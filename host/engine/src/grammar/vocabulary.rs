//! A vocabulary as llguidance walks it: a trie over the tokens' bytes. Special tokens are not
//! in it, so that no grammar can produce one, however it is written.

use std::{panic::AssertUnwindSafe, sync::Arc};

use llguidance::{
    ParserFactory,
    api::ParserLimits,
    toktrie::{ApproximateTokEnv, INVALID_TOKEN, SimpleVob, TokEnv, TokRxInfo, TokTrie},
};

use super::GrammarError;
use crate::{request::TokenId, tokenizer::Tokenizer};

/// Longer tokens are left out: they are runs of spaces, and the trie has a limit.
const MAX_TOKEN_BYTES: usize = 512;

/// Shared by all grammars of a model.
pub(super) struct Vocabulary {
    pub(super) factory: ParserFactory,
    /// What a grammar may ever allow beside the end: ordinary tokens.
    pub(super) text_tokens: SimpleVob,
    pub(super) eos_token_ids: Vec<TokenId>,
}

impl Vocabulary {
    /// Takes some tenths of a second for 256,000 tokens.
    pub(super) fn new(
        tokenizer: &Tokenizer,
        eos_token_ids: &[TokenId],
    ) -> Result<Self, GrammarError> {
        let unusable = |reason: String| GrammarError::Vocabulary { reason };
        // The trie asserts what it expects of tokens.
        std::panic::catch_unwind(AssertUnwindSafe(|| Self::build(tokenizer, eos_token_ids)))
            .unwrap_or_else(|_| Err("its tokens make no trie".to_owned()))
            .map_err(unusable)
    }

    fn build(tokenizer: &Tokenizer, eos_token_ids: &[TokenId]) -> Result<Self, String> {
        let num_tokens = tokenizer.vocab_size();
        let num_tokens = u32::try_from(num_tokens).map_err(|error| error.to_string())?;
        let eos_token_ids: Vec<TokenId> = eos_token_ids
            .iter()
            .copied()
            .filter(|id| id.0 < num_tokens)
            .collect();
        let words: Vec<Vec<u8>> = (0..num_tokens)
            .map(|id| tokenizer.token_bytes(TokenId(id)))
            .map(|bytes| match bytes.len() {
                ..=MAX_TOKEN_BYTES => bytes.to_vec(),
                _ => Vec::new(),
            })
            .collect();
        let mut text_tokens = SimpleVob::alloc(words.len());
        for (id, word) in (0..).zip(&words) {
            text_tokens.set(id, !word.is_empty());
        }
        // An end token that stands for text would end an answer in its middle.
        for id in &eos_token_ids {
            text_tokens.set(id.0 as usize, false);
        }
        let first_eos = eos_token_ids.first().map_or(INVALID_TOKEN, |id| id.0);
        let mut trie = TokTrie::from(&TokRxInfo::new(num_tokens, first_eos), &words);
        if !eos_token_ids.is_empty() {
            let ids: Vec<u32> = eos_token_ids.iter().map(|id| id.0).collect();
            trie = trie.with_eos_tokens(&ids);
        }
        // Not canonical: tokens are never forced, the model spells the text in its own way.
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|error| error.to_string())?;
        *factory.limits_mut() = limits();
        factory.quiet();
        Ok(Self {
            factory,
            text_tokens,
            eos_token_ids,
        })
    }
}

/// llguidance's own defaults, which real schemas fit, but for errors: these go to clients and
/// need not carry a parser's state.
pub(super) fn limits() -> ParserLimits {
    ParserLimits {
        verbose_errors: false,
        ..ParserLimits::default()
    }
}
