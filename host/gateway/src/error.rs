//! The one error that clients see, in OpenAI's shape, and the one place where the errors of
//! the engine, the plugins and the extractors become an HTTP status.

use std::fmt::Display;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use gapura_engine::EngineError;
use gapura_plugin_runtime::{ChainFailure, FailureKind, Refusal};
use serde_json::{Value, json};

/// Tells OpenAI's SDKs whether to send the request again, whatever the status says.
pub const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// The precise twin of `Retry-After`, read by OpenAI's SDKs.
pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
/// The plugins that made an answer, with version and digest, in order.
pub const X_GAPURA_CHAIN: HeaderName = HeaderName::from_static("x-gapura-chain");
/// Longest wait that is ever asked of a client: SDKs give up on more than 120 s.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// A client's own value may be echoed in a message, but not megabytes of it.
const MAX_MESSAGE_CHARS: usize = 600;
/// Characters of a code that a plugin chose.
const MAX_CODE_CHARS: usize = 64;
/// What all codes of plugins are in metrics: a plugin may make a new one for each request.
const PLUGIN_CODE_LABEL: &str = "plugin_refused";

/// An error answer: `{"error":{"message","type","param","code"}}`, all four keys always.
/// Boxed, because it is a part of nearly every result.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError(Box<Parts>);

#[derive(Debug, Clone, PartialEq)]
struct Parts {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<Code>,
    retry: Retry,
    chain: Option<HeaderValue>,
}

/// A machine-readable cause, by who chose it.
#[derive(Debug, Clone, PartialEq)]
enum Code {
    /// The gateway, out of a fixed set.
    Own(&'static str),
    /// A plugin, whatever it liked.
    Plugins(String),
}

impl Code {
    fn as_str(&self) -> &str {
        match self {
            Self::Own(code) => code,
            Self::Plugins(code) => code,
        }
    }
}

/// What the answer says about sending the request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    /// Nothing: the status decides.
    Unsaid,
    /// A retry cannot help.
    Never,
    /// Not before this time.
    After(Duration),
}

