// The keyboard, and the dialogs of help and token.

import { access, ask, Refused } from "./api.js";
import { byId, setText } from "./dom.js";
import { sentence } from "./drawer.js";

const TYPES = "input, textarea, select";

/** Bind the keys. `on` has an action by key; those of an open drawer are `j`, `k` and Escape alone. */
export function bindKeys({ on, drawer, decisions }) {
  byId("open-help").addEventListener("click", () => byId("help").showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches?.(TYPES);
    if (event.key === "Escape") {
      if (typing && !event.target.closest("dialog")) {
        event.target.value = "";
        event.target.dispatchEvent(new Event("input"));
        event.target.blur();
      } else if (!drawer.open) decisions.release();
      return;
    }
    if (typing || byId("token").open || byId("help").open) return;
    if (drawer.open && !(drawer.kind === "decision" && "jk".includes(event.key))) return;
    // Space and Enter press the button that has the focus.
    if ([" ", "Enter"].includes(event.key) && event.target.matches?.("button, a, summary")) return;
    const act = on[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

/** Ask for a token until the router takes one; then `started` is called. */
export function bindToken({ started, forgotten }) {
  const dialog = byId("token");
  const field = byId("token-field");
  const wrong = byId("token-wrong");
  const show = () => {
    byId("forget-token").hidden = !access.token;
    if (!dialog.open) dialog.showModal();
  };
  byId("open-token").addEventListener("click", show);
  byId("forget-token").addEventListener("click", () => {
    access.token = "";
    field.value = "";
    forgotten();
    show();
  });
  byId("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const token = field.value.trim();
    try {
      const { data } = await ask("/v1/whoami", { token });
      access.token = token;
      field.value = "";
      setText(wrong, "");
      dialog.close();
      started(data);
    } catch (error) {
      setText(
        wrong,
        error instanceof Refused && error.status === 401 ? "The router does not know this token." : sentence(error),
      );
      field.select();
    }
  });
  return show;
}
