//! The simulated model's vocabulary: the 256 bytes, so that any text is readable, and the
//! special tokens of the chat templates in use.

use std::path::Path;

use tokenizers::{AddedToken, decoders::byte_level::ByteLevel, models::bpe::BPE};

use crate::{request::TokenId, tokenizer::Tokenizer};

/// A special token of the simulated model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimToken(u32);

/// In order of their ids, from 256 on.
const SPECIAL_TOKENS: [&str; 7] = [
    "<pad>",
    "<bos>",
    "<eos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|im_start|>",
    "<|im_end|>",
];

const NUM_BYTES: u32 = 256;

impl SimToken {
    /// `<pad>`.
    pub const PAD: Self = Self(0);
    /// `<bos>`.
    pub const BOS: Self = Self(1);
    /// `<eos>`.
    pub const EOS: Self = Self(2);
    /// `<start_of_turn>`, as Gemma writes it.
    pub const START_OF_TURN: Self = Self(3);
    /// `<end_of_turn>`.
    pub const END_OF_TURN: Self = Self(4);
    /// `<|im_start|>`, as ChatML writes it.
    pub const IM_START: Self = Self(5);
    /// `<|im_end|>`.
    pub const IM_END: Self = Self(6);

    /// Bytes and special tokens.
    pub const VOCAB_SIZE: usize = NUM_BYTES as usize + SPECIAL_TOKENS.len();

    /// Its place in the vocabulary.
    #[must_use]
    pub const fn id(self) -> TokenId {
        TokenId(NUM_BYTES + self.0)
    }

    /// As templates name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        SPECIAL_TOKENS[self.0 as usize]
    }

    /// Whether `token` is one of these and not a byte.
    #[must_use]
    pub const fn is_special(token: TokenId) -> bool {
        token.0 >= NUM_BYTES
    }
}

/// The tokens of `text`: its bytes.
#[must_use]
pub fn sim_tokens(text: &str) -> Vec<TokenId> {
    text.bytes().map(|byte| TokenId(u32::from(byte))).collect()
}

/// A tokenizer of this vocabulary. Of text it makes what [`sim_tokens`] does.
#[must_use]
pub fn sim_tokenizer() -> Tokenizer {
    let vocabulary: [(String, u32); NUM_BYTES as usize] = std::array::from_fn(|index| {
        let byte = u8::try_from(index).expect("a byte has 256 values");
        (byte_level_char(byte).to_string(), u32::from(byte))
    });
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, vec![])
        .build()
        .expect("a vocabulary without merges is consistent");
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, false)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, false)));
    tokenizer
        .add_special_tokens(SPECIAL_TOKENS.map(|name| AddedToken::from(name, true)))
        .expect("the vocabulary has room for special tokens");
    let json = tokenizer
        .to_string(false)
        .expect("it holds only what JSON can say");
    Tokenizer::from_json(Path::new("sim"), &json).expect("it is a BPE tokenizer")
}

/// The character that stands for a byte in byte-level vocabularies: printable bytes for
/// themselves, the others for characters from U+0100 on, in order.
fn byte_level_char(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_printable(byte) {
        return char::from(byte);
    }
    let index = (0..byte).filter(|&other| !is_printable(other)).count();
    u32::try_from(index)
        .ok()
        .and_then(|index| char::from_u32(0x100 + index))
        .expect("68 characters from U+0100 on exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_special_token_has_the_id_it_says() {
        let tokenizer = sim_tokenizer();
        assert_eq!(tokenizer.vocab_size(), SimToken::VOCAB_SIZE);
        for token in [
            SimToken::PAD,
            SimToken::BOS,
            SimToken::EOS,
            SimToken::START_OF_TURN,
            SimToken::END_OF_TURN,
            SimToken::IM_START,
            SimToken::IM_END,
        ] {
            assert_eq!(tokenizer.token_id(token.name()), Some(token.id()));
        }
    }

    #[test]
    fn text_is_its_bytes_and_comes_back_whole() {
        let tokenizer = sim_tokenizer();
        let text = "Sugeng énjing 👋🏽\n\tfn main() {}\u{0}\u{7f}<eos>";
        assert_eq!(tokenizer.encode(text), sim_tokens(text));
        assert_eq!(tokenizer.decode(&sim_tokens(text)), text);
    }
}
