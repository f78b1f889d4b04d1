//! Renders chats as the turns that Gemma 2 and 3 were trained on.
//!
//! Gemma knows two roles, `user` and `model`, in strict alternation, and no system turn.
//! What a client may send besides is folded into that: [`turns`] decides how, and
//! [`strict`] turns it away instead, as the models' own template does.

mod strict;
mod turns;

use gapura_plugin_sdk::{Chat, Message, Prompt, PromptBuilder, Refusal, Template, settings};
use serde::Deserialize;

use crate::turns::Turns;

const BEGIN: &str = "<bos>";
const START: &str = "<start_of_turn>";
const END: &str = "<end_of_turn>";

/// What an operator may set; see README.md.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Refuse system texts and turns that do not alternate, as the official template does.
    strict: bool,
    /// The system text is the same for every request of the route: keep its KV.
    stable_system: bool,
}

struct GemmaChat;

impl Template for GemmaChat {
    fn render(chat: Chat) -> Result<Prompt, Refusal> {
        let settings: Settings = settings();
        if settings.strict {
            strict::check(&chat.messages)?;
        }
        Ok(render(&chat.messages, settings.stable_system))
    }
}

gapura_plugin_sdk::export!(template: GemmaChat);

fn render(messages: &[Message], stable_system: bool) -> Prompt {
    let Turns { system, turns } = turns::fold(messages);
    let mut prompt = PromptBuilder::new().control(BEGIN);
    for (index, turn) in turns.iter().enumerate() {
        prompt = prompt.control(START).text(turn.role).text("\n");
        if let (0, Some(system)) = (index, &system) {
            prompt = prompt.text(system).text("\n\n");
            if stable_system {
                // No token spans a run of newlines and the letter behind it, so that the
                // two halves tokenize as the whole does.
                prompt = prompt.prefix_end();
            }
        }
        prompt = prompt.text(&turn.text).control(END).text("\n");
    }
    prompt.control(START).text("model\n").build()
}

#[cfg(test)]
mod tests;
