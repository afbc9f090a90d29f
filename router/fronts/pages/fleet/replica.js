// One replica, looked at closely: why it is out, its last check, its load since the page was opened, and what may be
// done about it.

import { ask } from "./api.js";
import { el, setText, shape } from "./dom.js";
import { facts, sentence } from "./drawer.js";
import { ago, clock, count, duration, percent, plural, short } from "./format.js";
import { Plot } from "./plot.js";

const SESSIONS = 10;

/** Things that may be done to a replica in a state: word, path, and what it means. */
const ACTIONS = {
  drain: {
    word: "Drain",
    say: (replica) =>
      `${replica.id} gets no further requests; ${plural(replica.in_flight, "request")} in flight may finish.`,
  },
  undrain: { word: "Undrain", say: (replica) => `${replica.id} gets requests again.` },
  reset: {
    word: "Reset",
    say: (replica) => `The ejection of ${replica.id} ends at once, and its answers are judged anew.`,
  },
};

/** Show a replica in the drawer; `wants` names an action that waits for a confirmation. */
export function showReplica(drawer, live, id, { mayOperate, wants = "" }) {
  let plots = null;
  const look = () => {
    if (plots) plots.draw(live.replicas.get(id));
  };
  const timer = setInterval(look, 1000);
  return drawer.show(
    "replica",
    id,
    async () => {
      const path = `/v1/replicas/${encodeURIComponent(id)}`;
      const [{ data: replica }, { data: sessions }] = await Promise.all([
        ask(path),
        ask(`/v1/sessions?replica=${encodeURIComponent(id)}&limit=${SESSIONS}`),
      ]);
      const again = (asked = "") => showReplica(drawer, live, id, { mayOperate, wants: asked });
      plots = new ReplicaPlots();
      look();
      return [
        headline(replica),
        replica.why ? el("p", { class: "why" }, replica.why) : null,
        replica.demotion
          ? el(
              "p",
              { class: "why" },
              `It gets ${percent(replica.demotion.share, 0)} of its usual requests: ${replica.demotion.cause}${replica.demotion.ratio > 1 ? `, ${replica.demotion.ratio} times the median` : ""}.`,
            )
          : null,
        mayOperate() ? actions(replica, path, wants, again) : null,
        plots.element,
        lastCheck(replica.last_check),
        el("section", {}, el("h3", {}, "Engine"), engineFacts(replica)),
        sessionsOf(sessions.sessions, replica.sessions),
        el("section", {}, el("h3", {}, "Registration"), registrationFacts(replica)),
      ];
    },
    () => clearInterval(timer),
  );
}

function headline(replica) {
  const since = replica.since ? ` since ${clock(replica.since)}, ${ago(replica.since, Date.now())}` : "";
  return el(
    "p",
    { class: "headline" },
    el("span", { class: `state ${replica.state}` }, shape(replica.state), ` ${replica.state}`),
    el("span", { class: "quiet" }, since),
  );
}

function possible(replica) {
  const found = [replica.state === "draining" ? "undrain" : "drain"];
  if (replica.state === "ejected" || replica.demotion) found.push("reset");
  return found;
}

function actions(replica, path, wants, again) {
  const place = el("div", { class: "act", role: "group", "aria-label": `Change ${replica.id}` });
  const offer = () =>
    place.replaceChildren(
      ...possible(replica).map((name) =>
        el("button", { type: "button", on: { click: () => confirm(name) } }, `${ACTIONS[name].word}…`),
      ),
    );
  const confirm = (name) => {
    const action = ACTIONS[name];
    const outcome = el("p", { class: "wrong", role: "alert" });
    const sure = el("button", { type: "button", class: "main" }, `${action.word} ${replica.id}`);
    sure.addEventListener("click", async () => {
      sure.disabled = true;
      try {
        await ask(`${path}/${name}`, { method: "POST" });
        again();
      } catch (error) {
        sure.disabled = false;
        setText(outcome, sentence(error));
      }
    });
    place.replaceChildren(
      el("p", {}, action.say(replica)),
      sure,
      el("button", { type: "button", on: { click: offer } }, "Leave it"),
      outcome,
    );
    sure.focus();
  };
  offer();
  if (possible(replica).includes(wants)) queueMicrotask(() => requestAnimationFrame(() => confirm(wants)));
  return place;
}

