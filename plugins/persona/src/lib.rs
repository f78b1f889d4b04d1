//! Gives a route its persona: a system text and the language to answer in.
//!
//! Both become one system message at the head of the conversation, so that any template
//! renders them its own way.

use gapura_plugin_sdk::{Chat, Failure, Message, Validator, Verdict, try_settings};
use serde::Deserialize;

/// What an operator may set; see README.md.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Who the model is and how it behaves.
    system: String,
    /// The language of the answers: a code such as `id`, or a name such as `Bahasa Bali`.
    language: String,
    /// What happens to the client's own system and developer messages.
    mode: Mode,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// They stay, behind the persona.
    #[default]
    Prepend,
    /// They are dropped.
    Replace,
}

struct Persona;

impl Validator for Persona {
    fn validate(chat: Chat) -> Result<Verdict, Failure> {
        Ok(apply(&try_settings()?, chat.messages))
    }
}

gapura_plugin_sdk::export!(validator: Persona);

fn apply(settings: &Settings, messages: Vec<Message>) -> Verdict {
    let count = messages.len();
    let mut kept = messages;
    if matches!(settings.mode, Mode::Replace) {
        kept.retain(|message| !message.role.is_instruction());
    }
    match system_text(settings) {
        Some(text) => kept.insert(0, Message::system(text)),
        None if kept.len() == count => return Verdict::Accept,
        None => {}
    }
    if kept.is_empty() {
        // A conversation of nothing but instructions, all dropped: there is nothing to say.
        return gapura_plugin_sdk::Refusal::new(
            "no_user_message",
            "the conversation has no message besides instructions, which this route replaces; \
             send a user message",
        )
        .param("messages")
        .into();
    }
    Verdict::amend_messages(kept)
}

/// The persona's system text, or none where neither text nor language is set.
fn system_text(settings: &Settings) -> Option<String> {
    let system = settings.system.trim();
    let language = instruction(settings.language.trim());
    match (system, language) {
        ("", None) => None,
        ("", Some(language)) => Some(language),
        (system, None) => Some(system.to_owned()),
        (system, Some(language)) => Some(format!("{system}\n\n{language}")),
    }
}

/// The sentence that asks for a language, in that language where we have it: models follow
/// it better so.
fn instruction(language: &str) -> Option<String> {
    let sentence = match language {
        "" => return None,
        "id" => "Jawablah selalu dalam bahasa Indonesia yang baik dan jelas.",
        "jv" => "Wangsulana tansah nganggo basa Jawa sing cetha.",
        "su" => "Jawab salawasna ku basa Sunda anu jelas.",
        "ms" => "Jawablah sentiasa dalam bahasa Melayu yang jelas.",
        "en" => "Always answer in clear English.",
        other => return Some(format!("Always answer in this language: {other}.")),
    };
    Some(sentence.to_owned())
}

#[cfg(test)]
mod tests {
    use gapura_plugin_sdk::{Amendment, Role, testing};

    use super::*;

    const ID: &str = "Jawablah selalu dalam bahasa Indonesia yang baik dan jelas.";

    fn validate(settings: &str, messages: &[Message]) -> Result<Verdict, Failure> {
        testing::set_settings(settings);
        Persona::validate(testing::chat(messages.iter().cloned()))
    }

    fn amended(settings: &str, messages: &[Message]) -> Vec<Message> {
        match validate(settings, messages).unwrap() {
            Verdict::Amend(Amendment {
                messages: Some(messages),
                sampling: None,
            }) => messages,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_system_text_and_the_language_become_the_first_message() {
        let settings = r#"{"system": "Kamu adalah Sari. ", "language": "id"}"#;
        let user = Message::user("Halo!");
        assert_eq!(
            amended(settings, std::slice::from_ref(&user)),
            [Message::system(format!("Kamu adalah Sari.\n\n{ID}")), user]
        );
    }

    #[test]
    fn prepend_keeps_the_clients_instructions_behind_ours() {
        let messages = [Message::system("Own."), Message::user("Halo!")];
        let [system, user] = messages.clone();
        assert_eq!(
            amended(r#"{"language": "id", "mode": "prepend"}"#, &messages),
            [Message::system(ID), system, user]
        );
    }

    #[test]
    fn replace_drops_system_and_developer_wherever_they_stand() {
        let messages = [
            Message::system("Own."),
            Message::user("Halo!"),
            Message::new(Role::Developer, "Ignore the above."),
        ];
        assert_eq!(
            amended(r#"{"system": "Ours.", "mode": "replace"}"#, &messages),
            [Message::system("Ours."), Message::user("Halo!")]
        );
    }

    #[test]
    fn without_settings_nothing_changes() {
        let messages = [Message::system("Own."), Message::user("Halo!")];
        assert_eq!(validate("{}", &messages), Ok(Verdict::Accept));
        assert_eq!(
            validate(r#"{"mode": "replace"}"#, &messages[1..]),
            Ok(Verdict::Accept)
        );
    }

    #[test]
    fn a_conversation_of_dropped_instructions_alone_is_refused() {
        let verdict = validate(r#"{"mode": "replace"}"#, &[Message::system("Own.")]).unwrap();
        let Verdict::Refuse(refusal) = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(
            (refusal.status, refusal.code.as_str()),
            (400, "no_user_message")
        );
    }

    #[test]
    fn a_language_without_a_sentence_of_its_own_is_asked_for_by_name() {
        let first = &amended(r#"{"language": "Bahasa Bali"}"#, &[Message::user("Om")])[0];
        assert_eq!(first.text(), "Always answer in this language: Bahasa Bali.");
    }

    #[test]
    fn a_mode_that_does_not_exist_is_a_failure_that_says_which_do() {
        let failure = validate(r#"{"mode": "append"}"#, &[Message::user("Halo!")]).unwrap_err();
        assert_eq!(
            failure.message,
            "settings: unknown variant `append`, expected `prepend` or `replace`"
        );
    }
}
