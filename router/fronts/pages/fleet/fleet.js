// Replicas: tiles, and above a number of them a map with the ones that need a look beside it.

import { byId, el, setAttribute, setText, shape, svg } from "./dom.js";
import { count, duration, percent } from "./format.js";
import { FleetMap } from "./map.js";

/** Above so many replicas, tiles would be a page of their own. */
const TILES_MAX = 60;

/** Tiles beside the map: what needs a look first. */
const LOOKS_MAX = 9;

/** Seconds in the small picture of a tile, at least and at most. */
const SPARK_MIN_S = 30;
const SPARK_MAX_S = 90;

/** States in the order in which somebody has to look. */
const STATES = ["down", "ejected", "draining", "starting", "up"];

/** Replicas sorted as people count: chat-2 before chat-10. */
const byName = new Intl.Collator("en", { numeric: true }).compare;

export class Fleet {
  constructor(live, { open, act, mayOperate }) {
    this.live = live;
    this.open = open;
    this.act = act;
    this.mayOperate = mayOperate;
    this.tiles = new Map();
    this.place = byId("fleet");
    this.shownAs = "";
    this.map = new FleetMap(byId("shade"), open);
    live.each((document) => this.draw(document));
  }

  draw(document) {
    const replicas = [...document.replicas].sort((one, other) => byName(one.id, other.id));
    this.drawCount(replicas);
    if (!replicas.length) this.show("empty", () => [nobody()]);
    else if (replicas.length > TILES_MAX) this.drawMap(replicas);
    else this.drawTiles(replicas);
  }

  /** Replace all that is shown, where it is of another kind. */
  show(kind, parts) {
    if (this.shownAs === kind) return;
    this.shownAs = kind;
    this.tiles.clear();
    byId("shade").hidden = kind !== "map";
    this.place.className = `body ${kind}`;
    this.place.replaceChildren(...parts());
  }

  drawCount(replicas) {
    const counts = new Map();
    for (const { state } of replicas) counts.set(state, (counts.get(state) || 0) + 1);
    const said = STATES.filter((state) => counts.has(state)).map((state) => `${count(counts.get(state))} ${state}`);
    const place = byId("fleet-count");
    const text = said.reverse().join(" · ");
    if (place.dataset.text === text) return;
    place.dataset.text = text;
    place.replaceChildren(
      ...STATES.filter((state) => counts.has(state))
        .reverse()
        .map((state) => el("span", { class: `state ${state}` }, shape(state), ` ${count(counts.get(state))} ${state}`)),
    );
  }

  drawTiles(replicas) {
    this.show("tiles", () => [(this.list = el("ul", { class: "grid", "aria-label": "Replicas" }))]);
    this.arrange(replicas);
  }

  drawMap(replicas) {
    this.show("map", () => [
      (this.list = el("ul", { class: "grid looks", "aria-label": "Replicas that need a look" })),
      (this.more = el("p", { class: "quiet more" })),
      this.map.element,
    ]);
    const wanting = replicas.filter((replica) => replica.state !== "up" || replica.why);
    wanting.sort((one, other) => STATES.indexOf(one.state) - STATES.indexOf(other.state));
    this.arrange(wanting.slice(0, LOOKS_MAX));
    const left = wanting.length - LOOKS_MAX;
    setText(
      this.more,
      !wanting.length ? "All get requests." : left > 0 ? `and ${count(left)} more that need a look` : "",
    );
    this.map.draw(replicas);
  }

  /** Show the tiles of these replicas in this order, each node kept as long as its replica is. */
  arrange(replicas) {
    const wanted = new Set(replicas.map((replica) => replica.id));
    for (const [id, tile] of this.tiles) {
      if (!wanted.has(id)) {
        tile.element.remove();
        this.tiles.delete(id);
      }
    }
    replicas.forEach((replica, at) => {
      let tile = this.tiles.get(replica.id);
      if (!tile) this.tiles.set(replica.id, (tile = new Tile(replica.id, this)));
      if (this.list.children[at] !== tile.element) this.list.insertBefore(tile.element, this.list.children[at] || null);
      tile.draw(replica, this.live.replicas.get(replica.id)?.in_flight || []);
    });
  }
}

