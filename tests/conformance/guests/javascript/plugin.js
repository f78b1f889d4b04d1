// The conformance plugin in JavaScript; ../../README.md says what it does.

import clock from "gapura:plugin/clock@0.1.0";
import config from "gapura:plugin/config@0.1.0";
import http from "gapura:plugin/http@0.1.0";
import kv from "gapura:plugin/kv@0.1.0";
import log from "gapura:plugin/log@0.1.0";
import metrics from "gapura:plugin/metrics@0.1.0";
import model from "gapura:plugin/model@0.1.0";
import random from "gapura:plugin/random@0.1.0";
import tokenizer from "gapura:plugin/tokenizer@0.1.0";

// Descriptions.

const option = (value) => (value == null ? "-" : `=${value}`);
const list = (values) => `[${values.join(",")}]`;
// componentize-qjs hands over numbers of 32 bits as signed ones.
const u32 = (number) => number >>> 0;
const milli = (number) => Math.floor(number * 1000 + 0.5);
const milliOption = (number) => option(number == null ? null : milli(number));

const describeMessage = ({ role, content, name, toolCalls, toolCallId }) =>
  [
    role,
    list(content),
    option(name),
    list(toolCalls.map((call) => `${call.id}/${call.name}/${call.arguments}`)),
    option(toolCallId),
  ].join(":");

const describeSampling = (sampling) =>
  [
    option(sampling.maxTokens == null ? null : u32(sampling.maxTokens)),
    milliOption(sampling.temperature),
    milliOption(sampling.topP),
    option(sampling.topK),
    milliOption(sampling.minP),
    option(sampling.seed),
    list(sampling.stop),
    milliOption(sampling.presencePenalty),
    milliOption(sampling.frequencyPenalty),
    milliOption(sampling.repetitionPenalty),
  ].join(" ");

const describeRequest = ({ requestId, route, model, tenant, stream }) =>
  [requestId, route, model, option(tenant), stream].join("|");

const describeChat = (chat) =>
  [
    describeRequest(chat),
    list(chat.messages.map(describeMessage)),
    describeSampling(chat.sampling),
    chat.extra,
    chat.callId,
  ].join("|");

const describeContext = (context) =>
  [describeRequest(context), u32(context.choice), context.extra, context.callId].join("|");

const describeOutcome = ({ tag, val }) => (tag === "cancelled" ? tag : `${tag}:${val}`);

const describeSummary = (summary) =>
  [
    describeRequest(summary),
    summary.choice,
    describeOutcome(summary.outcome),
    summary.promptTokens,
    summary.cachedTokens,
    u32(summary.completionTokens),
    summary.queue,
    summary.prefill,
    summary.decode,
    list(summary.chain),
    summary.callId,
  ].join("|");

// Commands.

const command = (chat) => chat.messages.at(-1).content;

const refusal = ([status, code, message, param]) => ({ status: Number(status), code, message, param: param ?? null });

const grammar = (kind, text) => (kind === "none" ? null : { tag: kind, val: text });

const amend = (messages, sampling) => ({ tag: "amend", val: { messages, sampling } });
const answer = (text, finish = "stop") => ({ tag: "answer", val: { text: String(text), finish } });

// QuickJS has no TextEncoder and no TextDecoder.
const encode = (text) => Uint8Array.from(unescape(encodeURIComponent(text)), (byte) => byte.charCodeAt(0));
const decode = (bytes) => decodeURIComponent(escape(String.fromCharCode(...bytes)));

// What `call` returns, or the error of the contract that it ends with.
function attempt(call) {
  try {
    return call();
  } catch (error) {
    const { tag, val } = error.payload ?? error;
    if (tag === undefined) throw error;
    return `${tag}:${val ?? ""}`;
  }
}

const remember = (key, value, ttl) =>
  attempt(() => {
    kv.set(key, encode(value), ttl === undefined ? null : Number(ttl));
    return "kept";
  });

function recall(key) {
  const value = kv.get(key);
  return option(value == null ? null : decode(value));
}

