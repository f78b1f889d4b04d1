//! Fields that would change the answer and that this version cannot honour. A value that
//! asks for nothing passes; any other is a 400 that names the field. A field that is neither
//! here nor known goes to the plugins as `extra`.

use serde_json::Value;

use crate::error::ApiError;
use crate::openai::body::Fields;

/// A field, and the JSON texts of its values that ask for nothing.
type Rule = (&'static str, &'static [&'static str]);

/// Of chats; completions have no use for them either.
const CHAT: &[Rule] = &[
    ("tools", &["[]"]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("modalities", &["[\"text\"]", "[]"]),
    ("audio", &[]),
    ("reasoning_effort", &["\"none\""]),
    ("verbosity", &["\"medium\""]),
    ("web_search_options", &[]),
    ("echo", &["false"]),
    ("add_generation_prompt", &["true"]),
    ("continue_final_message", &["false"]),
    ("chat_template", &[]),
    ("chat_template_kwargs", &["{}"]),
    ("documents", &["[]"]),
    ("thinking", &[]),
];

/// Of completions alone.
const COMPLETION: &[Rule] = &[
    ("suffix", &["\"\""]),
    ("messages", &[]),
    ("top_logprobs", &["0"]),
    ("add_special_tokens", &["true"]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
];

/// Of both.
const BOTH: &[Rule] = &[
    ("best_of", &["1"]),
    ("store", &["false"]),
    ("service_tier", &["\"auto\"", "\"default\""]),
    ("use_beam_search", &["false"]),
    ("length_penalty", &["1", "1.0"]),
    ("include_stop_str_in_output", &["false"]),
    ("skip_special_tokens", &["true"]),
    ("spaces_between_special_tokens", &["true"]),
    ("prompt_logprobs", &["0"]),
    ("truncate_prompt_tokens", &[]),
    ("bad_words", &["[]"]),
    ("allowed_token_ids", &["[]"]),
    ("typical_p", &["1", "1.0"]),
    ("mirostat", &["0"]),
    ("dry_multiplier", &["0", "0.0"]),
    ("mirostat_mode", &["0"]),
    ("tfs_z", &["1", "1.0"]),
    ("top_a", &["0", "0.0"]),
    ("xtc_probability", &["0", "0.0"]),
    ("repeat_penalty", &["1", "1.0"]),
    ("logits_processors", &["[]"]),
    ("return_tokens_as_token_ids", &["false"]),
    ("max_new_tokens", &[]),
    ("num_predict", &[]),
    ("num_ctx", &[]),
    ("do_sample", &[]),
    ("grammar", &["\"\""]),
];

/// Takes the unsupported fields of a chat out.
///
/// # Errors
/// 400 for the first that asks for something.
pub(super) fn refuse_in_chat(fields: &mut Fields) -> Result<(), ApiError> {
    let tool_choice = fields.take_value("tool_choice");
    if tool_choice.as_ref().is_some_and(|choice| choice == "none") {
        // Tools that must not be called ask for nothing.
        fields.take_value("tools");
    }
    check("tool_choice", tool_choice, &["\"none\"", "\"auto\""])?;
    refuse(fields, CHAT)?;
    refuse(fields, BOTH)?;
    // Without tools it has nothing to say.
    fields.take::<bool>("parallel_tool_calls").map(drop)
}

/// Takes the unsupported fields of a completion out.
///
/// # Errors
/// 400 for the first that asks for something.
pub(super) fn refuse_in_completion(fields: &mut Fields) -> Result<(), ApiError> {
    refuse(fields, COMPLETION)?;
    refuse(fields, CHAT)?;
    refuse(fields, BOTH)
}

fn refuse(fields: &mut Fields, rules: &[Rule]) -> Result<(), ApiError> {
    rules
        .iter()
        .try_for_each(|(name, harmless)| check(name, fields.take_value(name), harmless))
}

fn check(name: &str, value: Option<Value>, harmless: &[&str]) -> Result<(), ApiError> {
    let Some(value) = value else { return Ok(()) };
    let text = value.to_string();
    if harmless.contains(&text.as_str()) {
        return Ok(());
    }
    let advice = match harmless {
        [] => "leave it out".to_owned(),
        [first, ..] => format!("leave it out or send {first}"),
    };
    Err(ApiError::unsupported(
        name,
        format!("{name} is not supported by this server; {advice}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(json: &str) -> Result<(), ApiError> {
        refuse_in_chat(&mut Fields::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn values_that_ask_for_nothing_pass() {
        for body in [
            r#"{"tools":[],"tool_choice":"auto","parallel_tool_calls":true}"#,
            r#"{"tools":[{"type":"function"}],"tool_choice":"none"}"#,
            r#"{"functions":[],"function_call":"none","modalities":["text"],"store":false}"#,
            r#"{"best_of":1,"audio":null,"suffix":"kept"}"#,
        ] {
            chat(body).unwrap();
        }
    }

    #[test]
    fn what_would_change_the_answer_is_refused_by_name() {
        for (body, param) in [
            (r#"{"tools":[{"type":"function"}]}"#, "tools"),
            (r#"{"tool_choice":"required"}"#, "tool_choice"),
            (r#"{"modalities":["text","audio"]}"#, "modalities"),
            (r#"{"store":true}"#, "store"),
            (r#"{"best_of":2}"#, "best_of"),
            (r#"{"max_new_tokens":5}"#, "max_new_tokens"),
            (r#"{"repeat_penalty":1.1}"#, "repeat_penalty"),
        ] {
            let error = chat(body).unwrap_err();
            assert_eq!(error.body()["error"]["param"], param, "{}", error.message());
        }
    }

    #[test]
    fn a_completion_has_no_use_for_a_chats_fields() {
        for (body, param) in [
            (r#"{"messages":[]}"#, "messages"),
            (r#"{"tools":[{"type":"function"}]}"#, "tools"),
            (r#"{"add_special_tokens":false}"#, "add_special_tokens"),
            (r#"{"reasoning_effort":"high"}"#, "reasoning_effort"),
        ] {
            let mut fields = Fields::parse(body.as_bytes()).unwrap();
            let error = refuse_in_completion(&mut fields).unwrap_err();
            assert_eq!(error.body()["error"]["param"], param, "{}", error.message());
        }
    }
}
