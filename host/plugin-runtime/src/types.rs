//! The contract's types as plain Rust: what the gateway sees of `wit/`. The generated
//! bindings stay inside [`bindings`](crate::bindings).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who speaks in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions of the deployment.
    System,
    /// Instructions of the application.
    Developer,
    /// The person who asks.
    User,
    /// The model's earlier answers.
    Assistant,
    /// What a tool answered.
    Tool,
}

/// A call of a tool, as the model made it in an earlier turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The identifier that the tool's answer refers to.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

/// One turn of the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text parts, in order.
    pub content: Vec<String>,
    /// The participant's name.
    pub name: Option<String>,
    /// The calls of an assistant turn.
    pub tool_calls: Vec<ToolCall>,
    /// For the role `tool`: which call this answers.
    pub tool_call_id: Option<String>,
}

/// What the client asked of the sampler; `None` is the server's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Most tokens to generate.
    pub max_tokens: Option<u32>,
    /// 0 is greedy; 0 to 2.
    pub temperature: Option<f32>,
    /// Nucleus mass in (0, 1].
    pub top_p: Option<f32>,
    /// Most likely tokens kept; 0 keeps all.
    pub top_k: Option<u32>,
    /// Least relative probability, in [0, 1].
    pub min_p: Option<f32>,
    /// Same seed, same request, same answer.
    pub seed: Option<i64>,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// -2 to 2.
    pub presence_penalty: Option<f32>,
    /// -2 to 2.
    pub frequency_penalty: Option<f32>,
    /// Above 0; 1 is off.
    pub repetition_penalty: Option<f32>,
}

/// One chat request, as it stands at a point of the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chat {
    /// The value of `x-request-id`.
    pub request_id: String,
    /// The route that the request came in by.
    pub route: String,
    /// The `model` that the client named.
    pub model: String,
    /// The name of the API key.
    pub tenant: Option<String>,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// Oldest first; never empty.
    pub messages: Vec<Message>,
    /// What the client asked of the sampler.
    pub sampling: Sampling,
    /// `metadata`, `user`, unknown fields and those without another place as one JSON object.
    pub extra: String,
    /// Made by the host; no other chat has it.
    pub call_id: String,
}

/// A stage's decision that the request must not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// 400 to 499.
    pub status: u16,
    /// Stable and machine-readable.
    pub code: String,
    /// For the client.
    pub message: String,
    /// The offending field.
    pub param: Option<String>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop string or token was met.
    Stop,
    /// The token limit or the end of the context.
    Length,
    /// A plugin withheld the rest.
    ContentFilter,
    /// The model called a tool.
    ToolCalls,
}

/// What a validator decided.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Go on, unchanged.
    Accept,
    /// Go on with these changes.
    Amend {
        /// The conversation that replaces the request's.
        messages: Option<Vec<Message>>,
        /// The sampling that replaces the request's.
        sampling: Option<Sampling>,
    },
    /// End with an error.
    Refuse(Refusal),
    /// End with an answer that needs no model.
    Answer {
        /// The whole text.
        text: String,
        /// The reason that the client sees.
        finish: FinishReason,
    },
    /// Start again on another route.
    Reroute(String),
}

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// Tokenized with special tokens off.
    Text(String),
    /// One special token by its name.
    Control(String),
    /// All before this point is the same for every request of the route.
    PrefixEnd,
}

/// What the answer must match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grammar {
    /// A JSON Schema.
    JsonSchema(String),
    /// A regular expression over the whole answer.
    Regex(String),
    /// A Lark grammar.
    Lark(String),
}

/// A rendered prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// The pieces, in order.
    pub segments: Vec<Segment>,
    /// Strings that end the answer, beside those of the request.
    pub stop: Vec<String>,
    /// What the answer must match.
    pub grammar: Option<Grammar>,
}

/// The answer that a processor is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerContext {
    /// The value of `x-request-id`.
    pub request_id: String,
    /// The route that answers.
    pub route: String,
    /// The `model` that the client named.
    pub model: String,
    /// The name of the API key.
    pub tenant: Option<String>,
    /// Whether the client reads a stream.
    pub stream: bool,
    /// Which of the request's `n` answers this is, from 0.
    pub choice: u32,
    /// `metadata`, `user`, unknown fields and those without another place as one JSON object.
    pub extra: String,
    /// That of the chat; the same for all its answers.
    pub call_id: String,
}

impl From<&Chat> for AnswerContext {
    /// The first answer to a chat.
    fn from(chat: &Chat) -> Self {
        Self {
            request_id: chat.request_id.clone(),
            route: chat.route.clone(),
            model: chat.model.clone(),
            tenant: chat.tenant.clone(),
            stream: chat.stream,
            choice: 0,
            extra: chat.extra.clone(),
            call_id: chat.call_id.clone(),
        }
    }
}

/// The next piece of an answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// Whole characters.
    pub text: String,
    /// The tokens that made the text; empty where an earlier processor changed it.
    pub token_ids: Vec<u32>,
    /// The logprob of each of `token_ids`, where asked for.
    pub logprobs: Vec<f32>,
}

/// What a chain's processors made of a delta, or of the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Text for the client; may be empty (held).
    Emit(String),
    /// The answer ends here.
    Cut {
        /// The reason that the client sees.
        reason: FinishReason,
        /// The last text for the client.
        text: String,
    },
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// With an answer.
    Finished(FinishReason),
    /// The client left before the end.
    Cancelled,
    /// With an error; its code.
    Failed(String),
}

/// What an answer took, for observers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The answer.
    pub answer: AnswerContext,
    /// How it ended.
    pub completion: Completion,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those of them that the prefix cache had.
    pub cached_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Until the first step of the engine.
    pub queue: Duration,
    /// From there to the first token.
    pub prefill: Duration,
    /// From there to the last.
    pub decode: Duration,
}
