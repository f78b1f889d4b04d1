//! Puts the documents that a request brings before the model as numbered sources, and lets an
//! answer cite none but those.
//!
//! Both sides choose the sources from the same part of the request by the same rule, so that a
//! number means the same to the model and to the check of what it says.

mod citations;
mod documents;

use gapura_plugin_sdk::{
    Action, Chat, Context, Delta, Failure, FinishReason, HoldBack, Message, Refusal, Responder,
    Validator, Verdict, log, settings, try_settings,
};
use serde::Deserialize;

use crate::citations::Citations;

/// What an operator may set; see README.md.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Most tokens of all sources together.
    max_tokens: u32,
    /// Refuse requests without documents.
    required: bool,
    /// The language of the instruction.
    language: Language,
    /// An instruction in place of ours.
    instruction: Option<String>,
    /// What happens to a citation of a source that is not there.
    unknown: Unknown,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Language {
    Id,
    En,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unknown {
    /// It is taken out of the answer.
    Remove,
    /// The answer ends before it.
    Cut,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_tokens: 2048,
            required: false,
            language: Language::Id,
            instruction: None,
            unknown: Unknown::Remove,
        }
    }
}

impl Settings {
    fn instruction(&self) -> &str {
        match (&self.instruction, self.language) {
            (Some(own), _) => own.trim(),
            (None, Language::Id) => {
                "Jawablah hanya berdasarkan sumber di bawah ini, dan sebutkan nomornya seperti \
                 [1] di belakang setiap pernyataan. Jika jawabannya tidak ada di sana, katakan \
                 begitu."
            }
            (None, Language::En) => {
                "Answer only from the sources below, and name their numbers like [1] behind \
                 each statement. If the answer is not in them, say so."
            }
        }
    }
}

/// The plugin; as a value, one answer.
struct RagContext {
    /// None where the request brought no documents: numbers in brackets mean nothing then.
    answer: Option<HoldBack<Citations>>,
    unknown: Unknown,
}

impl Validator for RagContext {
    fn validate(chat: Chat) -> Result<Verdict, Failure> {
        Ok(judge(&try_settings()?, chat).unwrap_or_else(Verdict::from))
    }
}

impl Responder for RagContext {
    fn new(context: Context) -> Self {
        let settings: Settings = settings();
        // What cannot be read was refused before there was an answer.
        let documents = documents::read(&context.extra).unwrap_or_default();
        let sources = documents::fitting(&documents, settings.max_tokens).len();
        let cuts = settings.unknown == Unknown::Cut;
        Self {
            answer: (sources > 0).then(|| HoldBack::new(Citations::new(sources, cuts))),
            unknown: settings.unknown,
        }
    }

    fn push(&mut self, delta: Delta) -> Action {
        let Some(answer) = &mut self.answer else {
            return Action::Emit(delta.text);
        };
        let sure = answer.push(&delta.text);
        self.act(sure)
    }

    fn finish(&mut self, _: FinishReason) -> Action {
        let Some(answer) = &mut self.answer else {
            return Action::Hold;
        };
        let rest = answer.finish();
        let unknown = answer.matcher().num_unknown();
        if unknown > 0 && self.unknown == Unknown::Remove {
            log::info(format!(
                "citations of sources that are not there: {unknown} removed"
            ));
        }
        self.act(rest)
    }
}

gapura_plugin_sdk::export!(validator: RagContext, responder: RagContext);

impl RagContext {
    fn act(&self, text: String) -> Action {
        let answer = self.answer.as_ref();
        match self.unknown {
            Unknown::Cut if answer.is_some_and(|answer| answer.matcher().num_unknown() > 0) => {
                log::info("cut: the answer cites a source that is not there");
                Action::cut(text)
            }
            _ => Action::emit(text),
        }
    }
}

/// # Errors
/// What is wrong with the request's documents.
fn judge(settings: &Settings, chat: Chat) -> Result<Verdict, Refusal> {
    let documents = documents::read(&chat.extra)?;
    if documents.is_empty() {
        if settings.required {
            let message = "this route answers from documents; send them in metadata.documents, \
                           a JSON text such as [{\"title\": \"…\", \"text\": \"…\"}]";
            return Err(Refusal::new("documents_required", message).param("metadata.documents"));
        }
        return Ok(Verdict::Accept);
    }
    let sources = documents::fitting(&documents, settings.max_tokens);
    if sources.is_empty() {
        let message = format!(
            "no document fits: all of them are longer than the {} tokens that this route has for \
             sources; send shorter passages",
            settings.max_tokens
        );
        return Err(Refusal::new("documents_too_long", message).param("metadata.documents"));
    }
    let left_out = documents.len() - sources.len();
    if left_out > 0 {
        log::info(format!("documents beyond the budget: {left_out} left out"));
    }
    let text = format!("{}\n\n{}", settings.instruction(), sources.join("\n\n"));
    let mut messages = chat.messages;
    // Behind the route's instructions, which stay the same from request to request.
    let at = messages
        .iter()
        .take_while(|message| message.role.is_instruction())
        .count();
    messages.insert(at, Message::system(text));
    Ok(Verdict::amend_messages(messages))
}

#[cfg(test)]
mod tests;
