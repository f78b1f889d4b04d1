//! Redacts personal data, as Indonesians write it, in prompts and in answers.
//!
//! The same [`Redactor`] works on both sides: a message is one text, an answer one that
//! comes in pieces, and what an answer becomes does not depend on the pieces.

mod email;
mod number;
mod redactor;

use gapura_plugin_sdk::{
    Action, Chat, Context, Delta, Failure, FinishReason, HoldBack, Message, Responder, Validator,
    Verdict, log, settings, try_settings,
};
use serde::Deserialize;

use crate::redactor::{Counts, Kind, Redactor};

/// What an operator may set; see README.md.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// What is looked for.
    kinds: Vec<Kind>,
    /// Where.
    side: Side,
    /// What stands in place of a find; `{kind}` becomes the kind's name.
    replacement: String,
    /// Addresses and numbers that stay, such as the operator's own.
    allow: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Prompt,
    Answer,
    Both,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kinds: Kind::ALL.to_vec(),
            side: Side::Both,
            replacement: "[{kind}]".to_owned(),
            allow: Vec::new(),
        }
    }
}

/// The plugin; as a value, one answer.
struct PiiRedact {
    /// None where answers pass as they are.
    answer: Option<HoldBack<Redactor>>,
}

impl Validator for PiiRedact {
    fn validate(chat: Chat) -> Result<Verdict, Failure> {
        let settings: Settings = try_settings()?;
        if settings.side == Side::Answer {
            return Ok(Verdict::Accept);
        }
        let mut messages = chat.messages;
        let found = redact_messages(&settings, &mut messages);
        if found.is_empty() {
            return Ok(Verdict::Accept);
        }
        log::info(format!("redacted in the prompt: {found}"));
        Ok(Verdict::amend_messages(messages))
    }
}

impl Responder for PiiRedact {
    fn new(_: Context) -> Self {
        let settings: Settings = settings();
        let answer =
            (settings.side != Side::Prompt).then(|| HoldBack::new(Redactor::new(&settings)));
        Self { answer }
    }

    fn push(&mut self, delta: Delta) -> Action {
        match &mut self.answer {
            Some(answer) => Action::emit(answer.push(&delta.text)),
            None => Action::Emit(delta.text),
        }
    }

    fn finish(&mut self, _: FinishReason) -> Action {
        let Some(answer) = &mut self.answer else {
            return Action::Hold;
        };
        let rest = answer.finish();
        let found = answer.matcher().found();
        if !found.is_empty() {
            log::info(format!("redacted in the answer: {found}"));
        }
        Action::emit(rest)
    }
}

gapura_plugin_sdk::export!(validator: PiiRedact, responder: PiiRedact);

/// Redacts all that messages say, each text by itself; returns what was found.
fn redact_messages(settings: &Settings, messages: &mut [Message]) -> Counts {
    let mut found = Counts::default();
    for message in messages {
        let arguments = message
            .tool_calls
            .iter_mut()
            .map(|call| &mut call.arguments);
        for text in message.content.iter_mut().chain(arguments) {
            let mut whole = HoldBack::new(Redactor::new(settings));
            let mut redacted = whole.push(text);
            redacted.push_str(&whole.finish());
            *text = redacted;
            found += whole.matcher().found();
        }
    }
    found
}

#[cfg(test)]
mod tests;
