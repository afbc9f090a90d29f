// A change of the router: one button, one order, and its refusal in words.

import { Refused } from "./api.js";
import { el, setText } from "./dom.js";
import { sentence } from "./drawer.js";

/** Do one thing that changes the router; a refusal is shown in its words. */
export async function change(outcome, button, act, then) {
  button.disabled = true;
  try {
    await act();
    then();
  } catch (error) {
    button.disabled = false;
    const changed = error instanceof Refused && error.status === 412;
    outcome.replaceChildren(
      el(
        "p",
        { class: "wrong" },
        changed ? `Somebody changed the policy meanwhile, and nothing was put: ${error.message}` : sentence(error),
      ),
    );
  }
}

/** A button whose second press does it: `first` offers, `second` says what will happen. */
export function sureButton(first, second, act) {
  const button = el("button", { type: "button", class: "small" }, first);
  button.addEventListener("click", () => {
    if (button.dataset.sure === "yes") {
      act(button);
      return;
    }
    button.dataset.sure = "yes";
    setText(button, second);
  });
  return button;
}
