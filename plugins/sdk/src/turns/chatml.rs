//! ChatML: `<|im_start|>role`, the text, `<|im_end|>`, turn by turn.

use crate::{Message, PromptBuilder, Role};

const START: &str = "<|im_start|>";
const END: &str = "<|im_end|>";

/// A conversation as ChatML, and the opening of the model's turn.
///
/// Roles and texts stay as they are: models of this family know `system` and are trained on the
/// conversation as it was. `developer` is written `system`. `stable_system` says that the system
/// turns at the start are the same for every request of the route: the prefix ends behind them.
pub fn chatml(messages: &[Message], stable_system: bool) -> PromptBuilder {
    let at_start = messages.iter().take_while(|m| m.role.is_instruction());
    let num_system = at_start.count();
    let mut prompt = PromptBuilder::new();
    for (index, message) in messages.iter().enumerate() {
        prompt = prompt
            .control(START)
            .text(role_name(message.role))
            .text("\n")
            .text(text_of(message))
            .control(END)
            .text("\n");
        if stable_system && index + 1 == num_system {
            prompt = prompt.prefix_end();
        }
    }
    prompt.control(START).text("assistant\n")
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