const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const ask = (messages, kind, text) =>
  attempt(() => {
    const question = { messages, maxTokens: 7, temperature: 0.5, grammar: grammar(kind, text) };
    const said = model.ask(question);
    return `${said.text}|${said.finish}|${said.promptTokens}|${said.completionTokens}`;
  });

const send = (method, url, body, milliseconds, ...rest) =>
  attempt(() => {
    const headers = [];
    for (let at = 0; at < rest.length; at += 2) headers.push({ name: rest[at], value: rest[at + 1] });
    const timeoutMs = milliseconds === "-" ? null : Number(milliseconds);
    const response = http.send({ method, url, headers, body: encode(body), timeoutMs });
    const lines = response.headers.map(({ name, value }) => `${name}:${value}`);
    return `${response.status}|${list(lines)}|${decode(response.body)}`;
  });

const commands = {
  mirror: (chat) => amend(chat.messages, chat.sampling),
  "amend-messages": (chat) => amend(chat.messages.slice(0, -1), null),
  "amend-sampling": (chat) => amend(null, chat.sampling),
  "amend-nothing": () => amend(null, null),
  refuse: (_, ...parts) => ({ tag: "refuse", val: refusal(parts) }),
  answer: (_, finish, text) => answer(text, finish),
  reroute: (_, route) => ({ tag: "reroute", val: route }),
  fail: (_, message) => {
    throw { message };
  },
  describe: (chat) => answer(describeChat(chat)),
  config: () => answer(config.get()),
  count: (_, text) => answer(tokenizer.count(text)),
  log: (_, level, text) => {
    log.write(level, text);
    return { tag: "accept" };
  },
  add: (_, name, by) => {
    metrics.add(name, Number(by));
    return { tag: "accept" };
  },
  observe: (_, name, milli) => {
    metrics.observe(name, Number(milli) / 1000);
    return { tag: "accept" };
  },
  remember: (_, key, value, ttl) => answer(remember(key, value, ttl)),
  recall: (_, key) => answer(recall(key)),
  forget: (_, key) => answer(kv.delete(key)),
  time: () => answer(`${clock.now()} ${clock.monotonic()}`),
  random: (_, count) => answer(`${hex(random.bytes(Number(count)))} ${Math.floor(random.bits() / 2048)}`),
  ask: (chat, kind, text) => answer(ask(chat.messages.slice(0, -1), kind, text)),
  send: (_, ...parts) => answer(send(...parts)),
};

export const requestValidation = {
  validate(chat) {
    const [name, ...parts] = command(chat);
    return commands[name]?.(chat, ...parts) ?? { tag: "accept" };
  },
};

export const promptTemplate = {
  render(chat) {
    const [name, ...parts] = command(chat);
    if (name === "refuse") throw refusal(parts);
    const segments = chat.messages.flatMap(({ role, content }) => [
      { tag: "control", val: `<${role}>` },
      ...content.map((text) => ({ tag: "text", val: text })),
      { tag: "prefix-end" },
    ]);
    return {
      segments,
      stop: chat.sampling.stop,
      grammar: name === "grammar" ? grammar(...parts) : null,
    };
  },
};

class Processor {
  constructor(context) {
    this.context = context;
    this.pushes = 0;
  }

  push({ text, tokenIds, logprobs }) {
    this.pushes += 1;
    const [name, reason, last] = text.split("/");
    switch (name) {
      case "hold":
        return { tag: "hold" };
      case "cut":
        return { tag: "cut", val: { reason, text: last } };
      case "context":
        return { tag: "emit", val: describeContext(this.context) };
      case "pushes":
        return { tag: "emit", val: String(this.pushes) };
      default:
        return { tag: "emit", val: `${text}|${list([...tokenIds].map(u32))}|${list([...logprobs].map(milli))}` };
    }
  }

  finish(reason) {
    return reason === "length" ? { tag: "hold" } : { tag: "emit", val: `${reason} ${this.pushes}` };
  }
}

export const responseProcessing = { Processor };

export const completionObserver = {
  completed(summary) {
    remember("summary", describeSummary(summary));
  },
};
