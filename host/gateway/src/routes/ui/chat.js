// One chat through a route, and what was done with it on the way.

import { ApiError, events } from "./api.js";
import { el, number, show, table } from "./dom.js";

/** Sends `ask` and yields what is known so far, again and again until the end. */
export async function* explain({ route, version, text, maxTokens }, signal) {
  const path = `routes/${encodeURIComponent(route)}/explain?version=${encodeURIComponent(version)}`;
  const json = { messages: [{ role: "user", content: text }], max_tokens: maxTokens };
  const known = { chains: [], verdicts: [], calls: new Map(), deltas: [], answer: "" };
  for await (const { data } of events("POST", path, { json, signal })) {
    if (data === "[DONE]") return;
    take(known, JSON.parse(data));
    yield known;
  }
  throw new ApiError(0, "the answer broke off");
}

function take(known, step) {
  switch (step.step) {
    case "route": known.chains.push(`${step.route}: ${step.chain}`); break;
    case "verdict": case "failure": case "fallback": known.verdicts.push(step); break;
    case "call": count(known, step); break;
    case "prompt": known.prompt = step; break;
    case "delta": known.deltas.push(step.text); break;
    case "text": known.answer += step.text; break;
    case "end": known.end = step; break;
    case "error": known.error = step; break;
  }
}

/** Calls of one function of a plugin are one line. */
function count(known, { plugin, stage, function: name, outcome, us }) {
  const key = JSON.stringify([plugin, stage, name, outcome]);
  const line = known.calls.get(key) ?? { plugin, stage, name, outcome, calls: 0, us: 0 };
  line.calls += 1;
  line.us += us;
  known.calls.set(key, line);
}

/** Shows what is known in `box`. */
export function showExplanation(box, known) {
  const { verdicts, prompt, deltas, end, error } = known;
  show(box,
    el("h4", {}, "Answer"),
    el("div", { class: "text", id: "answer" }, known.answer),
    el("p", { role: "status", id: "answer-end" }, ending(end)),
    error && el("p", { class: "alert", role: "alert" }, `The client gets ${error.status}: ${error.error.message}`),
    el("p", { class: "faint" }, known.chains.join(" → ")),
    verdicts.length > 0 && [el("h4", {}, "Verdicts"), el("ul", {}, verdicts.map(verdictLine))],
    prompt && [el("h4", {}, "Prompt"), el("div", { class: "text", id: "prompt" }, prompt.segments.map(segment))],
    prompt?.stop.length > 0 && el("p", { class: "faint" }, `The template ends answers at: ${prompt.stop.join(", ")}`),
    deltas.length > 0 && el("details", {}, el("summary", {}, `What the model said, in ${deltas.length} pieces`),
      el("div", { class: "text", id: "deltas" }, deltas.map((text) => el("span", { class: "piece" }, text)))),
    known.calls.size > 0 && [el("h4", {}, "Calls"), table("Calls of plugins",
      ["Plugin", "Stage", "Function", "Outcome", "Calls", "µs", "µs each"],
      [...known.calls.values()].map((line) => [el("code", {}, line.plugin), line.stage, line.name, line.outcome,
        line.calls, line.us, line.us / line.calls]))]);
}

function ending(end) {
  if (!end) return "";
  const { prompt_tokens: prompt, completion_tokens: completion, prompt_tokens_details: details } = end.usage;
  return `Ended: ${end.finish_reason}. ${number(prompt)} tokens of prompt (${number(details.cached_tokens)} known), `
    + `${number(completion)} of answer.`;
}

function segment(part) {
  if (part === "prefix_end") return el("span", { class: "control", title: "All before is the same for every request" }, "⇥");
  if (part.control !== undefined) return el("span", { class: "control" }, part.control);
  return part.text;
}

function verdictLine({ step, plugin, verdict, failure, policy, stage }) {
  const what = {
    verdict: () => judgement(verdict),
    failure: () => `failed in ${stage}: ${failure}`,
    fallback: () => `failed in ${stage}; the request goes on: ${policy}`,
  }[step];
  return el("li", {}, el("code", {}, plugin), " ", what());
}

function judgement(verdict) {
  if (verdict === "accept") return "accepts";
  const [kind, what] = Object.entries(verdict)[0];
  switch (kind) {
    case "amend": return ["amends", amended(what)];
    case "refuse": return `refuses with ${what.status} ${what.code}: ${what.message}`;
    case "answer": return `answers in the model's place (${what.finish})`;
    case "reroute": return `sends the request to the route ${what}`;
    default: return kind;
  }
}

function amended({ messages, sampling }) {
  return [
    (messages ?? []).map(({ role, content }) => el("div", { class: "text" }, `${role}: ${content.join("")}`)),
    sampling !== null && el("div", { class: "text" }, JSON.stringify(sampling)),
  ];
}
