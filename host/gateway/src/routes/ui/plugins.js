// Plugins: their versions, what may be done with them, trials and costs.

import { bytes, el, number, table, time } from "./dom.js";

const percent = (share) => `${number(share * 100)} %`;

/** All plugins; `history` has the newest change first. */
export function pluginCards(plugins, history) {
  return plugins.map((plugin) => {
    const changes = history.filter((change) => change.subject === `plugin ${plugin.name}`);
    const since = changes.findIndex((change) => change.origin !== "guard");
    const byGuard = changes.slice(0, since < 0 ? changes.length : since);
    return card(plugin, byGuard.find((change) => change.reason));
  });
}

/** What the guard did, in words. */
export function rollbackNotice(change) {
  const version = change.version ? `version ${change.version} ` : "";
  const digest = change.digest ? `(${change.digest.slice(0, 6)}) ` : "";
  return `Rolled back automatically, ${time(change.at)}: ${version}${digest}of ${change.subject}: `
    + (change.reason ?? "no reason was given");
}

/** What the configuration wants from registries, and how far it has come. */
export function sourceTable(sources) {
  if (!sources.length) return undefined;
  const why = ({ reason, next_try_s: next }) => `${reason ?? ""}${next == null ? "" : `; asked again in ${next} s`}`;
  const role = ({ canary }) => canary == null ? "live" : `canary ${canary} %`;
  return table("From registries", ["Plugin", "As", "Reference", "State", "Why"],
    sources.map((source) => [source.name, role(source), el("code", {}, source.reference),
      el("span", { class: `state ${source.state}` }, source.state), why(source)]));
}

/** Whether a version is being watched, or on its way from a registry: more will be known in a moment. */
export function isWatching(plugins, sources) {
  return plugins.some((plugin) => plugin.trial || plugin.probation)
    || sources.some(({ state }) => state === "pulling" || state === "failed");
}

const isOnTrial = (version) => version.state === "shadow" || version.state === "canary";

function card(plugin, rollback) {
  const bound = plugin.routes.length ? `on ${plugin.routes.join(", ")}` : "on no route";
  const stages = plugin.stages.join(", ") || "unknown stages";
  return el("article", { class: "card", "data-key": plugin.name, "aria-label": `Plugin ${plugin.name}` },
    el("h3", {}, plugin.name),
    el("p", { class: "faint" }, `${stages}; ${bound}`),
    plugin.granted.length > 0 && el("ul", { class: "faint", "aria-label": `Granted to ${plugin.name}` }, grantLines(plugin)),
    rollback && el("p", { class: "alert", "data-rollback": true }, rollbackNotice(rollback)),
    plugin.trial && trial(plugin, plugin.trial),
    plugin.probation && trial(plugin, plugin.probation),
    table(`Versions of ${plugin.name}`,
      ["Version", "State", "Since", "Size", "Imports", "Golden cases", "Moves"],
      plugin.versions.map((version) => versionRow(plugin, version))),
    rollbackButton(plugin),
    costs(plugin));
}

/** What each route that binds the plugin grants it, and whom it may ask by HTTP there. */
export function grantLines({ granted }) {
  const hosts = ({ http }) => http.length ? `; http to ${http.join(", ")}` : "";
  return granted.map((of) => el("li", {}, `${of.route} grants ${of.grants.join(", ")}${hosts(of)}`));
}

/** What a version imports and a route does not grant. */
function lacking({ granted }, { imports }) {
  const lacks = ({ grants }) => imports.filter((name) => !grants.includes(name));
  return granted.filter((of) => lacks(of).length > 0).map((of) => `${of.route} does not grant ${lacks(of).join(", ")}`);
}