class ReplicaPlots {
  constructor() {
    this.load = new Plot("In flight", { unit: count, floor: 4 });
    this.kv = new Plot("KV live", { unit: (share) => percent(share, 0), floor: 1, ceiling: 1 });
    this.backlog = new Plot("Backlog", { unit: duration, floor: 100 });
    this.element = el("section", { class: "plots" }, this.load.element, this.kv.element, this.backlog.element);
  }

  draw(past) {
    if (!past) return;
    const one = (plot, values, text) =>
      plot.draw([{ name: "value", class: "series-0", values }], [["", "", text(values.at(-1))]]);
    one(this.load, past.in_flight, count);
    one(this.kv, past.kv_live, (share) => percent(share, 0));
    one(this.backlog, past.backlog_ms, duration);
  }
}

function lastCheck(check) {
  if (!check) return null;
  const good = check.status.endsWith("OK");
  return el(
    "section",
    {},
    el("h3", {}, "Last health check"),
    facts([
      ["Result", el("span", { class: good ? null : "wrong" }, `${good ? "✓" : "✕"} ${check.detail}`)],
      ["HAProxy says", el("code", {}, `${check.status}${check.code ? ` ${check.code}` : ""}`)],
      ["Took", duration(check.duration_ms)],
      ["Seen", clock(check.at)],
    ]),
  );
}

function engineFacts(replica) {
  const { engine, kv } = replica;
  return facts([
    ["In flight", `${count(replica.in_flight)}, ${count(replica.in_flight_tokens)} tokens`],
    ["In its batch", engine && `${count(engine.running)} running, ${count(engine.waiting)} waiting`],
    ["KV in use", engine && percent(engine.kv_usage)],
    [
      "Live KV",
      kv &&
        `${count(kv.footprint_tokens)}${kv.capacity_tokens ? ` of ${count(kv.capacity_tokens)} tokens` : " tokens"}`,
    ],
    ["Prefill backlog", kv && `${count(kv.backlog_tokens)} tokens, ${duration(kv.backlog_ms)}`],
    [
      "Hit rate",
      replica.hit_rate === undefined || replica.hit_rate === null
        ? ""
        : `${percent(replica.hit_rate)}, predicted ${percent(replica.hit_rate_predicted)}`,
    ],
    ["Prefix keys", replica.keys === undefined ? "" : count(replica.keys)],
    ["Adapters loaded", replica.adapters_loaded.join(", ")],
  ]);
}

function sessionsOf(sessions, number) {
  if (!sessions.length) return null;
  const rows = sessions.map((session) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, el("code", {}, short(session.key, 36))),
      el("td", {}, session.state),
      el("td", { class: "number" }, count(session.tokens)),
      el("td", { class: "number" }, count(session.turns)),
      el("td", { class: "number" }, duration(1000 * session.idle_s)),
    ),
  );
  const names = ["Session", "State", "Tokens", "Turns", "Idle"];
  const more = (number ?? 0) > sessions.length ? ` ${count(sessions.length)} of ${count(number)}` : "";
  return el(
    "section",
    {},
    el("h3", {}, "Sessions at home here", el("span", { class: "quiet" }, more)),
    el(
      "table",
      { class: "sessions" },
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          names.map((name) => el("th", { scope: "col" }, name)),
        ),
      ),
      el("tbody", {}, rows),
    ),
  );
}

function registrationFacts(replica) {
  return facts([
    ["URL", el("code", {}, replica.url)],
    ["Model", replica.model],
    ["Names", replica.names.filter((name) => name !== replica.model).join(", ")],
    ["Adapters", replica.adapters.join(", ")],
    ["Role", replica.role],
    ["Pool", replica.pool],
    [
      "Lease",
      replica.lease_left_s === null
        ? "permanent"
        : `${duration(1000 * replica.lease_left_s)} left of ${duration(1000 * replica.ttl_s)}`,
    ],
  ]);
}
