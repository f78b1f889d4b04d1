// The page: who is in, what is shown, what is asked of the server.

import { ApiError, events, request, session, upload } from "./api.js";
import { explain, showExplanation } from "./chat.js";
import { el, options, show, table, time } from "./dom.js";
import { describe, grantLines, isWatching, pluginCards, rollbackNotice, sourceTable } from "./plugins.js";

const TRIAL_POLL_MS = 1000;
const RETRY_MS = [500, 1000, 2000, 5000];
const MAX_LINES = 200;

const $ = (id) => document.getElementById(id);
const state = { plugins: [], sources: [], routes: [], history: [], turn: 0, stay: undefined };

// --- in and out -------------------------------------------------------------------------------

async function enter() {
  $("login-error").textContent = "";
  try {
    await refresh();
  } catch (error) {
    leave(error.message);
    return;
  }
  inside(true);
  state.stay = new AbortController();
  follow(state.stay.signal);
  pollTrials(state.stay.signal);
}

function leave(why = "") {
  session.forget();
  state.stay?.abort();
  inside(false);
  for (const id of ["route-list", "plugin-list", "history-list", "explanation", "rollbacks"]) show($(id));
  $("connection").textContent = "";
  $("login-error").textContent = why;
  $("token").value = "";
  $("token").focus();
}

function inside(is) {
  $("login").hidden = is;
  for (const id of ["workplace", "nav", "leave"]) $(id).hidden = !is;
}

/** What went wrong, said where everybody sees it; a token that is refused ends the session. */
function failed(error, place) {
  if (error.name === "AbortError") return;
  if (error instanceof ApiError && error.status === 401) {
    leave(error.message);
    return;
  }
  place.textContent = error.message;
  // Ours. What follows changes goes on all the same.
  if (!(error instanceof ApiError)) reportError(error);
}

// --- what is shown ----------------------------------------------------------------------------

async function refresh() {
  const turn = state.turn += 1;
  const [{ plugins, sources = [] }, { routes }, { history }] = await Promise.all(
    ["plugins", "routes", "history"].map((path) => request("GET", path)));
  // What was asked for later is newer, whichever comes first.
  if (turn !== state.turn) return;
  Object.assign(state, { plugins, sources, routes, history });
  draw();
}

function draw() {
  show($("route-list"), routeTable());
  show($("plugin-list"), sourceTable(state.sources), pluginCards(state.plugins, state.history));
  const names = state.plugins.map(({ name }) => name);
  show($("plugin-names"), ...names.map((value) => el("option", { value })));
  options($("ask-route"), state.routes.map(({ name }) => [name, name]));
  options($("history-filter"), [["", "everything"], ...subjects().map((subject) => [subject, subject])]);
  drawVersions();
  drawGrants();
  drawHistory();
}

const subjects = () => [...new Set(state.history.map(({ subject }) => subject))].sort();

function routeTable() {
  const binding = ({ plugin, version, digest, stages, on_failure: policy, previous, signed_by: signer, is_pinned: isPinned, ...rest }) => {
    const facts = [stages.join(", "), `on failure ${policy}`, previous && `before: ${previous}`, signer && `signed by ${signer}`, isPinned && "pinned"];
    return el("div", {}, el("code", {}, `${plugin}@${version}+${digest.slice(0, 6)}`),
      el("span", { class: "faint" }, ` ${facts.filter(Boolean).join("; ")}`), breaker(rest));
  };
  const tried = (trial) => trial && [el("span", { class: `state ${trial.state}` },
    trial.percent ? `${trial.state} ${trial.percent} %` : trial.state), ` ${trial.plugin} `, el("code", {}, trial.digest.slice(0, 6))];
  return table("Routes", ["Route", "Aliases", "Plugins, in order", "On trial", ""],
    state.routes.map((route) => [
      [route.name, route.default && el("span", { class: "faint" }, " (default)")],
      route.aliases.join(", "), route.plugins.map(binding), tried(route.trial) ?? "",
      el("button", { type: "button", "data-chat": route.name, "aria-label": `Chat through ${route.name}` }, "Chat"),
    ]));
}

function breaker({ breaker: state, retry_in_ms: retry }) {
  const isOpen = state && state !== "closed";
  return isOpen && el("strong", { class: "over" }, ` breaker ${state}${retry ? `, next try in ${retry} ms` : ""}`);
}

function drawHistory() {
  const wanted = $("history-filter").value;
  const changes = state.history.filter(({ subject }) => !wanted || subject === wanted);
  show($("history-list"), table("History", ["When", "What", "Version", "Outcome", "By", "Why"],
    changes.slice(0, MAX_LINES).map(({ at, subject, version, digest, outcome, origin, reason }) => [
      time(at), subject, el("code", {}, [version, digest?.slice(0, 6)].filter(Boolean).join("+")),
      el("span", { class: `state ${outcome}` }, outcome), origin, reason ?? "",
    ])),
  changes.length > MAX_LINES && el("p", { class: "faint" }, `and ${changes.length - MAX_LINES} before`));
}

/** A route without a version on trial answers with the live one. */
function drawVersions() {
  const route = state.routes.find(({ name }) => name === $("ask-route").value);
  const trial = $("ask-version").options[1];
  trial.disabled = !route?.trial;
  if (trial.disabled) $("ask-version").value = "live";
}

/** What will be granted to the component that is about to be pushed. */
function drawGrants() {
  const name = $("push-name").value.trim();
  const plugin = state.plugins.find((plugin) => plugin.name === name);
  const isBound = plugin?.granted.length > 0;
  show($("push-grants"), name && (isBound ? el("ul", {}, grantLines(plugin)) : el("p", {}, "No route binds it yet.")));
}

