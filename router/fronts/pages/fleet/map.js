// A map of a large fleet: a cell for each replica, shaded by one figure, shaped by its state.

import { el, setAttribute, setText, shape } from "./dom.js";
import { count, duration, percent } from "./format.js";

const STEPS = 8;

/** Square pixels that a map fills: about what a screen has for it. A larger fleet has smaller cells. */
const AREA = 360_000;

/** Width of a cell in pixels, with which it can still be pointed at, and above which it is no map; and of a gap. */
const CELL_MIN = 10;
const CELL_MAX = 30;
const GAP = 2;

/** Figures a map can be shaded by: value of a replica, the least that is drawn darkest, and how it is written. */
const SHADES = [
  { name: "in flight", of: (replica) => replica.in_flight, floor: 8, text: count },
  {
    name: "KV live",
    of: (replica) => replica.kv_live ?? replica.kv_used ?? 0,
    floor: 1,
    text: (share) => percent(share, 0),
  },
  { name: "backlog", of: (replica) => replica.backlog_ms, floor: 500, text: duration },
  {
    name: "misses",
    of: (replica) => (replica.hit_share === undefined ? 0 : 1 - replica.hit_share),
    floor: 1,
    text: (share) => percent(share, 0),
  },
];

export class FleetMap {
  constructor(choice, open) {
    this.open = open;
    this.shade = SHADES[0];
    this.cells = new Map();
    this.replicas = [];
    this.grid = el("ul", {
      class: "cells",
      "aria-label": "Map of all replicas",
      on: {
        click: (event) => this.onCell(event, (id) => open(id)),
        pointerover: (event) => this.onCell(event, (id) => this.tell(id)),
        focusin: (event) => this.onCell(event, (id) => this.tell(id)),
        keydown: (event) => this.move(event),
      },
    });
    this.told = el("p", { class: "told", "aria-live": "off" }, "Point at a cell, or go there with the arrow keys.");
    this.least = el("span", {});
    this.most = el("span", {});
    const steps = Array.from({ length: STEPS }, (_, step) => el("i", { class: `shade-${step}` }));
    this.element = el(
      "div",
      { class: "fleet-map" },
      this.grid,
      el(
        "div",
        { class: "under" },
        this.told,
        el("p", { class: "scale", "aria-hidden": "true" }, this.least, steps, this.most),
      ),
    );
    this.offer(choice);
  }

  offer(choice) {
    for (const shade of SHADES) {
      const radio = el("input", {
        type: "radio",
        name: "shade",
        checked: shade === this.shade,
        on: { change: () => this.choose(shade) },
      });
      choice.append(el("label", {}, radio, el("span", {}, shade.name)));
    }
  }

  choose(shade) {
    this.shade = shade;
    this.draw(this.replicas);
  }

  draw(replicas) {
    this.replicas = replicas;
    const { of, floor, text } = this.shade;
    const most = Math.max(floor, ...replicas.map(of));
    const wanted = new Set(replicas.map((replica) => replica.id));
    for (const [id, cell] of this.cells) {
      if (!wanted.has(id)) {
        cell.element.remove();
        this.cells.delete(id);
      }
    }
    replicas.forEach((replica, at) => {
      let cell = this.cells.get(replica.id);
      if (!cell) this.cells.set(replica.id, (cell = new Cell(replica.id, this.cells.size === 0)));
      if (this.grid.children[at] !== cell.element) this.grid.insertBefore(cell.element, this.grid.children[at] || null);
      cell.draw(replica, Math.min(STEPS - 1, Math.floor((STEPS * of(replica)) / most)));
    });
    this.grid.style.setProperty("--cell", `${cellOf(replicas.length)}px`);
    setText(this.least, text(0));
    setText(this.most, text(most));
    if (this.toldOf) this.tell(this.toldOf);
  }

  onCell(event, then) {
    const id = event.target.closest("button")?.dataset.id;
    if (id) then(id);
  }

  tell(id) {
    const replica = this.replicas.find((one) => one.id === id);
    this.toldOf = replica ? id : "";
    if (replica) setText(this.told, sentenceOf(replica));
  }

  move(event) {
    const cells = [...this.grid.querySelectorAll("button")];
    const at = cells.indexOf(document.activeElement);
    if (at < 0) return;
    const width = Math.max(1, Math.round(this.grid.clientWidth / cells[0].parentElement.getBoundingClientRect().width));
    const to = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      ArrowDown: at + width,
      ArrowUp: at - width,
      Home: 0,
      End: cells.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = cells[Math.max(0, Math.min(cells.length - 1, to))];
    cells[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

class Cell {
  constructor(id, first) {
    this.button = el("button", { type: "button", tabindex: first ? 0 : -1, "data-id": id });
    this.element = el("li", {}, this.button);
    this.state = "up";
  }

  draw(replica, step) {
    const kind = replica.state === "up" ? `shade-${step}` : `out ${replica.state}`;
    if (this.button.className !== kind) this.button.className = kind;
    if (this.state !== replica.state) {
      this.state = replica.state;
      this.button.replaceChildren(...(replica.state === "up" ? [] : [shape(replica.state)]));
    }
    const label = replica.state === "up" ? replica.id : `${replica.id}, ${replica.state}`;
    setAttribute(this.button, "aria-label", label);
  }
}

function cellOf(replicas) {
  const fits = Math.floor(Math.sqrt(AREA / Math.max(1, replicas))) - GAP;
  return Math.max(CELL_MIN, Math.min(CELL_MAX, fits));
}

function sentenceOf(replica) {
  const parts = [
    replica.id,
    replica.state,
    `${count(replica.in_flight)} in flight`,
    `KV ${percent(replica.kv_used, 0)}, live ${percent(replica.kv_live, 0)}`,
    `backlog ${duration(replica.backlog_ms)}`,
    `hit ${percent(replica.hit_share, 0)}`,
  ];
  return parts.join(" · ") + (replica.why ? ` · ${replica.why}` : "");
}
