use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::sim::{SimToken, sim_tokenizer, sim_tokens};

const SAMPLES: [&str; 4] = [
    "Selamat pagi, Bu Déwi! Harganya Rp 25.000,00 — ‘murah’ sekali…",
    "👋🏽 halo 👨‍👩‍👧‍👦 ꧋ꦲꦏ꧀ꦱꦫꦗꦮ 漢字",
    "fn main() {\n\tprintln!(\"{}\", 1 << 2);\n}\r\n",
    "STOP ST STOSTOP STO",
];

/// Tokens are slices of one text, at given places: every way in which a text may be split,
/// within characters too.
struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Pieces {
    fn new(text: &str, mut ends: Vec<usize>) -> Arc<Self> {
        ends.push(text.len());
        ends.sort_unstable();
        ends.dedup();
        Arc::new(Self {
            bytes: text.as_bytes().to_vec(),
            ends,
        })
    }

    fn ids(&self) -> Vec<TokenId> {
        (0_u32..)
            .zip(&self.ends)
            .map(|(id, _)| TokenId(id))
            .collect()
    }

    fn piece(&self, token: TokenId) -> &[u8] {
        let index = token.0 as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }
}

impl Detokenizer for Arc<Pieces> {
    fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.piece(token)
    }
}

/// All deltas of a stream over `tokens`.
fn deltas(detokenizer: impl Detokenizer, stops: &[&str], tokens: &[TokenId]) -> Vec<TextDelta> {
    let stops = stops.iter().map(ToString::to_string).collect();
    let mut stream = TextStream::new(detokenizer, stops);
    let mut deltas: Vec<TextDelta> = tokens.iter().map(|&token| stream.push(token)).collect();
    deltas.push(stream.finish());
    deltas
}

fn joined(deltas: &[TextDelta]) -> String {
    deltas.iter().map(|delta| delta.text.as_str()).collect()
}

fn reported(deltas: &[TextDelta]) -> Vec<TokenId> {
    deltas
        .iter()
        .flat_map(|delta| delta.tokens.clone())
        .collect()
}

/// `text` up to where the first stop string to be complete begins.
fn cut<'a>(text: &'a str, stops: &[&str]) -> &'a str {
    let found = stops.iter().filter_map(|stop| {
        let start = text.find(stop)?;
        Some((start + stop.len(), start))
    });
    found.min().map_or(text, |(_, start)| &text[..start])
}

#[test]
fn every_split_point_gives_the_text_and_no_piece_of_a_character() {
    for text in SAMPLES {
        for first in 0..=text.len() {
            for second in first..=text.len().min(first + 7) {
                let pieces = Pieces::new(text, vec![first, second]);
                let tokens = pieces.ids();
                let deltas = deltas(pieces, &[], &tokens);
                assert_eq!(joined(&deltas), text, "split at {first} and {second}");
                assert_eq!(reported(&deltas), tokens);
                assert!(deltas.iter().all(|delta| !delta.text.contains('\u{fffd}')));
            }
        }
    }
}

#[test]
fn a_byte_at_a_time_gives_whole_characters_at_once() {
    for text in SAMPLES {
        let tokens = sim_tokens(text);
        let mut stream = TextStream::new(sim_tokenizer(), vec![]);
        let mut seen = String::new();
        for (count, &token) in (1..).zip(&tokens) {
            seen.push_str(&stream.push(token).text);
            let whole = (0..=count)
                .rev()
                .find(|&end| text.is_char_boundary(end))
                .unwrap();
            assert_eq!(seen, text[..whole]);
        }
        assert_eq!(stream.finish(), TextDelta::default());
    }
}

#[test]
fn an_unfinished_character_is_left_out_but_its_tokens_are_reported() {
    let mut tokens = sim_tokens("é👋");
    tokens.pop();
    let deltas = deltas(sim_tokenizer(), &[], &tokens);
    assert_eq!(joined(&deltas), "é");
    assert_eq!(reported(&deltas), tokens);
}

