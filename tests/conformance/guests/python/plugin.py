"""The conformance plugin in Python; ../../README.md says what it does."""

import math

from componentize_py_types import Err
from wit_world.exports import completion_observer, prompt_template, request_validation, response_processing
from wit_world.imports import clock, config, http, kv, log, metrics, model, random, tokenizer
from wit_world.imports.types import (
    Chat,
    Failure,
    FinishReason,
    Grammar,
    Grammar_JsonSchema,
    Grammar_Lark,
    Grammar_Regex,
    Message,
    Refusal,
    Sampling,
)

# Descriptions.


def option(value) -> str:
    return "-" if value is None else f"={value}"


def listed(values) -> str:
    return f"[{','.join(map(str, values))}]"


def milli(number: float) -> int:
    return math.floor(number * 1000 + 0.5)


def milli_option(number: float | None) -> str:
    return option(None if number is None else milli(number))


def boolean(value: bool) -> str:
    return str(value).lower()


def kebab(case) -> str:
    """An enum's case as the contract spells it."""
    return case.name.lower().replace("_", "-")


def describe_message(message: Message) -> str:
    calls = [f"{call.id}/{call.name}/{call.arguments}" for call in message.tool_calls]
    parts = [kebab(message.role), listed(message.content), option(message.name), listed(calls), option(message.tool_call_id)]
    return ":".join(parts)


def describe_sampling(sampling: Sampling) -> str:
    parts = [
        option(sampling.max_tokens),
        milli_option(sampling.temperature),
        milli_option(sampling.top_p),
        option(sampling.top_k),
        milli_option(sampling.min_p),
        option(sampling.seed),
        listed(sampling.stop),
        milli_option(sampling.presence_penalty),
        milli_option(sampling.frequency_penalty),
        milli_option(sampling.repetition_penalty),
    ]
    return " ".join(parts)


def describe_request(it) -> str:
    return "|".join([it.request_id, it.route, it.model, option(it.tenant), boolean(it.stream)])


def describe_chat(chat: Chat) -> str:
    messages = listed(map(describe_message, chat.messages))
    return "|".join([describe_request(chat), messages, describe_sampling(chat.sampling), chat.extra, chat.call_id])


def describe_context(context: response_processing.Context) -> str:
    return "|".join([describe_request(context), str(context.choice), context.extra, context.call_id])


def describe_outcome(outcome: completion_observer.Outcome) -> str:
    match outcome:
        case completion_observer.Outcome_Finished(reason):
            return f"finished:{kebab(reason)}"
        case completion_observer.Outcome_Cancelled():
            return "cancelled"
        case completion_observer.Outcome_Failed(code):
            return f"failed:{code}"


def describe_summary(summary: completion_observer.Summary) -> str:
    numbers = [summary.prompt_tokens, summary.cached_tokens, summary.completion_tokens, summary.queue, summary.prefill, summary.decode]
    parts = [describe_request(summary), str(summary.choice), describe_outcome(summary.outcome), *map(str, numbers), listed(summary.chain), summary.call_id]
    return "|".join(parts)


# Commands.


def command(chat: Chat) -> list[str]:
    return chat.messages[-1].content


def reason_of(name: str) -> FinishReason:
    return FinishReason[name.upper().replace("-", "_")]


def refusal(status: str, code: str, message: str, param: str | None = None) -> Refusal:
    return Refusal(int(status), code, message, param)


def grammar(kind: str, text: str = "") -> Grammar | None:
    kinds = {"json-schema": Grammar_JsonSchema, "regex": Grammar_Regex, "lark": Grammar_Lark}
    return kinds[kind](text) if kind in kinds else None


def remember(key: str, value: str, ttl: str | None = None) -> str:
    try:
        kv.set(key, value.encode(), None if ttl is None else int(ttl))
    except Err as error:
        return f"too-large:{error.value.value}"
    return "kept"


def recall(key: str) -> str:
    value = kv.get(key)
    return option(None if value is None else value.decode())


