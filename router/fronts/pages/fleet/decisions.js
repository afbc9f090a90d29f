// The stream of decisions: what was decided, where it went, what came of it; with a filter and a pause.
//
// Decisions come one by one while that can be read, and as the newest ones once a second where an edge decides faster:
// the page costs a busy edge no more than a quiet one. The list stands still while somebody points at it, walks through
// it or pauses it.

import { ask, follow, Refused } from "./api.js";
import { byId, el, setText } from "./dom.js";
import { clock, count, duration, rate, short } from "./format.js";
import { kindOf } from "./reasons.js";

/** Rows kept; a screen shows some thirty. */
const ROWS_MAX = 100;

/** Decisions asked for at once. */
const NEWEST = 60;

/** Decisions per second above which they are no longer followed one by one, and below which they are again. */
const FOLLOW_MAX = 60;
const FOLLOW_AGAIN = 40;

const EVERY_MS = 1000;

/** Between two drawings of the list: each lays out and paints all its rows, which costs more than all else here. */
const DRAW_MS = 400;

const QUIET_MS = 40_000;

/** Filters that the router knows. */
const FILTERS = ["model", "replica", "reason", "status", "session", "tenant", "policy", "client_id"];

export class Decisions {
  constructor(live, { open }) {
    this.live = live;
    this.open = open;
    this.list = byId("decisions");
    this.note = byId("decisions-note");
    this.pauseButton = byId("pause");
    this.field = byId("filter");
    this.known = new Map();
    this.rows = new Map();
    this.selected = "";
    this.paused = false;
    this.pointed = false;
    this.query = new URLSearchParams();
    this.words = [];
    this.problem = "";
    this.follows = true;
    this.drawing = 0;
    this.drawnAt = -DRAW_MS;
    this.stop = () => {};
    this.listen();
    live.each((document) => this.pace(document.requests_per_s));
  }

  listen() {
    byId("filters").append(...FILTERS.map((name) => el("option", { value: `${name}:` })));
    this.pauseButton.addEventListener("click", () => this.pause(!this.paused));
    let typing = 0;
    this.field.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.filter(this.field.value), 250);
    });
    this.list.addEventListener("pointerenter", () => (this.pointed = true));
    this.list.addEventListener("pointerleave", () => {
      this.pointed = false;
      this.draw();
    });
    this.list.addEventListener("click", (event) => {
      const id = event.target.closest("button")?.dataset.id;
      if (id) this.open(id);
    });
    this.list.addEventListener("focusin", (event) => {
      const id = event.target.closest("button")?.dataset.id;
      if (id) this.select(id);
    });
  }

  /** Begin to show; called again with another token. */
  start() {
    this.started = true;
    this.stop();
    const over = new AbortController();
    let stopFollowing = () => {};
    let timer = 0;
    const look = async (path) => {
      try {
        const { data } = await ask(path, { signal: over.signal });
        this.problem = "";
        this.merge(data.decisions);
      } catch (error) {
        if (over.signal.aborted) return;
        this.refused(error);
      }
    };
    const query = new URLSearchParams(this.query);
    query.set("limit", String(NEWEST));
    const newest = `/v1/decisions?${query}`;
    if (this.follows) {
      look(newest);
      query.delete("limit");
      query.set("follow", "true");
      stopFollowing = follow(`/v1/decisions?${query}`, {
        quietMs: QUIET_MS,
        take: (kind, document) => kind === "decision" && this.merge([document]),
        onRefused: (error) => this.refused(error),
      });
    } else {
      const again = async () => {
        await look(`${newest}&ended=true`);
        if (!over.signal.aborted) timer = setTimeout(again, EVERY_MS);
      };
      again();
    }
    this.stop = () => {
      over.abort();
      stopFollowing();
      clearTimeout(timer);
    };
  }

  refused(error) {
    if (error instanceof Refused && error.status !== 401) {
      this.problem = error.message;
      this.draw();
    }
  }

  pace(perSecond) {
    this.perSecond = perSecond;
    const follows = perSecond === undefined || perSecond <= (this.follows ? FOLLOW_MAX : FOLLOW_AGAIN);
    if (follows !== this.follows) {
      this.follows = follows;
      if (this.started) this.start();
    }
    this.drawNote();
  }

  filter(text) {
    this.query = new URLSearchParams();
    this.words = [];
    for (const word of text.trim().split(/\s+/).filter(Boolean)) {
      const [name, ...value] = word.split(":");
      if (value.length && value.join(":") && FILTERS.includes(name)) this.query.set(name, value.join(":"));
      else this.words.push(word.toLowerCase());
    }
    this.known.clear();
    this.selected = "";
    this.problem = "";
    this.draw(true);
    this.start();
  }

  merge(decisions) {
    for (const decision of decisions) this.known.set(decision.id, { ...this.known.get(decision.id), ...decision });
    if (this.known.size > 3 * ROWS_MAX) {
      const newest = [...this.known.values()].sort(byTime).slice(0, 2 * ROWS_MAX);
      this.known = new Map(newest.map((decision) => [decision.id, decision]));
    }
    if (this.drawing) return;
    const waitMs = Math.max(0, this.drawnAt + DRAW_MS - performance.now());
    this.drawing = setTimeout(() => requestAnimationFrame(() => this.draw()), waitMs);
  }

  get stands() {
    return this.paused || this.pointed || this.selected !== "";
  }

  pause(paused) {
    this.paused = paused;
    this.pauseButton.setAttribute("aria-pressed", String(paused));
    setText(this.pauseButton, paused ? "Go on" : "Pause");
    this.draw();
  }

  /** Go to the row so many places from here; the first one where none is selected. */
  step(by) {
    const rows = [...this.list.querySelectorAll("button")];
    if (!rows.length) return "";
    const at = rows.findIndex((row) => row.dataset.id === this.selected);
    const next = rows[at < 0 ? 0 : Math.max(0, Math.min(rows.length - 1, at + by))];
    this.select(next.dataset.id);
    if (!byId("drawer").open) next.focus();
    next.scrollIntoView({ block: "nearest" });
    return this.selected;
  }

  select(id) {
    if (this.selected === id) return;
    this.selected = id;
    for (const [rowId, row] of this.rows) row.mark(rowId === id);
    this.drawNote();
  }

  /** Let the list go on; false where it did already. */
  release() {
    if (!this.selected) return false;
    this.rows.get(this.selected)?.button.blur();
    this.select("");
    this.draw();
    return true;
  }

  fits(decision) {
    if (!this.words.length) return true;
    const text = [
      decision.id,
      decision.client_id,
      decision.reason,
      decision.model,
      decision.session,
      decision.tenant,
      decision.first,
      decision.outcome?.replica,
      decision.outcome?.status,
      decision.path,
    ]
      .join(" ")
      .toLowerCase();
    return this.words.every((word) => text.includes(word));
  }

  draw(always = false) {
    this.drawing = 0;
    this.drawnAt = performance.now();
    const decisions = [...this.known.values()].filter((decision) => this.fits(decision)).sort(byTime);
    const shown = decisions.slice(0, ROWS_MAX);
    if (!this.stands || always || !this.rows.size) {
      const wanted = new Set(shown.map((decision) => decision.id));
      for (const [id, row] of this.rows) {
        if (!wanted.has(id)) {
          row.element.remove();
          this.rows.delete(id);
        }
      }
      shown.forEach((decision, at) => {
        let row = this.rows.get(decision.id);
        if (!row) this.rows.set(decision.id, (row = new Row(decision)));
        if (this.list.children[at] !== row.element) this.list.insertBefore(row.element, this.list.children[at] || null);
      });
      this.empty(shown.length === 0);
    }
    for (const [id, row] of this.rows) if (this.known.has(id)) row.draw(this.known.get(id));
    this.waiting = shown.filter((decision) => !this.rows.has(decision.id)).length;
    this.drawNote();
  }

  empty(nothing) {
    this.list.querySelector(".nothing")?.remove();
    if (!nothing) return;
    const filtered = this.query.size || this.words.length;
    const text =
      this.problem ||
      (filtered
        ? "No decision fits the filter."
        : "No decision yet. Requests that this edge routes are listed here as they end.");
    this.list.append(el("li", { class: "nothing" }, el("p", {}, text)));
  }

  drawNote() {
    const parts = [];
    if (this.problem) parts.push(this.problem);
    else if (this.stands && this.waiting)
      parts.push(`${this.waiting >= ROWS_MAX ? `over ${ROWS_MAX}` : count(this.waiting)} newer`);
    else if (!this.follows) parts.push(`newest of ${rate(this.perSecond)}/s`);
    setText(this.note, parts.join(" · "));
    this.note.classList.toggle("wrong", this.problem !== "");
  }
}

