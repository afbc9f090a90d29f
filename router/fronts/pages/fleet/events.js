// Events of the edge: replicas that came, went or changed, edges, the policy, and who did what. Newest first.

import { follow } from "./api.js";
import { byId, el } from "./dom.js";
import { clock } from "./format.js";

const KEPT = 200;
const FIRST = 50;
const QUIET_MS = 40_000;

/** Between two sentences for a screen reader. */
const SAY_MS = 5000;

export class Events {
  constructor(live, { open }) {
    this.live = live;
    this.open = open;
    this.list = byId("events");
    this.stop = () => {};
    this.unsaid = [];
    this.saidAt = 0;
    this.list.addEventListener("click", (event) => {
      const id = event.target.closest("button")?.dataset.id;
      if (id) this.open(id);
    });
  }

  start() {
    this.stop();
    this.list.replaceChildren(el("li", { class: "nothing" }, el("p", {}, "Nothing changed yet.")));
    const began = Date.now();
    this.stop = follow(`/v1/events?follow=true&limit=${FIRST}`, {
      quietMs: QUIET_MS,
      resume: true,
      take: (kind, event) => {
        if (kind !== "missed") this.add(event, began);
      },
      onRefused: (error) => this.list.replaceChildren(el("li", { class: "nothing" }, el("p", {}, error.message))),
    });
  }

  add(event, began) {
    this.list.querySelector(".nothing")?.remove();
    this.list.prepend(row(event));
    while (this.list.children.length > KEPT) this.list.lastChild.remove();
    if (event.kind === "policy") this.live.marks.push({ at: Date.parse(event.at), text: event.text });
    if (Date.parse(event.at) > began && event.kind !== "audit") this.say(event.text);
  }

  /** Read out what changed, politely: at most once in a while, then all of it together. */
  say(text) {
    this.unsaid.push(text);
    if (this.unsaid.length > 1) return;
    const waitMs = Math.max(0, this.saidAt + SAY_MS - Date.now());
    setTimeout(() => {
      this.saidAt = Date.now();
      const many = this.unsaid.length > 3;
      byId("said").textContent = many
        ? `${this.unsaid.length} changes, the last: ${this.unsaid.at(-1)}`
        : this.unsaid.join(". ");
      this.unsaid = [];
    }, waitMs);
  }
}

function row(event) {
  const by = event.kind === "audit" && event.author ? el("span", { class: "quiet" }, ` by ${event.author}`) : null;
  const text = event.replica
    ? [
        el("button", { type: "button", class: "link", "data-id": event.replica }, event.replica),
        event.text.startsWith(event.replica) ? event.text.slice(event.replica.length) : ` ${event.text}`,
      ]
    : [event.text];
  const wrong = ["down", "ejected", "silent"].includes(event.state) || event.status >= 400;
  return el(
    "li",
    {},
    el("time", { datetime: event.at, class: "quiet" }, clock(event.at)),
    el("span", { class: `kind ${event.kind}` }, event.kind),
    el("span", { class: wrong ? "text wrong" : "text" }, text, by),
  );
}