function nobody() {
  return el(
    "div",
    { class: "nothing" },
    el("p", {}, "No replica is registered."),
    el("p", { class: "quiet" }, "Engines register by themselves. An endpoint that runs already is registered with"),
    el(
      "pre",
      {},
      `curl -X PUT ${location.origin}/v1/replicas/gpu-1 \\\n  -H 'content-type: application/json' \\\n  -d '{"url": "http://10.0.0.7:8000"}'`,
    ),
  );
}

class Tile {
  constructor(id, fleet) {
    this.id = id;
    this.fleet = fleet;
    this.state = el("span", { class: "state" });
    this.button = el("button", { type: "button", class: "open", on: { click: () => fleet.open(id) } }, id);
    this.model = el("span", { class: "quiet model" });
    this.line = svg("polyline", { points: "" });
    this.spark = svg(
      "svg",
      { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" },
      this.line,
    );
    this.load = el("p", { class: "load" });
    this.why = el("p", { class: "why" });
    this.bar = el(
      "div",
      { class: "bar", "aria-hidden": "true" },
      el("i", { class: "live" }),
      el("i", { class: "used" }),
    );
    this.kv = el("p", { class: "kv" });
    this.rest = el("p", { class: "rest" });
    this.action = el("button", {
      type: "button",
      class: "small act",
      hidden: true,
      on: { click: () => fleet.act(this.wants, id) },
    });
    this.wants = "";
    this.element = el(
      "li",
      { class: "tile" },
      el("div", { class: "head" }, this.button, this.model, this.state),
      el("div", { class: "middle" }, this.spark, this.load, this.why, this.action),
      this.bar,
      this.kv,
      this.rest,
    );
  }

  draw(replica, inFlight) {
    const { state } = replica;
    setAttribute(this.element, "class", `tile ${state}${replica.why ? " wanting" : ""}`);
    if (this.state.dataset.state !== state) {
      this.state.dataset.state = state;
      this.state.className = `state ${state}`;
      this.state.replaceChildren(shape(state), ` ${state}`);
    }
    const role = replica.role ? `${replica.role} ` : "";
    setText(this.model, `${role}${replica.model || ""}`);
    const why = whyOf(replica);
    setText(this.why, why);
    // Of a long reason the tile has the beginning.
    setAttribute(this.button, "title", why || null);
    const running = replica.running ?? replica.in_flight;
    const waiting = replica.waiting ? `, ${count(replica.waiting)} wait` : "";
    setText(this.load, `${count(running)} run${waiting}`);
    setAttribute(this.line, "points", sparkOf(inFlight.slice(-SPARK_MAX_S)));
    this.bar.style.setProperty("--used", String(replica.kv_used ?? 0));
    this.bar.style.setProperty("--live", String(replica.kv_live ?? 0));
    setText(this.kv, `KV ${percent(replica.kv_used, 0)} · live ${percent(replica.kv_live, 0)}`);
    setText(this.rest, `backlog ${duration(replica.backlog_ms)} · hit ${percent(replica.hit_share, 0)}`);
    this.wants = this.fleet.mayOperate() ? { draining: "undrain", ejected: "reset" }[state] || "" : "";
    this.action.hidden = !this.wants;
    setText(this.action, this.wants);
    setAttribute(this.action, "aria-label", this.wants ? `${this.wants} ${this.id}` : null);
  }
}

function whyOf(replica) {
  if (replica.state === "draining") {
    return replica.in_flight ? `${count(replica.in_flight)} left to finish` : "drained: nothing left";
  }
  return replica.why || "";
}

function sparkOf(values) {
  const most = Math.max(4, ...values);
  const step = 100 / (Math.max(SPARK_MIN_S, values.length) - 1);
  const left = 100 - step * (values.length - 1);
  return values
    .map((value, at) => `${(left + step * at).toFixed(1)},${(23 - (21 * value) / most).toFixed(1)}`)
    .join(" ");
}