const byTime = (one, other) => (one.at < other.at ? 1 : one.at > other.at ? -1 : one.id < other.id ? 1 : -1);

class Row {
  constructor(decision) {
    this.cells = Array.from({ length: 7 }, () => el("span", {}));
    this.button = el("button", { type: "button", "data-id": decision.id }, this.cells);
    this.element = el("li", {}, this.button);
    this.drawn = null;
  }

  mark(selected) {
    this.button.classList.toggle("selected", selected);
  }

  draw(decision) {
    if (this.drawn === decision) return;
    this.drawn = decision;
    const outcome = decision.outcome || {};
    const [time, reason, replica, session, tokens, first, status] = this.cells;
    setText(time, clock(decision.at, true));
    reason.className = `reason ${kindOf(decision.reason)}`;
    setText(reason, decision.reason);
    const served = outcome.replica || decision.first || "";
    setText(replica, short(served, 16) || "nobody");
    setText(session, decision.session || "");
    setText(tokens, tokensOf(decision));
    setText(first, outcome.ttft_ms === undefined ? "" : duration(outcome.ttft_ms));
    const [word, wrong] = statusOf(decision);
    setText(status, word);
    status.className = wrong ? "wrong" : "quiet";
    const moved = outcome.replica && decision.first && outcome.replica !== decision.first;
    replica.classList.toggle("moved", Boolean(moved));
    this.button.title = moved ? `chosen: ${decision.first}, served by ${outcome.replica}` : decision.id;
  }
}

function tokensOf(decision) {
  const outcome = decision.outcome || {};
  const prompt = outcome.prompt_tokens ?? decision.prompt_tokens;
  const cached = outcome.actual_cached ?? decision.resident_tokens;
  if (prompt === undefined) return "";
  return cached === undefined ? `– / ${count(prompt)}` : `${count(cached)} / ${count(prompt)}`;
}

/** The status of a decision in a word, and whether it is one that somebody has to look at. */
export function statusOf(decision) {
  const outcome = decision.outcome;
  if (decision.status) return [`✕ ${decision.status}`, true];
  if (!outcome || outcome.ended === undefined) return ["…", false];
  if (["replica", "edge"].includes(outcome.ended)) return [`✕ cut`, true];
  if (outcome.ended === "client") return ["left", false];
  const wrong = outcome.status === undefined || outcome.status >= 400;
  return [wrong ? `✕ ${outcome.status ?? "cut"}` : String(outcome.status), wrong];
}