impl ApiError {
    /// An error of any status. `kind` is OpenAI's `type`.
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status,
            kind,
            message: truncated(message.into(), MAX_MESSAGE_CHARS),
            param: None,
            code: None,
            retry: Retry::Unsaid,
            chain: None,
        }))
    }

    /// 400: the request is wrong as it stands.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400 for one field: `param` names it, such as `messages.2.content`.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::bad_request(message).with_param(param)
    }

    /// 400 for a field that would change the answer and that this version cannot honour.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(param, message).with_code("unsupported_parameter")
    }

    /// 401: no key, or not one of ours.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message)
            .with_code("invalid_api_key")
    }

    /// 403: the key is good, but not for this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
    }

    /// 405; `Allow` is added by whoever knows the methods.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            message,
        )
        .with_code("method_not_allowed")
    }

    /// 404 for a model name that no route has.
    pub fn model_not_found(model: &str) -> Self {
        Self::not_found(format!(
            "the model `{model}` does not exist; GET /v1/models lists those that do"
        ))
        .with_param("model")
        .with_code("model_not_found")
    }

    /// 429 with the time after which a retry makes sense.
    pub fn too_many_requests(message: impl Into<String>, after: Duration) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        error.0.retry = Retry::After(after);
        error
    }

    /// 503 with the time after which a retry makes sense.
    pub fn unavailable(message: impl Into<String>, after: Duration) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message);
        error.0.retry = Retry::After(after);
        error
    }

    /// 503 while the model loads.
    pub fn loading() -> Self {
        Self::unavailable("the model is still loading", Duration::from_secs(2))
            .with_code("model_loading")
    }

    /// 503 when the model could not be loaded; only the operator can help.
    pub fn model_failed() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            "the model could not be loaded; the server's log says why",
        )
        .with_code("model_failed")
        .no_retry()
    }

    /// 503 while the server drains.
    pub fn draining() -> Self {
        Self::unavailable("the server is shutting down", Duration::from_secs(5))
            .with_code("shutting_down")
    }

    /// 504: the request's deadline has passed. A retry would meet the same deadline.
    pub fn deadline(limit: Duration) -> Self {
        Self::timed_out(format!(
            "the answer took longer than the limit of {} s",
            limit.as_secs_f64()
        ))
    }

    fn timed_out(message: String) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", message)
            .with_code("deadline_exceeded")
            .no_retry()
    }

    /// 500: ours. Details belong in the log, not in the answer.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            "internal server error",
        )
        .with_code("internal_error")
    }

    /// 500: a plugin did what the contract does not allow. A retry would end the same way.
    pub fn plugin(plugin: &str, problem: &str, code: &'static str) -> Self {
        tracing::error!(plugin, problem, "a plugin failed a request");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            format!("plugin {plugin} {problem}"),
        )
        .with_code(code)
        .no_retry()
    }

    /// The context is too small, in the words by which LangChain ("prompt is too long") and
    /// LiteLLM ("this model's maximum context length is") recognise it.
    pub fn context_overflow(
        context_length: usize,
        prompt_tokens: impl Display,
        max_tokens: u32,
        param: &'static str,
    ) -> Self {
        Self::bad_request(format!(
            "This model's maximum context length is {context_length} tokens, and the prompt is \
             too long: {prompt_tokens} tokens in {param}, {max_tokens} requested for the answer."
        ))
        .with_param(param)
        .with_code("context_length_exceeded")
    }

    /// Names the offending field.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    /// Adds a stable, machine-readable cause.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.0.code = Some(Code::Own(code));
        self
    }

    /// Asks SDKs not to send the request again, although the status suggests it.
    #[must_use]
    pub fn no_retry(mut self) -> Self {
        self.0.retry = Retry::Never;
        self
    }

    /// Names the plugins that the request had to do with, for the header `x-gapura-chain`.
    #[must_use]
    pub fn with_chain(mut self, chain: HeaderValue) -> Self {
        self.0.chain = Some(chain);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The text for the client.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The machine-readable cause.
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_ref().map(Code::as_str)
    }

    /// The cause as a label of metrics: one of few, whatever plugins say.
    pub fn code_label(&self) -> Option<&'static str> {
        self.0.code.as_ref().map(|code| match code {
            Code::Own(code) => *code,
            Code::Plugins(_) => PLUGIN_CODE_LABEL,
        })
    }

    /// The body, as an error answer and as an event of a stream that has begun.
    pub fn body(&self) -> Value {
        json!({ "error": {
            "message": self.0.message,
            "type": self.0.kind,
            "param": self.0.param,
            "code": self.code(),
        }})
    }
}

/// On an error answer until somebody has taken it on record: whoever sends the answer writes
/// its log line.
#[derive(Debug, Clone)]
pub(crate) struct Unrecorded {
    /// The machine-readable cause; empty where there is none.
    pub(crate) code: String,
    /// Who asked, where that is known.
    pub(crate) tenant: Option<String>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.0.status, Json(self.body())).into_response();
        response.extensions_mut().insert(Unrecorded {
            code: self.code().unwrap_or_default().to_owned(),
            tenant: None,
        });
        let headers = response.headers_mut();
        if let Some(chain) = self.0.chain {
            headers.insert(X_GAPURA_CHAIN, chain);
        }
        match self.0.retry {
            Retry::Unsaid => {}
            Retry::Never => {
                headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            Retry::After(after) => {
                let after = after.min(MAX_RETRY_AFTER);
                let seconds = after.as_millis().div_ceil(1000).max(1) as u64;
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                headers.insert(RETRY_AFTER_MS, HeaderValue::from(after.as_millis() as u64));
            }
        }
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            // A rendered chat is neither empty nor of foreign tokens.
            EngineError::EmptyPrompt | EngineError::UnknownToken { .. } => {
                Self::invalid("prompt", error.to_string())
            }
            EngineError::PromptTooLong {
                num_tokens,
                context_length,
            } => Self::context_overflow(context_length, num_tokens, 1, "prompt"),
            EngineError::InvalidParameter { name, .. } => Self::invalid(name, error.to_string()),
            EngineError::Grammar { .. } => Self::bad_request(error.to_string())
                .with_code("grammar_too_complex")
                .no_retry(),
            EngineError::Overloaded { .. } => {
                Self::too_many_requests(error.to_string(), Duration::from_secs(1))
                    .with_code("overloaded")
            }
            EngineError::DeadlineExceeded { .. } => Self::timed_out(error.to_string()),
            EngineError::ShuttingDown => Self::draining(),
            EngineError::Step { message } => {
                tracing::error!(message, "the engine failed a request");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "server_error",
                    "the model failed on this request",
                )
                .with_code("engine_error")
            }
        }
    }
}

