//! Building prompts out of segments.

use crate::{Grammar, Prompt, Segment};

/// Collects a prompt's segments in order.
///
/// Neighbouring texts become one segment, because the tokenizer reads each segment by
/// itself: `"user\n"` and `"Hello"` must reach it as one text to give the tokens that the
/// model was trained on.
///
/// ```
/// use gapura_plugin_sdk::{PromptBuilder, Segment};
///
/// let prompt = PromptBuilder::new().control("<bos>").text("user\n").text("Hello").build();
/// assert_eq!(
///     prompt.segments,
///     [Segment::Control("<bos>".to_owned()), Segment::Text("user\nHello".to_owned())]
/// );
/// ```
#[derive(Debug, Default)]
pub struct PromptBuilder {
    segments: Vec<Segment>,
    stop: Vec<String>,
    grammar: Option<Grammar>,
}

impl PromptBuilder {
    /// An empty prompt.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one special token by its name.
    #[must_use]
    pub fn control(mut self, token: impl Into<String>) -> Self {
        self.segments.push(Segment::Control(token.into()));
        self
    }

    /// Adds text: whatever it spells, it stays text.
    #[must_use]
    pub fn text(mut self, text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        match self.segments.last_mut() {
            _ if text.is_empty() => {}
            Some(Segment::Text(last)) => last.push_str(text),
            _ => self.segments.push(Segment::Text(text.to_owned())),
        }
        self
    }

    /// Says that all before this point is the same for every request of the route. Texts on
    /// its two sides are tokenized apart.
    #[must_use]
    pub fn prefix_end(mut self) -> Self {
        self.segments.push(Segment::PrefixEnd);
        self
    }

    /// Adds a string that ends the answer.
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stop.push(text.into());
        self
    }

    /// Says what the answer must match; the engine enforces it while it samples. The last one
    /// said holds.
    #[must_use]
    pub fn grammar(mut self, grammar: Grammar) -> Self {
        self.grammar = Some(grammar);
        self
    }

    /// The prompt.
    pub fn build(self) -> Prompt {
        Prompt {
            segments: self.segments,
            stop: self.stop,
            grammar: self.grammar,
        }
    }
}
