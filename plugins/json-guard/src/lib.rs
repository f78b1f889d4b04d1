//! Answers plain chats in JSON that matches the route's schema.
//!
//! A template, because only a prompt can carry a grammar: the engine enforces it while it
//! samples, so that every answer matches, streamed or not, without asking twice.

use gapura_plugin_sdk::{
    Chat, Failure, Grammar, Message, Prompt, Refusal, Template, try_settings, turns,
};
use serde::Deserialize;

/// What stands for the schema in an instruction.
const PLACEHOLDER: &str = "{schema}";
const INSTRUCTION: &str =
    "Answer with one JSON value that matches this JSON Schema, and nothing else:\n{schema}";

/// What an operator may set; see README.md.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The schema as JSON text: the order of its properties is that of the answer's.
    schema: String,
    /// The turns that the model was trained on.
    turns: Turns,
    /// What the model is told; `{schema}` becomes the schema. Empty: nothing.
    #[serde(default = "default_instruction")]
    instruction: String,
    /// The system text is the same for every request of the route: keep its KV.
    #[serde(default)]
    stable_system: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Turns {
    Chatml,
    Gemma,
}

fn default_instruction() -> String {
    INSTRUCTION.to_owned()
}

struct JsonGuard;

impl Template for JsonGuard {
    fn render(chat: Chat) -> Result<Prompt, Refusal> {
        // A template has no failure to return: the panic is one, and says why in the log.
        let settings = checked(try_settings()).unwrap_or_else(|f| panic!("{}", f.message));
        Ok(render(settings, chat.messages))
    }
}

gapura_plugin_sdk::export!(template: JsonGuard);

/// The settings, whose schema is at least a JSON object. Whether it is a schema that the engine
/// can enforce only the engine knows.
fn checked(settings: Result<Settings, Failure>) -> Result<Settings, Failure> {
    let settings = settings?;
    match serde_json::from_str::<serde_json::Value>(&settings.schema) {
        Ok(schema) if schema.is_object() => Ok(settings),
        Ok(_) => Err(Failure::new(
            "settings: schema is not a JSON object; write one such as {\"type\": \"object\"}",
        )),
        Err(error) => Err(Failure::new(format!(
            "settings: schema is not JSON text: {error}"
        ))),
    }
}

fn render(settings: Settings, mut messages: Vec<Message>) -> Prompt {
    let instruction = settings.instruction.trim();
    if !instruction.is_empty() {
        let text = instruction.replace(PLACEHOLDER, settings.schema.trim());
        // Behind the instructions that are there, as the last word on the form.
        let at = messages
            .iter()
            .take_while(|message| message.role.is_instruction())
            .count();
        match at.checked_sub(1).map(|last| &mut messages[last]) {
            // One system turn: what models were trained on.
            Some(last) => last.content = vec![format!("{}\n\n{text}", last.text())],
            None => messages.insert(0, Message::system(text)),
        }
    }
    let prompt = match settings.turns {
        Turns::Chatml => turns::chatml(&messages, settings.stable_system),
        Turns::Gemma => turns::gemma(&messages, settings.stable_system),
    };
    prompt.grammar(Grammar::JsonSchema(settings.schema)).build()
}

#[cfg(test)]
mod tests {
    use gapura_plugin_sdk::{Segment, testing};

    use super::*;

    /// Not in the order of the alphabet.
    const SCHEMA: &str =
        r#"{"type":"object","properties":{"kota":{"type":"string"},"anak":{"type":"integer"}}}"#;

    fn settings(more: &str) -> String {
        let schema = serde_json::Value::from(SCHEMA);
        format!("{{\"schema\": {schema}, {more}}}")
    }

    fn rendered(settings: &str, messages: &[Message]) -> Prompt {
        testing::set_settings(settings);
        JsonGuard::render(testing::chat(messages.iter().cloned())).unwrap()
    }

    fn flat(prompt: &Prompt) -> String {
        let piece = |segment: &Segment| match segment {
            Segment::Text(text) | Segment::Control(text) => text.clone(),
            Segment::PrefixEnd => "|".to_owned(),
        };
        prompt.segments.iter().map(piece).collect()
    }

    #[test]
    fn the_schema_is_the_grammar_as_it_was_written() {
        for turns in ["chatml", "gemma"] {
            let prompt = rendered(
                &settings(&format!("\"turns\": \"{turns}\"")),
                &[Message::user("Di mana?")],
            );
            assert_eq!(prompt.grammar, Some(Grammar::JsonSchema(SCHEMA.to_owned())));
        }
    }

    #[test]
    fn without_an_instruction_the_prompt_is_the_plain_templates() {
        let messages = [Message::system("Singkat."), Message::user("Di mana?")];
        let plain = |turns: &str| {
            let more = format!("\"turns\": \"{turns}\", \"instruction\": \" \"");
            rendered(&settings(&more), &messages).segments
        };
        assert_eq!(
            plain("chatml"),
            turns::chatml(&messages, false).build().segments
        );
        assert_eq!(
            plain("gemma"),
            turns::gemma(&messages, false).build().segments
        );
    }

    #[test]
    fn the_instruction_ends_the_system_text() {
        let more = r#""turns": "chatml", "instruction": "Isi {schema}.", "stable_system": true"#;
        let messages = [Message::system("Singkat."), Message::user("Di mana?")];
        assert_eq!(
            flat(&rendered(&settings(more), &messages)),
            format!(
                "<|im_start|>system\nSingkat.\n\nIsi {SCHEMA}.<|im_end|>\n|\
                 <|im_start|>user\nDi mana?<|im_end|>\n<|im_start|>assistant\n"
            )
        );
        assert_eq!(
            flat(&rendered(&settings(more), &messages[1..])),
            format!(
                "<|im_start|>system\nIsi {SCHEMA}.<|im_end|>\n|\
                 <|im_start|>user\nDi mana?<|im_end|>\n<|im_start|>assistant\n"
            )
        );
    }

    #[test]
    fn wrong_settings_are_named() {
        let failure = |json: &str| {
            testing::set_settings(json);
            checked(try_settings()).unwrap_err().message
        };
        assert_eq!(
            failure(r#"{"turns": "gemma"}"#),
            "settings: missing field `schema`"
        );
        assert_eq!(
            failure(r#"{"schema": "{}", "turns": "llama"}"#),
            "settings: unknown variant `llama`, expected `chatml` or `gemma`"
        );
        assert!(
            failure(r#"{"schema": "[]", "turns": "gemma"}"#)
                .starts_with("settings: schema is not a JSON object")
        );
        assert!(
            failure(r#"{"schema": "{", "turns": "gemma"}"#)
                .starts_with("settings: schema is not JSON text: EOF")
        );
    }
}
