//! The conformance plugin in Rust; `../../README.md` says what it does.

mod describe;

use core::time::Duration;

use gapura_plugin_sdk::http::{HttpError, Method, Request};
use gapura_plugin_sdk::kv::KvError;
use gapura_plugin_sdk::model::{ModelError, Question};
use gapura_plugin_sdk::{
    Action, Amendment, Chat, Context, Cut, Delta, Failure, FinishReason, Grammar, Observer, Prompt,
    Refusal, Reply, Responder, Segment, Summary, Template, Validator, Verdict, clock, http, kv,
    log, metrics, model, random, settings, tokenizer,
};

struct Plugin;

fn command(chat: &Chat) -> Vec<String> {
    chat.messages
        .last()
        .map(|message| message.content.clone())
        .unwrap_or_default()
}

fn number<T: core::str::FromStr + Default>(text: &str) -> T {
    text.parse().unwrap_or_default()
}

fn reason_of(name: &str) -> FinishReason {
    match name {
        "length" => FinishReason::Length,
        "content-filter" => FinishReason::ContentFilter,
        "tool-calls" => FinishReason::ToolCalls,
        _ => FinishReason::Stop,
    }
}

fn refusal(parts: &[&str]) -> Refusal {
    let &[status, code, message, ref param @ ..] = parts else {
        panic!("refuse needs a status, a code and a message")
    };
    Refusal {
        status: number(status),
        code: code.to_owned(),
        message: message.to_owned(),
        param: param.first().map(|&param| param.to_owned()),
    }
}

fn grammar(parts: &[&str]) -> Option<Grammar> {
    match *parts {
        ["json-schema", text] => Some(Grammar::JsonSchema(text.to_owned())),
        ["regex", text] => Some(Grammar::Regex(text.to_owned())),
        ["lark", text] => Some(Grammar::Lark(text.to_owned())),
        _ => None,
    }
}

fn remember(key: &str, value: &str, ttl_ms: Option<&str>) -> String {
    let kept = match ttl_ms {
        Some(ttl_ms) => kv::set_for(key, value.as_bytes(), Duration::from_millis(number(ttl_ms))),
        None => kv::set(key, value.as_bytes()),
    };
    match kept {
        Ok(()) => "kept".to_owned(),
        Err(KvError::TooLarge(limit)) => format!("too-large:{limit}"),
    }
}

fn recall(key: &str) -> String {
    let value = kv::get(key).map(|value| String::from_utf8_lossy(&value).into_owned());
    describe::option(value)
}

fn random_numbers(count: usize) -> String {
    let mut bytes = vec![0; count];
    random::fill(&mut bytes);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex} {}", random::bits() >> 11)
}

fn ask(mut chat: Chat, parts: &[&str]) -> String {
    chat.messages.pop();
    let question = Question {
        messages: chat.messages,
        max_tokens: 7,
        temperature: 0.5,
        grammar: grammar(parts),
    };
    match model::ask(&question) {
        Ok(said) => {
            let finish = describe::reason(said.finish);
            format!(
                "{}|{finish}|{}|{}",
                said.text, said.prompt_tokens, said.completion_tokens
            )
        }
        Err(ModelError::Budget(message)) => format!("budget:{message}"),
        Err(ModelError::Depth) => "depth:".to_owned(),
        Err(ModelError::Deadline) => "deadline:".to_owned(),
        Err(ModelError::Overloaded) => "overloaded:".to_owned(),
        Err(ModelError::Invalid(message)) => format!("invalid:{message}"),
        Err(ModelError::Failed(message)) => format!("failed:{message}"),
    }
}

fn send(parts: &[&str]) -> String {
    let &[method, url, body, milliseconds, ref headers @ ..] = parts else {
        panic!("send needs a method, a URL, a body and milliseconds")
    };
    let method = match method {
        "head" => Method::Head,
        "post" => Method::Post,
        "put" => Method::Put,
        "patch" => Method::Patch,
        "delete" => Method::Delete,
        _ => Method::Get,
    };
    let mut request = Request::new(method, url);
    request.body = body.into();
    if milliseconds != "-" {
        request = request.timeout(Duration::from_millis(number(milliseconds)));
    }
    for header in headers.chunks_exact(2) {
        request = request.header(header[0], header[1]);
    }
    match http::send(&request) {
        Ok(response) => {
            let headers = response.headers.iter();
            let headers = headers.map(|header| format!("{}:{}", header.name, header.value));
            let headers = describe::list(headers);
            format!("{}|{headers}|{}", response.status, response.text())
        }
        Err(HttpError::Denied(message)) => format!("denied:{message}"),
        Err(HttpError::InvalidRequest(message)) => format!("invalid-request:{message}"),
        Err(HttpError::Budget(message)) => format!("budget:{message}"),
        Err(HttpError::Timeout) => "timeout:".to_owned(),
        Err(HttpError::TooLarge(limit)) => format!("too-large:{limit}"),
        Err(HttpError::Connect(message)) => format!("connect:{message}"),
        Err(HttpError::Tls(message)) => format!("tls:{message}"),
        Err(HttpError::Protocol(message)) => format!("protocol:{message}"),
    }
}