function versionRow(plugin, version) {
  const share = version.state === "canary" ? `canary ${version.percent} %` : version.state;
  const reason = version.reason && el("p", { class: "problem" }, version.reason);
  return [
    [el("code", {}, version.label), el("div", { class: "faint" }, origin(version))],
    [el("span", { class: `state ${version.state}` }, share), version.is_previous && " (served before)", reason],
    time(version.since),
    bytes(version.size_bytes),
    [version.imports.join(", "), lacking(plugin, version).map((text) => el("p", { class: "problem" }, text))],
    version.cases ?? "not run",
    el("div", { class: "buttons" }, movesOf(version).map((move) => button(plugin, version, move))),
  ];
}

function origin({ source, signed_by: signers = [] }) {
  return signers.length ? `${source}, signed by ${signers.join(", ")}` : source;
}

/** What may follow on a state; the server has the last word. */
function movesOf(version) {
  switch (version.state) {
    case "staged": return ["verify"];
    case "verified": case "retired": return ["shadow", "canary", "activate"];
    case "shadow": return ["canary", "activate"];
    case "canary": return ["shadow", "canary", "activate"];
    default: return [];
  }
}

const NAMES = { verify: "Verify", shadow: "Shadow", canary: "Canary", activate: "Activate", rollback: "Roll back" };

function button(plugin, version, move) {
  return el("button", {
    type: "button", "data-move": move, "data-plugin": plugin.name, "data-digest": version?.digest,
    "aria-label": `${NAMES[move]} ${version?.label ?? plugin.name}`,
  }, NAMES[move]);
}

function rollbackButton(plugin) {
  const possible = plugin.versions.some((version) => isOnTrial(version) || version.is_previous);
  return possible ? el("p", {}, button(plugin, undefined, "rollback")) : undefined;
}

/**
 * What a move of `plugin` to the version `digest` will do: `{ title, text, go, path, body }`.
 * `text` names every version and route that it touches.
 */
export function describe(move, plugin, digest) {
  const version = plugin.versions.find((version) => version.digest === digest);
  const live = plugin.versions.find((version) => version.state === "live");
  const routes = plugin.routes.length ? `on ${plugin.routes.join(", ")}` : "on no route";
  const liveName = live?.label ?? "nothing";
  return {
    title: `${NAMES[move]} ${version?.label ?? plugin.name}?`,
    text: {
      verify: () => `${version.label} is compiled and its golden cases are run. Nothing that serves changes.`,
      shadow: () => `${version.label} sees the requests of ${liveName} ${routes}. What it makes of them is `
        + "compared and thrown away; clients notice nothing.",
      canary: () => `${version.label} answers a share of the requests ${routes}; ${liveName} answers the others.`,
      activate: () => `${version.label} serves ${routes} from the next request on. ${liveName} retires; a rollback `
        + "goes back to it. Requests under way finish on the version they began with.",
      rollback: () => rollbackText(plugin, liveName, routes),
    }[move](),
    go: NAMES[move],
    path: `plugins/${encodeURIComponent(plugin.name)}/${move}`,
    body: digest ? { digest } : {},
  };
}

function rollbackText(plugin, live, routes) {
  const tried = plugin.versions.find(isOnTrial);
  if (tried) return `The trial of ${tried.label} ends; ${live} answers all requests ${routes}.`;
  const previous = plugin.versions.find((version) => version.is_previous);
  return `${live} retires; ${previous?.label ?? "the version before"} serves ${routes} again from the next request on.`;
}

/** Two versions side by side: one on trial, or one that went live a short while ago. */
function trial(plugin, { digest, mode, percent: share, seconds, live, candidate, limits, shadow }) {
  const label = plugin.versions.find((version) => version.digest === digest)?.label ?? digest.slice(0, 6);
  const isNew = mode === "live";
  const name = isNew ? `New: ${label}` : `On trial: ${label}, ${mode}${share ? ` ${share} %` : ""}`;
  return el("section", { "data-trial": mode, "aria-label": name },
    el("h4", {}, name, el("span", { class: "faint" }, `, for ${number(seconds)} s`)),
    table(`${label} beside ${isNew ? "the version before" : "the live version"}`,
      ["", isNew ? "Before" : "Live", label, "Limit"], comparison(live, candidate, limits ?? {})),
    !limits && el("p", { class: "faint" }, "The guard is off: nothing is rolled back by itself."),
    shadow && shadowed(shadow));
}

