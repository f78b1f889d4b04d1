//! Constructors and readers for messages and roles.

use crate::{Message, Role, Sampling, ToolCall};

impl Message {
    /// A message of one text part.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: vec![text.into()],
            name: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
        }
    }

    /// Instructions of the deployment.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(Role::System, text)
    }

    /// What the person says.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Role::User, text)
    }

    /// An earlier answer of the model.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new(Role::Assistant, text)
    }

    /// The whole text: the parts, one per line. A message of one part is that part.
    pub fn text(&self) -> String {
        self.content.join("\n")
    }
}

impl ToolCall {
    /// The call as one line of JSON, with the arguments as the client sent them:
    /// `{"name": "weather", "arguments": {…}}`, `arguments_key` being the second name.
    pub fn to_json(&self, arguments_key: &str) -> String {
        let name = serde_json::Value::from(self.name.as_str());
        format!(
            "{{\"name\": {name}, \"{arguments_key}\": {}}}",
            self.arguments
        )
    }
}

impl Role {
    /// The name that clients use: `system`, `developer`, `user`, `assistant`, `tool`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// The role of this name, as clients spell it.
    pub fn parse(name: &str) -> Option<Self> {
        [
            Self::System,
            Self::Developer,
            Self::User,
            Self::Assistant,
            Self::Tool,
        ]
        .into_iter()
        .find(|role| role.as_str() == name)
    }

    /// Whether this is an instruction rather than a turn: `system` or `developer`.
    pub const fn is_instruction(self) -> bool {
        matches!(self, Self::System | Self::Developer)
    }
}

/// Nothing asked: the server's defaults.
impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_tokens: None,
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: None,
            seed: None,
            stop: Vec::new(),
            presence_penalty: None,
            frequency_penalty: None,
            repetition_penalty: None,
        }
    }
}