impl From<ChainFailure> for ApiError {
    /// A plugin that fails closed: the client learns which and how, the log also why.
    fn from(failure: ChainFailure) -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        let ChainFailure {
            plugin,
            stage,
            kind,
            message,
            retry_in,
        } = failure;
        let code = match kind {
            FailureKind::Exhausted => {
                return Self::unavailable(
                    "too many plugin instances are at work",
                    Duration::from_secs(1),
                )
                .with_code("plugin_exhausted");
            }
            // Logged when it opened.
            FailureKind::BreakerOpen => {
                let after = retry_in.unwrap_or_default().clamp(SECOND, 60 * SECOND);
                let message = format!("plugin {plugin} keeps failing and is left alone");
                return Self::unavailable(message, after).with_code("plugin_breaker_open");
            }
            FailureKind::Trap => "plugin_trap",
            FailureKind::Deadline => "plugin_deadline",
            FailureKind::Memory => "plugin_memory",
            FailureKind::Stack => "plugin_stack",
            FailureKind::OutputTooLarge => "plugin_output_too_large",
            FailureKind::HostCalls => "plugin_host_calls",
            FailureKind::HeldTooMuch => "plugin_held_too_much",
            FailureKind::InvalidOutput => "plugin_invalid_output",
            FailureKind::Declined => "plugin_declined",
        };
        tracing::error!(plugin, %stage, %kind, message, "a plugin failed a request");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            format!("plugin {plugin} failed in {stage} ({kind})"),
        )
        .with_code(code)
        .no_retry()
    }
}

impl From<Refusal> for ApiError {
    /// A plugin's verdict: its status where that is a client error, else 400.
    fn from(refusal: Refusal) -> Self {
        let status = match StatusCode::from_u16(refusal.status) {
            // 409 is what SDKs retry; a verdict does not change by asking again.
            Ok(StatusCode::CONFLICT) | Err(_) => StatusCode::BAD_REQUEST,
            Ok(status) if status.is_client_error() => status,
            Ok(_) => StatusCode::BAD_REQUEST,
        };
        let mut error = Self::new(status, "invalid_request_error", refusal.message).no_retry();
        error.0.code = Some(Code::Plugins(truncated(refusal.code, MAX_CODE_CHARS)));
        error.0.param = refusal.param;
        error
    }
}

/// Cuts what a client or a plugin may have made long, on a character boundary.
fn truncated(mut text: String, max_chars: usize) -> String {
    if let Some((at, _)) = text.char_indices().nth(max_chars) {
        text.truncate(at);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_a_plugin_chose_is_cut_in_the_answer_and_one_of_all_in_metrics() {
        let code = |code: String| {
            ApiError::from(Refusal {
                status: 422,
                code,
                message: "no".to_owned(),
                param: None,
            })
        };
        let error = code("é".repeat(1000));
        let expected = format!("{}…", "é".repeat(64));
        assert_eq!(error.code(), Some(&*expected));
        assert_eq!(error.body()["error"]["code"], expected);
        assert_eq!(error.code_label(), Some("plugin_refused"));
        // A plugin may well say what one of ours is called.
        assert_eq!(code("overloaded".to_owned()).code(), Some("overloaded"));
        assert_eq!(
            code("overloaded".to_owned()).code_label(),
            Some("plugin_refused")
        );
        assert_eq!(ApiError::loading().code_label(), Some("model_loading"));
    }
}
