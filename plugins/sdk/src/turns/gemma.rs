//! Gemma 2 and 3: `user` and `model` in strict alternation, and no system turn.

use crate::{Message, PromptBuilder, Role};

const BEGIN: &str = "<bos>";
const START: &str = "<start_of_turn>";
const END: &str = "<end_of_turn>";

const USER: &str = "user";
const MODEL: &str = "model";

/// A conversation as Gemma 2 and 3 were trained on it, and the opening of the model's turn.
///
/// All system and developer texts, wherever they stand, become one text at the start of the first
/// user turn; turns of one role in a row become one; what a tool answers counts as the user's.
/// `stable_system` says that the system text is the same for every request of the route: the
/// prefix ends behind it.
pub fn gemma(messages: &[Message], stable_system: bool) -> PromptBuilder {
    let Turns { system, turns } = fold(messages);
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
    prompt.control(START).text("model\n")
}

/// A conversation as Gemma reads it.
struct Turns {
    /// The system text, which goes to the start of the first turn, a user's.
    system: Option<String>,
    /// Alternating turns.
    turns: Vec<Turn>,
}

/// One turn.
struct Turn {
    /// `user` or `model`.
    role: &'static str,
    /// Trimmed.
    text: String,
}

/// Folds a conversation: all system and developer texts, wherever they stand, become one
/// system text with blank lines between; turns of one role in a row become one turn in the
/// same way; what a tool answers counts as the user's.
fn fold(messages: &[Message]) -> Turns {
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