fn amend(messages: bool, sampling: bool, chat: Chat) -> Verdict {
    Verdict::Amend(Amendment {
        messages: messages.then_some(chat.messages),
        sampling: sampling.then_some(chat.sampling),
    })
}

impl Validator for Plugin {
    fn validate(mut chat: Chat) -> Result<Verdict, Failure> {
        let parts = command(&chat);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        Ok(match *parts {
            ["mirror"] => amend(true, true, chat),
            ["amend-messages"] => {
                chat.messages.pop();
                amend(true, false, chat)
            }
            ["amend-sampling"] => amend(false, true, chat),
            ["amend-nothing"] => amend(false, false, chat),
            ["refuse", ref rest @ ..] => Verdict::Refuse(refusal(rest)),
            ["answer", finish, text] => Verdict::Answer(Reply {
                text: text.to_owned(),
                finish: reason_of(finish),
            }),
            ["reroute", route] => Verdict::Reroute(route.to_owned()),
            ["fail", message] => {
                return Err(Failure {
                    message: message.to_owned(),
                });
            }
            ["describe"] => Verdict::answer(describe::chat(chat)),
            ["config"] => Verdict::answer(settings::<serde_json::Value>().to_string()),
            ["count", text] => Verdict::answer(tokenizer::count(text).to_string()),
            ["log", level, text] => {
                match level {
                    "debug" => log::debug(text),
                    "info" => log::info(text),
                    "warn" => log::warn(text),
                    _ => log::error(text),
                }
                Verdict::Accept
            }
            ["add", name, by] => {
                metrics::add(name, number(by));
                Verdict::Accept
            }
            ["observe", name, thousandths] => {
                metrics::observe(name, number::<f64>(thousandths) / 1000.0);
                Verdict::Accept
            }
            ["remember", key, value, ref ttl_ms @ ..] => {
                Verdict::answer(remember(key, value, ttl_ms.first().copied()))
            }
            ["recall", key] => Verdict::answer(recall(key)),
            ["forget", key] => Verdict::answer(kv::delete(key).to_string()),
            ["time"] => {
                let (now, monotonic) = (clock::now().as_millis(), clock::monotonic().as_nanos());
                Verdict::answer(format!("{now} {monotonic}"))
            }
            ["random", count] => Verdict::answer(random_numbers(number(count))),
            ["ask", ref rest @ ..] => Verdict::answer(ask(chat, rest)),
            ["send", ref rest @ ..] => Verdict::answer(send(rest)),
            _ => Verdict::Accept,
        })
    }
}

impl Template for Plugin {
    fn render(chat: Chat) -> Result<Prompt, Refusal> {
        let parts = command(&chat);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if let ["refuse", rest @ ..] = &*parts {
            return Err(refusal(rest));
        }
        let mut segments = Vec::new();
        for message in chat.messages {
            segments.push(Segment::Control(format!(
                "<{}>",
                describe::role(message.role)
            )));
            segments.extend(message.content.into_iter().map(Segment::Text));
            segments.push(Segment::PrefixEnd);
        }
        Ok(Prompt {
            segments,
            stop: chat.sampling.stop,
            grammar: match &*parts {
                ["grammar", rest @ ..] => grammar(rest),
                _ => None,
            },
        })
    }
}

struct Processor {
    context: String,
    pushes: u32,
}

impl Responder for Processor {
    fn new(context: Context) -> Self {
        Self {
            context: describe::context(context),
            pushes: 0,
        }
    }

    fn push(&mut self, delta: Delta) -> Action {
        self.pushes += 1;
        let parts: Vec<&str> = delta.text.splitn(3, '/').collect();
        match *parts {
            ["hold"] => Action::Hold,
            ["cut", reason, text] => Action::Cut(Cut {
                reason: reason_of(reason),
                text: text.to_owned(),
            }),
            ["context"] => Action::Emit(self.context.clone()),
            ["pushes"] => Action::Emit(self.pushes.to_string()),
            _ => Action::Emit(describe::delta(delta)),
        }
    }

    fn finish(&mut self, reason: FinishReason) -> Action {
        match reason {
            FinishReason::Length => Action::Hold,
            _ => Action::Emit(format!("{} {}", describe::reason(reason), self.pushes)),
        }
    }
}

impl Observer for Plugin {
    fn completed(summary: Summary) {
        remember("summary", &describe::summary(summary), None);
    }
}

gapura_plugin_sdk::export!(
    validator: Plugin,
    template: Plugin,
    responder: Processor,
    observer: Plugin,
);
