// Policy documents beside each other: the fields that two of them differ in.

import { el } from "./dom.js";

function flat(value, path, into) {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    for (const [name, inner] of Object.entries(value)) flat(inner, path ? `${path}.${name}` : name, into);
  } else into.set(path, JSON.stringify(value));
  return into;
}

/** The fields that two documents differ in. */
export function differences(before, after) {
  const old = flat(before, "", new Map());
  const changed = flat(after, "", new Map());
  const another = before.policy !== after.policy;
  // Another policy has other fields altogether: that is one difference, not twenty.
  const rows = [...new Set([...old.keys(), ...changed.keys()])].filter(
    (name) => old.get(name) !== changed.get(name) && !(another && !(old.has(name) && changed.has(name))),
  );
  if (!rows.length) return el("p", { class: "quiet" }, "Nothing: the documents are equal.");
  return el(
    "table",
    { class: "diff" },
    el(
      "tbody",
      {},
      rows.map((name) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, name),
          el("td", { class: "old" }, old.get(name) ?? "absent"),
          el("td", { class: "new" }, changed.get(name) ?? "absent"),
        ),
      ),
    ),
  );
}
