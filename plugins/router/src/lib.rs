//! Sends a chat to another route by its language, its length or a word in it.
//!
//! Rules are tried in order and the first that matches decides. A request changes its route
//! at most once: a route that a router sends to must have none itself that sends on.

mod language;
mod rule;

use gapura_plugin_sdk::{
    Chat, Failure, Message, Role, Validator, Verdict, tokenizer, try_settings,
};
use serde::Deserialize;

use crate::rule::{Rule, Subject};

/// What an operator may set; see README.md.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Tried in order.
    rules: Vec<Rule>,
    /// Where chats go that no rule matches; unset: they stay.
    default: Option<String>,
}

struct Router;

impl Validator for Router {
    fn validate(chat: Chat) -> Result<Verdict, Failure> {
        let settings: Settings = try_settings()?;
        settings.check()?;
        let asked = last_user_text(&chat.messages);
        let subject = Subject::new(&asked, || count_tokens(&chat.messages));
        let rule = settings.rules.iter().find(|rule| rule.matches(&subject));
        let route = rule.map(|rule| &rule.route).or(settings.default.as_ref());
        Ok(match route {
            Some(route) if *route != chat.route => Verdict::Reroute(route.clone()),
            _ => Verdict::Accept,
        })
    }
}

gapura_plugin_sdk::export!(validator: Router);

impl Settings {
    /// Every rule, whichever matches: a mistake must show on the first request.
    fn check(&self) -> Result<(), Failure> {
        for (index, rule) in self.rules.iter().enumerate() {
            rule.check()
                .map_err(|problem| Failure::new(format!("settings: rules.{index}.{problem}")))?;
        }
        match self.default.as_deref().map(str::trim) {
            Some("") => Err(Failure::new(
                "settings: default is empty; name a route, or leave it out for chats to stay",
            )),
            _ => Ok(()),
        }
    }
}

/// What the person said last: earlier turns were routed when they came.
fn last_user_text(messages: &[Message]) -> String {
    let mut users = messages.iter().rev().filter(|m| m.role == Role::User);
    users.next().map(Message::text).unwrap_or_default()
}

/// Of the whole conversation, before the template adds its own.
fn count_tokens(messages: &[Message]) -> u32 {
    let parts = messages.iter().flat_map(|message| &message.content);
    parts.fold(0, |sum, part| sum.saturating_add(tokenizer::count(part)))
}

#[cfg(test)]
mod tests;
