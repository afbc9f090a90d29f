// The admin API of this edge: single answers, and streams that come back by themselves.
//
// The token is sent in a header, so streams are read with fetch and not with EventSource, which cannot send one. It is
// kept in this tab alone.

const TOKEN = "pointsman.token";
const PAUSE_MIN_MS = 500;
const PAUSE_MAX_MS = 15_000;

/** A refusal of the router, as its problem document says it. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `the router answered ${status}`);
    this.status = status;
    this.title = problem.title || "";
    this.key = problem.key || "";
  }
}

export const access = {
  get token() {
    return sessionStorage.getItem(TOKEN) || "";
  },
  set token(value) {
    if (value) sessionStorage.setItem(TOKEN, value);
    else sessionStorage.removeItem(TOKEN);
  },
  /** Called when the router wants another token. */
  onWanted: () => {},
};

async function send(path, { method = "GET", body, headers = {}, signal, accept = "application/json", token } = {}) {
  const sent = { accept, ...headers };
  const shown = token ?? access.token;
  if (shown) sent.authorization = `Bearer ${shown}`;
  if (body !== undefined) sent["content-type"] = "application/json";
  const answer = await fetch(path, { method, headers: sent, body, signal, cache: "no-store", credentials: "omit" });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401 && token === undefined) access.onWanted();
  throw new Refused(answer.status, problem);
}

/** One answer: its document, null where it has none, and its ETag. Throws Refused, or TypeError where nobody answers. */
export async function ask(path, options) {
  const answer = await send(path, options);
  const text = await answer.text();
  return { data: text ? JSON.parse(text) : null, etag: answer.headers.get("etag") || "" };
}

/** An answer about something that there may not be: null without it. */
export async function askIfThere(path) {
  try {
    return (await ask(path)).data;
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  }
}

/**
 * Follow a stream of server-sent events until the function that is returned is called.
 *
 * take: called with kind, document and id of each event.
 * quietMs: a stream that is silent for longer is broken.
 * onBroken: called with the milliseconds until the next try. onRefused: called once, with what ended it for good.
 */
export function follow(path, { take, quietMs, onBroken = () => {}, onRefused = () => {}, resume = false }) {
  const over = new AbortController();
  let pauseMs = PAUSE_MIN_MS;
  let lastId = "";
  (async () => {
    while (!over.signal.aborted) {
      try {
        const headers = resume && lastId ? { "last-event-id": lastId } : {};
        await readEvents(path, headers, over.signal, quietMs, (kind, data, id) => {
          pauseMs = PAUSE_MIN_MS;
          if (id) lastId = id;
          take(kind, data, id);
        });
      } catch (error) {
        if (over.signal.aborted) return;
        if (error instanceof Refused && error.status !== 503) {
          onRefused(error);
          return;
        }
      }
      if (over.signal.aborted) return;
      const waitMs = pauseMs * (0.75 + Math.random() / 2);
      onBroken(waitMs);
      await new Promise((wake) => setTimeout(wake, waitMs));
      pauseMs = Math.min(2 * pauseMs, PAUSE_MAX_MS);
    }
  })();
  return () => over.abort();
}

async function readEvents(path, headers, signal, quietMs, take) {
  const silence = new AbortController();
  let watch = 0;
  const heard = () => {
    clearTimeout(watch);
    watch = setTimeout(() => silence.abort(), quietMs);
  };
  const either = AbortSignal.any([signal, silence.signal]);
  heard();
  try {
    const answer = await send(path, { headers, signal: either, accept: "text/event-stream" });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      text += value;
      let end = text.indexOf("\n\n");
      while (end >= 0) {
        takeEvent(text.slice(0, end), take);
        text = text.slice(end + 2);
        end = text.indexOf("\n\n");
      }
    }
  } finally {
    clearTimeout(watch);
  }
}

function takeEvent(block, take) {
  let kind = "message";
  let id = "";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) kind = line.slice(7);
    else if (line.startsWith("id: ")) id = line.slice(4);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  if (data) take(kind, JSON.parse(data), id);
}
