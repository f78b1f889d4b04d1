//! From messages of any roles to alternating turns of `user` and `model`.

use gapura_plugin_sdk::{Message, Role};

const USER: &str = "user";
const MODEL: &str = "model";

/// A conversation as Gemma reads it.
pub(crate) struct Turns {
    /// The system text, which goes to the start of the first turn, a user's.
    pub(crate) system: Option<String>,
    /// Alternating turns.
    pub(crate) turns: Vec<Turn>,
}

/// One turn.
pub(crate) struct Turn {
    /// `user` or `model`.
    pub(crate) role: &'static str,
    /// Trimmed.
    pub(crate) text: String,
}

/// Folds a conversation: all system and developer texts, wherever they stand, become one
/// system text with blank lines between; turns of one role in a row become one turn in the
/// same way; what a tool answers counts as the user's.
pub(crate) fn fold(messages: &[Message]) -> Turns {
    let mut system = Vec::new();
    let mut turns: Vec<Turn> = Vec::new();
    for message in messages {
        let role = match message.role {
            Role::System | Role::Developer => {
                let text = message.text();
                if !trim(&text).is_empty() {
                    system.push(text);
                }
                continue;
            }
            Role::User | Role::Tool => USER,
            Role::Assistant => MODEL,
        };
        let text = turn_text(message);
        match turns.last_mut() {
            Some(last) if last.role == role => append(&mut last.text, &text),
            _ => turns.push(Turn { role, text }),
        }
    }
    // The system text stands in a user's turn: make one where the model speaks first, or
    // nobody does.
    let opened_by_user = turns.first().is_some_and(|turn| turn.role == USER);
    let system = (!system.is_empty()).then(|| system.join("\n\n"));
    if turns.is_empty() || (system.is_some() && !opened_by_user) {
        let text = system.as_deref().map(trim).unwrap_or_default().to_owned();
        turns.insert(0, Turn { role: USER, text });
        return Turns {
            system: None,
            turns,
        };
    }
    Turns { system, turns }
}

/// A message's text and its calls, each call a line of JSON as Gemma was shown it.
fn turn_text(message: &Message) -> String {
    let mut text = trim(&message.text()).to_owned();
    for call in &message.tool_calls {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&call.to_json("parameters"));
    }
    text
}

fn append(text: &mut String, more: &str) {
    if !text.is_empty() && !more.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(more);
}

/// What the official template's `trim` takes away: Python's white space, which has four
/// separators more than Unicode's property.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
}