#[test]
fn bytes_that_are_no_character_are_replaced_as_soon_as_that_is_clear() {
    let tokens = [0x80, 0xE2, 0x82, b'a'.into()].map(TokenId);
    let deltas = deltas(sim_tokenizer(), &[], &tokens);
    let texts: Vec<&str> = deltas.iter().map(|delta| delta.text.as_str()).collect();
    assert_eq!(texts, ["\u{fffd}", "", "", "\u{fffd}a", ""]);
    assert_eq!(joined(&deltas), sim_tokenizer().decode(&tokens));
    assert_eq!(reported(&deltas), tokens);
}

#[test]
fn special_tokens_give_no_text_and_hold_nothing_back() {
    let tokens = [
        vec![SimToken::BOS.id()],
        sim_tokens("a"),
        vec![SimToken::END_OF_TURN.id()],
        sim_tokens("b"),
        vec![SimToken::EOS.id()],
    ]
    .concat();
    let deltas = deltas(sim_tokenizer(), &[], &tokens);
    let texts: Vec<&str> = deltas.iter().map(|delta| delta.text.as_str()).collect();
    assert_eq!(texts, ["", "a", "", "b", "", ""]);
    assert_eq!(reported(&deltas), tokens);
}

#[test]
fn what_may_become_a_stop_string_is_held_and_released_if_it_does_not() {
    let mut stream = TextStream::new(sim_tokenizer(), vec!["<end>".into()]);
    let texts: Vec<String> = sim_tokens("a<en<end")
        .iter()
        .map(|&token| stream.push(token).text)
        .collect();
    assert_eq!(texts, ["a", "", "", "", "<en", "", "", ""]);
    let last = stream.finish();
    assert_eq!(last.text, "<end");
    assert!(!last.stopped);
}

#[test]
fn a_stop_string_ends_the_text_before_it_for_good() {
    let tokens = sim_tokens("ya<end>tidak");
    let deltas = deltas(sim_tokenizer(), &["<end>"], &tokens);
    assert_eq!(joined(&deltas), "ya");
    assert_eq!(reported(&deltas), sim_tokens("ya"));
    assert_eq!(deltas.iter().position(|delta| delta.stopped), Some(6));
    assert_eq!(
        deltas[7..]
            .iter()
            .find(|delta| **delta != TextDelta::default()),
        None
    );
}

#[test]
fn a_token_that_is_cut_by_a_stop_string_is_reported_if_it_gave_text() {
    let pieces = Pieces::new("abSTOPcd", vec![1, 7]);
    let stopped = deltas(pieces.clone(), &["STOP"], &pieces.ids());
    assert_eq!(joined(&stopped), "ab");
    assert_eq!(reported(&stopped), [TokenId(0), TokenId(1)]);
    let pieces = Pieces::new("abSTOPcd", vec![2, 7]);
    let stopped = deltas(pieces.clone(), &["STOP"], &pieces.ids());
    assert_eq!(reported(&stopped), [TokenId(0)]);
}

proptest! {
    #[test]
    fn any_bytes_give_what_decoding_them_at_once_gives(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let tokens: Vec<TokenId> = bytes.iter().map(|&byte| TokenId(byte.into())).collect();
        let deltas = deltas(sim_tokenizer(), &[], &tokens);
        let whole = sim_tokenizer().decode(&tokens);
        let text = joined(&deltas);
        prop_assert!(text == whole || Some(text.as_str()) == whole.strip_suffix(char::REPLACEMENT_CHARACTER));
        prop_assert_eq!(reported(&deltas), tokens);
    }

    #[test]
    fn deltas_are_the_text_cut_at_the_first_stop_string(
        text in "[abST é👋]{0,40}",
        splits in prop::collection::vec(0_usize..80, 0..20),
        stops in prop::collection::vec("[abSTé]{1,3}", 0..4),
    ) {
        let splits = splits.into_iter().filter(|&split| split > 0 && split < text.len()).collect();
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let pieces = Pieces::new(&text, splits);
        let tokens = pieces.ids();
        let deltas = deltas(pieces, &stops, &tokens);
        prop_assert_eq!(joined(&deltas), cut(&text, &stops));
        prop_assert_eq!(deltas.iter().any(|delta| delta.stopped), cut(&text, &stops) != text);
        let reported = reported(&deltas);
        prop_assert_eq!(&reported, &tokens[..reported.len()]);
    }
}
