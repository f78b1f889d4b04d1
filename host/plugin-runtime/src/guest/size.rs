//! The bytes of text in what goes to guests and comes from them.

use crate::types::{Grammar, Message, Prompt, Refusal, Sampling, Segment, Verdict};

pub(super) fn verdict_bytes(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Accept => 0,
        Verdict::Amend { messages, sampling } => {
            let messages = messages.iter().flatten().map(message_bytes).sum::<usize>();
            messages + sampling.as_ref().map_or(0, sampling_bytes)
        }
        Verdict::Refuse(refusal) => refusal_bytes(refusal),
        Verdict::Answer { text, .. } => text.len(),
        Verdict::Reroute(route) => route.len(),
    }
}

pub(crate) fn message_bytes(message: &Message) -> usize {
    let content = message.content.iter().map(String::len).sum::<usize>();
    let calls = message.tool_calls.iter();
    let calls = calls.map(|call| call.id.len() + call.name.len() + call.arguments.len());
    content
        + calls.sum::<usize>()
        + message.name.as_ref().map_or(0, String::len)
        + message.tool_call_id.as_ref().map_or(0, String::len)
}

pub(crate) fn sampling_bytes(sampling: &Sampling) -> usize {
    sampling.stop.iter().map(String::len).sum()
}

pub(super) fn refusal_bytes(refusal: &Refusal) -> usize {
    refusal.code.len() + refusal.message.len() + refusal.param.as_ref().map_or(0, String::len)
}

pub(super) fn prompt_bytes(prompt: &Prompt) -> usize {
    let segments = prompt.segments.iter().map(|segment| match segment {
        Segment::Text(text) | Segment::Control(text) => text.len(),
        Segment::PrefixEnd => 0,
    });
    let grammar = prompt.grammar.as_ref().map_or(0, |grammar| match grammar {
        Grammar::JsonSchema(text) | Grammar::Regex(text) | Grammar::Lark(text) => text.len(),
    });
    segments.sum::<usize>() + prompt.stop.iter().map(String::len).sum::<usize>() + grammar
}
