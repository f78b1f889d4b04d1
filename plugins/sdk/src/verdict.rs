//! Constructors for what a stage answers.

use crate::{
    Action, Amendment, Cut, Failure, FinishReason, Message, Refusal, Reply, Sampling, Verdict,
};

impl Refusal {
    /// A refusal with status 400. `code` is stable and machine-readable; `message` says
    /// what was wrong and what would be right.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            code: code.into(),
            message: message.into(),
            param: None,
        }
    }

    /// The same with this HTTP status, 400 to 499.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same with the offending field, such as `messages.2.content`.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }
}

impl Failure {
    /// A failure of the plugin, for the operator's log.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

impl Verdict {
    /// Go on with these messages in place of the request's.
    pub fn amend_messages(messages: Vec<Message>) -> Self {
        Self::Amend(Amendment {
            messages: Some(messages),
            sampling: None,
        })
    }

    /// Go on with this sampling in place of the request's.
    pub fn amend_sampling(sampling: Sampling) -> Self {
        Self::Amend(Amendment {
            messages: None,
            sampling: Some(sampling),
        })
    }

    /// Answer with this text, without the model.
    pub fn answer(text: impl Into<String>) -> Self {
        Self::Answer(Reply {
            text: text.into(),
            finish: FinishReason::Stop,
        })
    }
}

impl From<Refusal> for Verdict {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

impl Action {
    /// Emits the text, or holds where there is none.
    pub fn emit(text: impl Into<String>) -> Self {
        let text = text.into();
        if text.is_empty() {
            Self::Hold
        } else {
            Self::Emit(text)
        }
    }

    /// Ends the answer here, after this last text; the client reads `content_filter`.
    pub fn cut(text: impl Into<String>) -> Self {
        Self::Cut(Cut {
            reason: FinishReason::ContentFilter,
            text: text.into(),
        })
    }
}
