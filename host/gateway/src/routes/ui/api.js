// The administration API: requests with the token, and streams of events.

const TOKEN = "gapura.token";
// Beside this page, wherever a proxy may have put both.
const BASE = new URL("admin/v1/", document.baseURI);
const BROKE_OFF = "the answer broke off";

export const session = {
  get token() { return sessionStorage.getItem(TOKEN); },
  set token(token) { sessionStorage.setItem(TOKEN, token); },
  forget() { sessionStorage.removeItem(TOKEN); },
};

/** What the server answered, or why there was no answer, in words. */
export class ApiError extends Error {
  constructor(status, message, { code, param } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

/** What the browser rejects with where no answer comes, or only a part of one. */
function unanswered(error, message) {
  return error.name === "AbortError" ? error : new ApiError(0, message);
}

async function send(method, path, { body, type = "application/json", signature, signal } = {}) {
  const headers = { authorization: `Bearer ${session.token}` };
  if (body !== undefined) headers["content-type"] = type;
  if (signature) headers["x-gapura-signature"] = signature;
  let response;
  try {
    response = await fetch(new URL(path, BASE), {
      method, headers, body, signal, cache: "no-store", credentials: "omit", redirect: "error",
    });
  } catch (error) {
    throw unanswered(error, "the server does not answer");
  }
  if (response.ok) return response;
  const error = await response.json().then((body) => body.error, () => undefined);
  throw new ApiError(response.status, error?.message ?? `the server answered ${response.status}`, error ?? {});
}

function parsed(response) {
  return response.json().catch((error) => { throw unanswered(error, BROKE_OFF); });
}

/** The JSON that the server answers with. */
export async function request(method, path, json) {
  const body = json === undefined ? undefined : JSON.stringify(json);
  return parsed(await send(method, path, { body }));
}

/** Pushes a component, a Blob, with its signature if it has one. */
export async function upload(path, component, signature) {
  return parsed(await send("PUT", path, { body: component, type: "application/wasm", signature }));
}

/**
 * Server-sent events as they come: `{ event, data }`. EventSource would not send the token.
 * `opened` is called when the server has accepted.
 */
export async function* events(method, path, { json, signal, opened } = {}) {
  const body = json === undefined ? undefined : JSON.stringify(json);
  const response = await send(method, path, { body, signal });
  opened?.();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => { throw unanswered(error, BROKE_OFF); });
      if (done) return;
      text += value;
      const frames = text.split("\n\n");
      text = frames.pop();
      yield* frames.map(parse).filter((frame) => frame.data !== undefined);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(frame) {
  const parsed = { event: "message", data: undefined };
  for (const line of frame.split("\n")) {
    const [, field, value] = /^(event|data): ?(.*)$/.exec(line) ?? [];
    if (field === "event") parsed.event = value;
    if (field === "data") parsed.data = parsed.data === undefined ? value : `${parsed.data}\n${value}`;
  }
  return parsed;
}