function comparison(live, candidate, limits) {
  const { min_requests: least, max_failure_rate: failures, max_deadline_rate: deadlines,
    max_latency_ratio: ratio, min_latency_us: nothing } = limits;
  const marked = (text, isOver) => isOver ? el("strong", { class: "over" }, `${text} (over)`) : text;
  const upTo = (limit) => limit === undefined ? "" : `at most ${percent(limit)}`;
  const late = ({ deadlines, requests }) => requests ? deadlines / requests : 0;
  const isSlow = live.requests > 0 && candidate.p95_us > ratio * live.p95_us && candidate.p95_us - live.p95_us > nothing;
  return [
    ["Requests", live.requests, candidate.requests, least === undefined ? "" : `judged from ${least} on`],
    ["Failures", live.failures, candidate.failures, ""],
    ["Failure rate", percent(live.failure_rate),
      marked(percent(candidate.failure_rate), candidate.failure_rate > failures), upTo(failures)],
    ["Out of time", percent(late(live)), marked(percent(late(candidate)), late(candidate) > deadlines), upTo(deadlines)],
    ["p50 µs", live.p50_us, candidate.p50_us, ""],
    ["p95 µs", live.p95_us, isSlow ? marked(number(candidate.p95_us), true) : candidate.p95_us,
      ratio === undefined ? "" : `at most ${number(ratio)} times as long, or ${number(nothing)} more`],
    ["p99 µs", live.p99_us, candidate.p99_us, ""],
  ];
}

function shadowed(shadow) {
  const differ = Object.entries(shadow.differ ?? {}).map(([kind, count]) => `${kind} ${count}`).join(", ");
  const samples = shadow.samples ?? [];
  const how = (sample) => {
    if (sample.detail) return sample.detail.join(" → ");
    if (sample.bytes) return `from byte ${sample.at_byte}; ${sample.bytes.join(" → ")} bytes`;
    return "";
  };
  return [
    el("p", {}, `Compared ${shadow.compared}, the same ${shadow.same}, skipped ${shadow.skipped}. Different: ${differ || "none"}.`),
    samples.length > 0 && el("details", {}, el("summary", {}, `${samples.length} differences, live → candidate`),
      table("Differences", ["Request", "In", "How"], samples.map((sample) => [sample.request_id, sample.kind, how(sample)]))),
  ];
}

function costs(plugin) {
  const ledger = plugin.ledger ?? [];
  if (!ledger.length) return undefined;
  const name = (account) => el("code", {}, `${account.version}+${account.digest.slice(0, 6)}`);
  const counts = (failures) => Object.entries(failures).map(([kind, count]) => `${kind} ${count}`).join(", ");
  const stages = ledger.flatMap((account) => Object.entries(account.stages ?? {}).map(([stage, { calls, refusals, failures, call }]) =>
    [name(account), account.route, stage, calls, refusals, counts(failures ?? {}), call?.p50_us, call?.p99_us]));
  return el("details", {}, el("summary", {}, "What it costs"),
    table(`Requests of ${plugin.name}`,
      ["Version", "Route", "Requests", "Failed", "Out of time", "p50 µs", "p99 µs", "Memory", "Held back", "Tokens in", "Tokens out"],
      ledger.map((account) => [name(account), account.route, account.requests, account.failed, account.deadlines,
        account.request?.p50_us, account.request?.p99_us, bytes(account.memory_bytes ?? 0), bytes(account.held_bytes ?? 0),
        account.prompt_tokens, account.completion_tokens])),
    table(`Calls of ${plugin.name}`,
      ["Version", "Route", "Stage", "Calls", "Refusals", "Failures", "p50 µs", "p99 µs"], stages));
}