// --- what changes -----------------------------------------------------------------------------

async function follow(signal) {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  for (let tries = 0; !signal.aborted; tries += 1) {
    try {
      const opened = () => {
        tries = 0;
        $("connection").textContent = "following changes";
        // Something may have changed meanwhile.
        refresh().catch((error) => failed(error, $("connection")));
      };
      for await (const { event, data } of events("GET", "events", { signal, opened })) {
        if (event === "change") announce(JSON.parse(data));
        await refresh();
      }
    } catch (error) {
      failed(error, $("connection"));
      if (signal.aborted) return;
    }
    $("connection").textContent = "not connected, trying again";
    await pause(RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]);
  }
}

function announce(change) {
  if (change.origin === "guard" && change.reason) {
    $("rollbacks").prepend(el("p", { class: "alert" }, rollbackNotice(change)));
    while ($("rollbacks").children.length > 3) $("rollbacks").lastChild.remove();
  } else {
    $("said").textContent = `${change.subject}: ${[change.version, change.outcome, change.reason].filter(Boolean).join(", ")}`;
  }
}

function pollTrials(signal) {
  let isAsking = false;
  const timer = setInterval(async () => {
    if (isAsking || document.hidden || !isWatching(state.plugins, state.sources)) return;
    isAsking = true;
    await refresh().catch((error) => failed(error, $("connection")));
    isAsking = false;
  }, TRIAL_POLL_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}

// --- what is asked ----------------------------------------------------------------------------

/** Asks before `move`, makes it, and says what the server answered. */
function confirmMove({ title, text, go, path, body }, hasShare) {
  $("confirm-title").textContent = title;
  $("confirm-text").textContent = text;
  complain("");
  $("confirm-share").hidden = !hasShare;
  $("confirm-go").textContent = go;
  $("confirm-go").disabled = false;
  $("confirm").querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    $("confirm-go").disabled = true;
    complain("");
    const share = hasShare ? { percent: $("confirm-percent").valueAsNumber } : {};
    try {
      const status = await request("POST", path, { ...body, ...share });
      $("confirm").close();
      $("said").textContent = `Done. ${statusLine(status)}`;
      await refresh();
    } catch (error) {
      $("confirm-go").disabled = false;
      if (hasShare && error.param === "percent") complain(error.message);
      else failed(error, $("confirm-error"));
    }
  };
  $("confirm").showModal();
}

/** What the server says against the share, at its field; nothing is said against the rest then. */
function complain(message) {
  $("confirm-error").textContent = "";
  $("percent-error").textContent = message;
  if (message) {
    $("confirm-percent").setAttribute("aria-invalid", "true");
    $("confirm-percent").focus();
  } else {
    $("confirm-percent").removeAttribute("aria-invalid");
  }
}

function statusLine({ name, versions }) {
  const states = versions.map(({ label, state, percent }) => `${label} is ${state}${percent ? ` ${percent} %` : ""}`);
  return `Plugin ${name}: ${states.join("; ")}.`;
}

async function push(event) {
  event.preventDefault();
  const name = $("push-name").value.trim();
  $("said").textContent = `Pushing ${name} …`;
  try {
    const signature = (await $("push-signature").files[0]?.text())?.trim();
    const path = `plugins/${encodeURIComponent(name)}?until=verified`;
    const status = await upload(path, $("push-file").files[0], signature);
    $("said").textContent = `Pushed. ${statusLine(status)}`;
    $("push").reset();
    drawGrants();
  } catch (error) {
    failed(error, $("said"));
  }
  await refresh().catch((error) => failed(error, $("connection")));
}

async function ask(event) {
  event.preventDefault();
  const stop = new AbortController();
  $("ask-stop").onclick = () => stop.abort();
  $("ask-stop").disabled = false;
  const place = el("p", { class: "problem", role: "alert" });
  show($("explanation"));
  try {
    const wanted = {
      route: $("ask-route").value, version: $("ask-version").value,
      text: $("ask-text").value, maxTokens: $("ask-tokens").valueAsNumber,
    };
    for await (const known of explain(wanted, stop.signal)) showExplanation($("explanation"), known);
  } catch (error) {
    failed(error, place);
    $("explanation").append(place);
  }
  $("ask-stop").disabled = true;
}

document.addEventListener("click", ({ target }) => {
  const { move, plugin: name, digest, chat } = target.closest?.("button")?.dataset ?? {};
  const plugin = state.plugins.find((plugin) => plugin.name === name);
  if (move && plugin) confirmMove(describe(move, plugin, digest), move === "canary");
  if (chat) {
    $("ask-route").value = chat;
    drawVersions();
    $("ask-text").focus();
  }
});
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  session.token = $("token").value;
  enter();
});
$("leave").addEventListener("click", () => leave());
$("confirm-cancel").addEventListener("click", () => $("confirm").close());
$("push").addEventListener("submit", push);
$("push-name").addEventListener("input", drawGrants);
$("push-file").addEventListener("change", () => {
  const file = $("push-file").files[0];
  if (file && !$("push-name").value) $("push-name").value = file.name.replace(/\.wasm$/, "");
  drawGrants();
});
$("ask").addEventListener("submit", ask);
$("ask-route").addEventListener("change", drawVersions);
$("history-filter").addEventListener("change", drawHistory);

if (session.token) enter();
else leave();
