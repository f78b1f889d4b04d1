//! Renders chats as ChatML: `<|im_start|>role`, the text, `<|im_end|>`, turn by turn.
//!
//! Roles and texts stay as they are: models of this family know `system` and are trained
//! on the conversation as it was. `developer` is written `system`.

use gapura_plugin_sdk::{Chat, Message, Prompt, Refusal, Template, settings, turns};
use serde::Deserialize;

/// What an operator may set; see README.md.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// The system text of chats that bring none. Unset: no system turn is added.
    default_system: Option<String>,
    /// The system turn is the same for every request of the route: keep its KV.
    stable_system: bool,
}

struct ChatMl;

impl Template for ChatMl {
    fn render(chat: Chat) -> Result<Prompt, Refusal> {
        Ok(render(chat.messages, &settings()))
    }
}

gapura_plugin_sdk::export!(template: ChatMl);

fn render(mut messages: Vec<Message>, settings: &Settings) -> Prompt {
    let mut stable = settings.stable_system;
    let opens_with_system = messages
        .first()
        .is_some_and(|first| first.role.is_instruction());
    if let (false, Some(system)) = (opens_with_system, &settings.default_system) {
        messages.insert(0, Message::system(system));
        // The default is the operator's text: stable without being told.
        stable = true;
    }
    turns::chatml(&messages, stable).build()
}

#[cfg(test)]
mod tests;
