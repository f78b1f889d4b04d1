//! What each token stands for in bytes, and which tokens are special.

use std::collections::HashMap;

use crate::request::TokenId;

/// How a vocabulary spells bytes that are no plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Every byte is a character of its own (GPT-2's table).
    ByteLevel,
    /// `▁` is a space; `<0x0A>` is a byte if the vocabulary has such tokens.
    SentencePiece { byte_fallback: bool },
}

/// All tokens by id.
pub(super) struct Vocabulary {
    /// The bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Where token `i` ends in `bytes`; it begins where the one before ends.
    ends: Vec<u32>,
    is_special: Vec<bool>,
    longest_bytes: usize,
    special: HashMap<String, TokenId>,
    unknown: Option<TokenId>,
    adds_leading_space: bool,
}

impl Vocabulary {
    /// An empty vocabulary. `adds_leading_space`: the encoder puts a space before every text.
    pub(super) fn new(adds_leading_space: bool) -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            is_special: Vec::new(),
            longest_bytes: 0,
            special: HashMap::new(),
            unknown: None,
            adds_leading_space,
        }
    }

    /// The next id is this special token.
    pub(super) fn push_special(&mut self, name: &str) {
        let id = TokenId(u32::try_from(self.ends.len()).expect("ids have 32 bits"));
        self.special.insert(name.to_owned(), id);
        self.push_bytes(name.bytes(), true);
    }

    /// The next id is this piece of text, in the vocabulary's spelling.
    pub(super) fn push_piece(&mut self, piece: &str, spelling: Spelling) {
        match spelling {
            Spelling::ByteLevel => {
                match piece.chars().map(byte_of_char).collect::<Option<Vec<u8>>>() {
                    Some(bytes) => self.push_bytes(bytes, false),
                    // Pieces that were added by hand are spelled as they are.
                    None => self.push_bytes(piece.bytes(), false),
                }
            }
            Spelling::SentencePiece { byte_fallback } => {
                match byte_of_piece(piece).filter(|_| byte_fallback) {
                    Some(byte) => self.push_bytes([byte], false),
                    None => self.push_bytes(piece.replace('▁', " ").bytes(), false),
                }
            }
        }
    }

    fn push_bytes(&mut self, bytes: impl IntoIterator<Item = u8>, is_special: bool) {
        let start = self.bytes.len();
        self.bytes.extend(bytes);
        if !is_special {
            self.longest_bytes = self.longest_bytes.max(self.bytes.len() - start);
        }
        self.ends
            .push(u32::try_from(self.bytes.len()).expect("a vocabulary is far below 4 GiB"));
        self.is_special.push(is_special);
    }

    /// The token that stands for text that the vocabulary cannot spell.
    pub(super) fn set_unknown(&mut self, id: Option<TokenId>) {
        self.unknown = id;
    }

    pub(super) fn unknown(&self) -> Option<TokenId> {
        self.unknown
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn adds_leading_space(&self) -> bool {
        self.adds_leading_space
    }

    /// The token's text, or its name if it is special. Empty outside the vocabulary.
    pub(super) fn bytes(&self, id: TokenId) -> &[u8] {
        let index = id.0 as usize;
        let Some(end) = self.ends.get(index) else {
            return &[];
        };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..*end as usize]
    }

    /// Bytes of the longest token that is text.
    pub(super) fn longest_bytes(&self) -> usize {
        self.longest_bytes
    }

    pub(super) fn is_special(&self, id: TokenId) -> bool {
        self.is_special.get(id.0 as usize).copied().unwrap_or(false)
    }

    pub(super) fn special_id(&self, name: &str) -> Option<TokenId> {
        self.special.get(name).copied()
    }
}

/// The byte that a character stands for in GPT-2's table: printable Latin-1 characters stand for
/// themselves, the other 68 bytes are U+0100 and up, in order.
fn byte_of_char(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// `<0x0A>`: 10.
fn byte_of_piece(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    match digits.len() {
        2 => u8::from_str_radix(digits, 16).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let bytes: HashSet<u8> = ('\0'..='\u{200}').filter_map(byte_of_char).collect();
        assert_eq!(bytes.len(), 256);
        assert_eq!(('\0'..='\u{200}').filter_map(byte_of_char).count(), 256);
        assert_eq!(byte_of_char('Ġ'), Some(b' '));
        assert_eq!(byte_of_char('Ċ'), Some(b'\n'));
    }

    #[test]
    fn byte_pieces_are_bytes_only_with_fallback() {
        let mut vocabulary = Vocabulary::new(false);
        vocabulary.push_piece(
            "<0x0A>",
            Spelling::SentencePiece {
                byte_fallback: true,
            },
        );
        vocabulary.push_piece(
            "<0x0A>",
            Spelling::SentencePiece {
                byte_fallback: false,
            },
        );
        vocabulary.push_piece(
            "▁a",
            Spelling::SentencePiece {
                byte_fallback: true,
            },
        );
        assert_eq!(vocabulary.bytes(TokenId(0)), b"\n");
        assert_eq!(vocabulary.bytes(TokenId(1)), b"<0x0A>");
        assert_eq!(vocabulary.bytes(TokenId(2)), b" a");
        assert_eq!(vocabulary.bytes(TokenId(3)), b"");
    }
}
