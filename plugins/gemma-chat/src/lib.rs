//! Renders chats as the turns that Gemma 2 and 3 were trained on.
//!
//! Gemma knows two roles, `user` and `model`, in strict alternation, and no system turn.
//! What a client may send besides is folded into that: [`turns::gemma`] decides how, and
//! [`strict`] turns it away instead, as the models' own template does.

mod strict;

use gapura_plugin_sdk::{Chat, Prompt, Refusal, Template, settings, turns};
use serde::Deserialize;

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
        Ok(turns::gemma(&chat.messages, settings.stable_system).build())
    }
}

gapura_plugin_sdk::export!(template: GemmaChat);

#[cfg(test)]
mod tests;
