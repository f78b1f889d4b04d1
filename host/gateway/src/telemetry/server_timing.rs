//! The header `Server-Timing` (W3C, <https://www.w3.org/TR/server-timing/>): what took how long in
//! this very request, for clients that ask.

use std::fmt::Write as _;
use std::time::Duration;

/// The metrics of one request, one after the other.
#[derive(Debug, Default)]
pub(super) struct ServerTiming(String);

impl ServerTiming {
    /// Adds `name`, which is a token; `desc` may be empty.
    pub(super) fn add(&mut self, name: &str, desc: &str, took: Duration) {
        let text = &mut self.0;
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(name);
        if !desc.is_empty() {
            text.push_str(";desc=\"");
            for c in desc.chars() {
                match c {
                    '"' | '\\' => text.extend(['\\', c]),
                    ' '..='~' => text.push(c),
                    // Outside a quoted string's ASCII.
                    _ => text.push('?'),
                }
            }
            text.push('"');
        }
        // Milliseconds, to a microsecond; writing to a string cannot fail.
        let _ = write!(text, ";dur={:.3}", took.as_secs_f64() * 1e3);
    }

    /// The header's value: visible ASCII and spaces.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_tokens_quoted_strings_and_milliseconds() {
        let mut timing = ServerTiming::default();
        timing.add("tokenize", "", Duration::from_nanos(1_234_567));
        timing.add("plugin", "a\"b\\c\nd\u{e9}", Duration::from_micros(21));
        assert_eq!(
            timing.finish(),
            r#"tokenize;dur=1.235, plugin;desc="a\"b\\c?d?";dur=0.021"#
        );
        assert_eq!(ServerTiming::default().finish(), "");
    }
}
