// The drawer at the right: one thing at a time, looked at closely. Esc closes it, and focus goes back to where it was.

import { Refused } from "./api.js";
import { byId, el } from "./dom.js";

export class Drawer {
  constructor() {
    this.dialog = byId("drawer");
    this.title = byId("drawer-title");
    this.body = byId("drawer-body");
    this.shown = 0;
    this.kind = "";
    this.ended = () => {};
    byId("close-drawer").addEventListener("click", () => this.close());
    this.dialog.addEventListener("close", () => {
      this.leave();
      this.body.replaceChildren();
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.close();
    });
  }

  get open() {
    return this.dialog.open;
  }

  /**
   * Show something.
   *
   * title: what it is of, a text or nodes. kind: what it is, for whoever wants to know what is open. fill: returns the nodes, at once or later; one that fails
   * is shown as the sentence that it failed with. ended: called when the drawer shows something else.
   */
  async show(kind, title, fill, ended = () => {}) {
    this.leave();
    const turn = ++this.shown;
    this.kind = kind;
    this.ended = ended;
    this.title.replaceChildren(...[title].flat());
    this.body.className = kind;
    if (!this.dialog.open) {
      this.body.replaceChildren();
      this.dialog.showModal();
    }
    try {
      const nodes = await fill();
      if (turn === this.shown) this.body.replaceChildren(...nodes.filter(Boolean));
    } catch (error) {
      if (turn === this.shown) this.body.replaceChildren(failure(error));
    }
    if (turn === this.shown) this.dialog.scrollTop = 0;
  }

  close() {
    this.dialog.close();
  }

  leave() {
    this.shown += 1;
    this.kind = "";
    this.ended();
    this.ended = () => {};
  }
}

/** An error as a sentence: the router's own where it refused. */
function failure(error) {
  return el("p", { class: "wrong", role: "alert" }, sentence(error));
}

export function sentence(error) {
  if (error instanceof Refused) return error.message;
  return error instanceof TypeError ? "This edge does not answer." : String(error);
}

/** A list of names and values; values that are not known are left out. */
export function facts(pairs) {
  return el(
    "dl",
    { class: "facts" },
    pairs
      .filter(([, value]) => value !== undefined && value !== null && value !== "")
      .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
}