def ask(messages: list[Message], kind: str, text: str = "") -> str:
    try:
        said = model.ask(model.Question(messages, 7, 0.5, grammar(kind, text)))
    except Err as error:
        name = {
            model.ModelError_Budget: "budget",
            model.ModelError_Depth: "depth",
            model.ModelError_Deadline: "deadline",
            model.ModelError_Overloaded: "overloaded",
            model.ModelError_Invalid: "invalid",
            model.ModelError_Failed: "failed",
        }[type(error.value)]
        return f"{name}:{getattr(error.value, 'value', '')}"
    return f"{said.text}|{kebab(said.finish)}|{said.prompt_tokens}|{said.completion_tokens}"


def send(method: str, url: str, body: str, milliseconds: str, *headers: str) -> str:
    pairs = [http.Header(name, value) for name, value in zip(headers[::2], headers[1::2])]
    timeout_ms = None if milliseconds == "-" else int(milliseconds)
    try:
        response = http.send(http.Request(http.Method[method.upper()], url, pairs, body.encode(), timeout_ms))
    except Err as error:
        name = {
            http.HttpError_Denied: "denied",
            http.HttpError_InvalidRequest: "invalid-request",
            http.HttpError_Budget: "budget",
            http.HttpError_Timeout: "timeout",
            http.HttpError_TooLarge: "too-large",
            http.HttpError_Connect: "connect",
            http.HttpError_Tls: "tls",
            http.HttpError_Protocol: "protocol",
        }[type(error.value)]
        return f"{name}:{getattr(error.value, 'value', '')}"
    headed = [f"{header.name}:{header.value}" for header in response.headers]
    return f"{response.status}|{listed(headed)}|{response.body.decode()}"


def answer(text: str, finish: FinishReason = FinishReason.STOP) -> request_validation.Verdict:
    return request_validation.Verdict_Answer(request_validation.Reply(text, finish))


def amend(messages: list[Message] | None, sampling: Sampling | None) -> request_validation.Verdict:
    return request_validation.Verdict_Amend(request_validation.Amendment(messages, sampling))


class RequestValidation:
    def validate(self, chat: Chat) -> request_validation.Verdict:
        match command(chat):
            case ["mirror"]:
                return amend(chat.messages, chat.sampling)
            case ["amend-messages"]:
                return amend(chat.messages[:-1], None)
            case ["amend-sampling"]:
                return amend(None, chat.sampling)
            case ["amend-nothing"]:
                return amend(None, None)
            case ["refuse", *parts]:
                return request_validation.Verdict_Refuse(refusal(*parts))
            case ["answer", finish, text]:
                return answer(text, reason_of(finish))
            case ["reroute", route]:
                return request_validation.Verdict_Reroute(route)
            case ["fail", message]:
                raise Err(Failure(message))
            case ["describe"]:
                return answer(describe_chat(chat))
            case ["config"]:
                return answer(config.get())
            case ["count", text]:
                return answer(str(tokenizer.count(text)))
            case ["log", level, text]:
                log.write(log.Level[level.upper()], text)
            case ["add", name, by]:
                metrics.add(name, int(by))
            case ["observe", name, thousandths]:
                metrics.observe(name, int(thousandths) / 1000)
            case ["remember", key, value, *ttl]:
                return answer(remember(key, value, *ttl))
            case ["recall", key]:
                return answer(recall(key))
            case ["forget", key]:
                return answer(boolean(kv.delete(key)))
            case ["time"]:
                return answer(f"{clock.now()} {clock.monotonic()}")
            case ["random", count]:
                return answer(f"{random.bytes(int(count)).hex()} {random.bits() // 2048}")
            case ["ask", *parts]:
                return answer(ask(chat.messages[:-1], *parts))
            case ["send", *parts]:
                return answer(send(*parts))
        return request_validation.Verdict_Accept()


class PromptTemplate:
    def render(self, chat: Chat) -> prompt_template.Prompt:
        name, *parts = command(chat)
        if name == "refuse":
            raise Err(refusal(*parts))
        segments: list[prompt_template.Segment] = []
        for message in chat.messages:
            segments.append(prompt_template.Segment_Control(f"<{kebab(message.role)}>"))
            segments.extend(map(prompt_template.Segment_Text, message.content))
            segments.append(prompt_template.Segment_PrefixEnd())
        imposed = grammar(*parts) if name == "grammar" else None
        return prompt_template.Prompt(segments, chat.sampling.stop, imposed)


class CompletionObserver:
    def completed(self, summary: completion_observer.Summary) -> None:
        remember("summary", describe_summary(summary))
