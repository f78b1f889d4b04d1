//! Answers what was asked before from memory, where the answer would be the same anyway.
//!
//! The validator knows the request and no answer, the processor the answer and no request but the
//! call's id. So the validator leaves the request's key under that, for the processor to take.

mod key;
mod ticket;

use core::time::Duration;

use gapura_plugin_sdk::{
    Action, Chat, Context, Delta, Failure, FinishReason, Responder, Sampling, Validator, Verdict,
    kv, metrics, settings, try_settings,
};
use serde::Deserialize;

/// Answers longer than this are not kept: no entry of the host's memory is larger.
const MAX_ANSWER_BYTES: usize = 60 << 10;

/// What an operator may set; see README.md.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// How long an answer is good for.
    ttl_seconds: u64,
    /// API keys get each other's answers.
    shared: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl_seconds: 3600,
            shared: false,
        }
    }
}

/// The plugin; as a value, one answer.
struct AnswerCache {
    /// The answer so far, and the key that it is kept by; none where it is not.
    kept: Option<(String, String)>,
}

impl Validator for AnswerCache {
    fn validate(chat: Chat) -> Result<Verdict, Failure> {
        let settings: Settings = try_settings()?;
        if settings.ttl_seconds == 0 {
            return Err(Failure::new(
                "settings: ttl_seconds is 0, it must be 1 at least; take the plugin out of the \
                 route to keep nothing",
            ));
        }
        if !is_repeatable(&chat.sampling) {
            metrics::add("not_cacheable", 1);
            return Ok(Verdict::Accept);
        }
        let key = key::of(&chat, settings.shared);
        let kept = kv::get(&key).and_then(|answer| String::from_utf8(answer).ok());
        if let Some(answer) = kept {
            metrics::add("hits", 1);
            return Ok(Verdict::answer(answer));
        }
        metrics::add("misses", 1);
        ticket::leave(&chat.call_id, &key);
        Ok(Verdict::Accept)
    }
}

impl Responder for AnswerCache {
    fn new(context: Context) -> Self {
        // With a seed, the second answer to a request differs from the first.
        let key = (context.choice == 0)
            .then(|| ticket::take(&context.call_id))
            .flatten();
        Self {
            kept: key.map(|key| (String::new(), key)),
        }
    }

    fn push(&mut self, delta: Delta) -> Action {
        match &mut self.kept {
            Some((answer, _)) if answer.len() + delta.text.len() <= MAX_ANSWER_BYTES => {
                answer.push_str(&delta.text);
            }
            kept => *kept = None,
        }
        Action::Emit(delta.text)
    }

    fn finish(&mut self, reason: FinishReason) -> Action {
        // An answer that a plugin cut does not come here.
        if let (FinishReason::Stop, Some((answer, key))) = (reason, self.kept.take())
            && !answer.is_empty()
        {
            let ttl = Duration::from_secs(settings::<Settings>().ttl_seconds);
            let stored = kv::set_for(&key, answer.as_bytes(), ttl);
            metrics::add(
                if stored.is_ok() {
                    "stored"
                } else {
                    "too_large"
                },
                1,
            );
        }
        Action::Hold
    }
}

gapura_plugin_sdk::export!(validator: AnswerCache, responder: AnswerCache);

/// Whether the same request gets the same answer: greedy, or with a seed.
fn is_repeatable(sampling: &Sampling) -> bool {
    sampling.temperature == Some(0.0) || sampling.seed.is_some()
}

#[cfg(test)]
mod tests;
