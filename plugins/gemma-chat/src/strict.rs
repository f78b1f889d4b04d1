//! The checks of the models' own template: no system role, users and model in turn.

use gapura_plugin_sdk::{Message, Refusal, Role};

/// Refuses what the official template raises an error on, naming the message.
pub(crate) fn check(messages: &[Message]) -> Result<(), Refusal> {
    for (index, message) in messages.iter().enumerate() {
        let refuse = |code: &str, text: String| {
            Err(Refusal::new(code, text).param(format!("messages.{index}.role")))
        };
        if message.role.is_instruction() {
            return refuse(
                "system_role_unsupported",
                format!(
                    "messages.{index} has the role {}, which this model does not know; \
                     put the text into the first user message",
                    message.role.as_str()
                ),
            );
        }
        let expected = if index % 2 == 0 {
            Role::User
        } else {
            Role::Assistant
        };
        if message.role != expected {
            return refuse(
                "roles_must_alternate",
                format!(
                    "messages.{index} has the role {}; roles must alternate \
                     user/assistant/user/…, so {} is expected here",
                    message.role.as_str(),
                    expected.as_str()
                ),
            );
        }
    }
    Ok(())
}
