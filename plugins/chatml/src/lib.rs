//! Renders chats as ChatML: `<|im_start|>role`, the text, `<|im_end|>`, turn by turn.
//!
//! Roles and texts stay as they are: models of this family know `system` and are trained
//! on the conversation as it was. `developer` is written `system`.

use gapura_plugin_sdk::{Chat, Message, Prompt, PromptBuilder, Refusal, Role, Template, settings};
use serde::Deserialize;

const START: &str = "<|im_start|>";
const END: &str = "<|im_end|>";

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
        Ok(render(&chat.messages, &settings()))
    }
}

gapura_plugin_sdk::export!(template: ChatMl);

fn render(messages: &[Message], settings: &Settings) -> Prompt {
    let mut prompt = PromptBuilder::new();
    let opens_with_system = messages
        .first()
        .is_some_and(|first| first.role.is_instruction());
    if let (false, Some(system)) = (opens_with_system, &settings.default_system) {
        prompt = turn(prompt, "system", system);
        // The default is the operator's text: stable without being told.
        prompt = prompt.prefix_end();
    }
    let mut messages = messages.iter().peekable();
    while let Some(message) = messages.next() {
        prompt = turn(prompt, role_name(message.role), &text_of(message));
        let system_ends = message.role.is_instruction()
            && messages
                .peek()
                .is_none_or(|next| !next.role.is_instruction());
        if settings.stable_system && opens_with_system && system_ends {
            prompt = prompt.prefix_end();
        }
    }
    prompt.control(START).text("assistant\n").build()
}

fn turn(prompt: PromptBuilder, role: &str, text: &str) -> PromptBuilder {
    prompt
        .control(START)
        .text(role)
        .text("\n")
        .text(text)
        .control(END)
        .text("\n")
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::System | Role::Developer => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

/// A message's text; the calls of an assistant turn follow it, one `<tool_call>` each.
fn text_of(message: &Message) -> String {
    let mut text = message.text();
    for call in &message.tool_calls {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!(
            "<tool_call>\n{}\n</tool_call>",
            call.to_json("arguments")
        ));
    }
    text
}

#[cfg(test)]
mod tests;
