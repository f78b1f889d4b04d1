//! The loaded model's tokenizer.

use crate::host;

/// How many tokens `text` is, special tokens off.
///
/// In native tests: its words between white space, unless
/// [`testing::set_token_counter`](crate::testing) says otherwise.
pub fn count(text: &str) -> u32 {
    host::count_tokens(text)
}
