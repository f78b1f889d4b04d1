//! Turns away requests that are too large, speak in roles that the route does not take, or
//! say what it does not want to read.
//!
//! The cheap checks come first, so that an oversized request never reaches the tokenizer
//! or a pattern. Every refusal names the offending field.

mod patterns;

use gapura_plugin_sdk::{
    Chat, Failure, Message, Refusal, Validator, Verdict, tokenizer, try_settings,
};
use serde::Deserialize;

use crate::patterns::DenyPattern;

/// What an operator may set; see README.md. No limit is set by default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Most messages of a conversation.
    max_messages: Option<usize>,
    /// Most characters of one message.
    max_message_characters: Option<usize>,
    /// Most characters of the whole conversation.
    max_characters: Option<usize>,
    /// Most tokens of the whole conversation, before the template adds its own.
    max_tokens: Option<u32>,
    /// The roles that clients may use; unset: all.
    allowed_roles: Option<Vec<String>>,
    /// What no user, tool or assistant message may say.
    deny: Vec<DenyPattern>,
}

struct RequestGuard;

impl Validator for RequestGuard {
    fn validate(chat: Chat) -> Result<Verdict, Failure> {
        let settings: Settings = try_settings()?;
        // Compiled before any message is looked at: a bad pattern must fail on the first
        // request, not on the first one that gets so far.
        let deny = patterns::compile(&settings.deny)?;
        check_roles_known(&settings)?;
        let checked = check_sizes(&settings, &chat.messages)
            .and_then(|()| check_roles(&settings, &chat.messages))
            .and_then(|()| patterns::check(&deny, &chat.messages))
            .and_then(|()| check_tokens(&settings, &chat.messages));
        Ok(checked.map_or_else(Verdict::from, |()| Verdict::Accept))
    }
}

gapura_plugin_sdk::export!(validator: RequestGuard);

fn check_roles_known(settings: &Settings) -> Result<(), Failure> {
    for role in settings.allowed_roles.iter().flatten() {
        if gapura_plugin_sdk::Role::parse(role).is_none() {
            return Err(Failure::new(format!(
                "settings: allowed_roles names `{role}`, which is no role; there are system, \
                 developer, user, assistant and tool"
            )));
        }
    }
    Ok(())
}

fn check_sizes(settings: &Settings, messages: &[Message]) -> Result<(), Refusal> {
    if let Some(limit) = settings.max_messages
        && messages.len() > limit
    {
        let text = format!(
            "the conversation has {} messages, at most {limit} are allowed",
            messages.len()
        );
        return Err(Refusal::new("too_many_messages", text).param("messages"));
    }
    let mut total = 0;
    for (index, message) in messages.iter().enumerate() {
        let characters = characters(message);
        total += characters;
        if let Some(limit) = settings.max_message_characters
            && characters > limit
        {
            let text = format!(
                "messages.{index} has {characters} characters, at most {limit} are allowed in one message"
            );
            return Err(
                Refusal::new("message_too_long", text).param(format!("messages.{index}.content"))
            );
        }
    }
    match settings.max_characters {
        Some(limit) if total > limit => {
            let text =
                format!("the conversation has {total} characters, at most {limit} are allowed");
            Err(Refusal::new("conversation_too_long", text).param("messages"))
        }
        _ => Ok(()),
    }
}

fn check_roles(settings: &Settings, messages: &[Message]) -> Result<(), Refusal> {
    let Some(allowed) = &settings.allowed_roles else {
        return Ok(());
    };
    for (index, message) in messages.iter().enumerate() {
        let role = message.role.as_str();
        if !allowed.iter().any(|name| name == role) {
            let text = format!(
                "messages.{index} has the role {role}; this route takes {}",
                allowed.join(", ")
            );
            return Err(
                Refusal::new("role_not_allowed", text).param(format!("messages.{index}.role"))
            );
        }
    }
    Ok(())
}

fn check_tokens(settings: &Settings, messages: &[Message]) -> Result<(), Refusal> {
    let Some(limit) = settings.max_tokens else {
        return Ok(());
    };
    let parts = messages.iter().flat_map(parts);
    let tokens: u32 = parts.fold(0, |sum, part| sum.saturating_add(tokenizer::count(part)));
    if tokens > limit {
        let text = format!("the conversation has {tokens} tokens, at most {limit} are allowed");
        return Err(Refusal::new("too_many_tokens", text).param("messages"));
    }
    Ok(())
}

/// All that a client wrote in a message: its text parts and the arguments of its calls.
fn parts(message: &Message) -> impl Iterator<Item = &str> {
    let content = message.content.iter().map(String::as_str);
    content.chain(
        message
            .tool_calls
            .iter()
            .map(|call| call.arguments.as_str()),
    )
}

fn characters(message: &Message) -> usize {
    parts(message).map(|part| part.chars().count()).sum()
}

#[cfg(test)]
mod tests;
