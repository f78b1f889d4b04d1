//! Random pieces of random bytes with random stop strings: the stream's text is the whole
//! text up to the first stop string to be complete, whatever the pieces are.
#![no_main]

use gapura_engine::{Detokenizer, TextStream, TokenId};
use libfuzzer_sys::fuzz_target;

struct Pieces<'a>(&'a [&'a [u8]]);

impl Detokenizer for Pieces<'_> {
    fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.0[token.0 as usize]
    }
}

/// Bytes become text one by one, so the result does not depend on pieces. The beginning of a
/// character that is never completed is left out.
fn expected(bytes: &[u8], stops: &[String]) -> (String, bool) {
    let mut text = String::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                break;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                let Some(num_invalid) = error.error_len() else {
                    break;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &after[num_invalid..];
            }
        }
    }
    let first = stops
        .iter()
        .filter(|stop| !stop.is_empty())
        .filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at)))
        .min();
    match first {
        Some((_, at)) => (text[..at].to_owned(), true),
        None => (text, false),
    }
}

fuzz_target!(|input: (Vec<Vec<u8>>, Vec<String>)| {
    let (pieces, stops) = input;
    let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    let (text, stopped) = expected(&pieces.concat(), &stops);

    let mut stream = TextStream::new(Pieces(&pieces), stops);
    let mut streamed = String::new();
    let mut has_stopped = false;
    for token in (0_u32..).zip(&pieces).map(|(id, _)| TokenId(id)) {
        let delta = stream.push(token);
        streamed.push_str(&delta.text);
        has_stopped |= delta.stopped;
    }
    streamed.push_str(&stream.finish().text);
    assert_eq!(has_stopped, stopped);
    // A piece may complete several stop strings at once, and the one that begins first wins: then
    // the text ends elsewhere than byte by byte, but is the beginning of the same.
    if pieces.iter().all(|piece| piece.len() <= 1) {
        assert_eq!(streamed, text);
    } else {
        assert!(text.starts_with(&streamed) || streamed.starts_with(&text));
    }
});
