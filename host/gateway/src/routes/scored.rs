//! Token ids with logprobs, as text for the client.

use gapura_engine::{TokenId, TokenLogprobs, Tokenizer};

use crate::openai::logprobs::{ScoredToken, TokenText};

/// What a token stands for.
pub(super) fn token_text(tokenizer: &Tokenizer, id: TokenId) -> TokenText {
    TokenText {
        bytes: tokenizer.token_bytes(id).to_vec(),
        text: tokenizer.token_text(id).into_owned(),
    }
}

/// Tokens with their logprobs and alternatives.
pub(super) fn scored(tokenizer: &Tokenizer, tokens: Vec<TokenLogprobs>) -> Vec<ScoredToken> {
    let scored = |token: TokenLogprobs| ScoredToken {
        token: token_text(tokenizer, token.id),
        logprob: Some(token.logprob),
        top: token
            .top
            .into_iter()
            .map(|(id, logprob)| (token_text(tokenizer, id), logprob))
            .collect(),
    };
    tokens.into_iter().map(scored).collect()
}
