// Candidates of a decision: one bar of stacked terms for each, the chosen one marked.

import { el, svg } from "./dom.js";
import { count, duration } from "./format.js";

/** Rows shown before somebody asks for all. */
const ROWS = 8;

/** Terms that have a colour of their own; all others share the last ones. */
const TERMS = { queue: 0, miss: 1, evict: 2, interference: 3, tie: 4 };

const slotOf = (name, at) => TERMS[name] ?? 5 + (at % 2);

/**
 * A table of candidates.
 *
 * rows: {replica, score, terms, resident_tokens, in_flight, is_home}. chosen: id of the first choice. ms: whether scores
 * are milliseconds.
 */
export function candidatesTable(rows, { chosen, served = "", total = rows.length, ms = true }) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.terms || {})))];
  const most = Math.max(
    1e-9,
    ...rows.map((row) => Object.values(row.terms || {}).reduce((sum, term) => sum + Math.max(0, term), 0)),
  );
  const written = ms ? duration : (value) => (Number.isInteger(value) ? String(value) : value.toFixed(2));
  const body = el("tbody", {});
  const draw = (shown) =>
    body.replaceChildren(...rows.slice(0, shown).map((row) => candidateRow(row, names, most, written, chosen, served)));
  draw(ROWS);
  const hidden = rows.length - ROWS;
  const more =
    hidden > 0
      ? el(
          "button",
          { type: "button", class: "small", on: { click: (event) => (draw(rows.length), event.target.remove()) } },
          `show ${hidden} more`,
        )
      : null;
  const parts = names.length ? legend(names) : el("p", { class: "quiet" }, "This policy's score has no terms.");
  const rest =
    total > rows.length
      ? el(
          "p",
          { class: "quiet" },
          `${count(total)} replicas were considered; those are shown that say most about the choice.`,
        )
      : null;
  return el(
    "div",
    { class: "candidates" },
    parts,
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          ["Replica", ms ? "Cost" : "Score", "", "Cached", "In flight"].map((name) => el("th", { scope: "col" }, name)),
        ),
      ),
      body,
    ),
    more,
    rest,
  );
}

function legend(names) {
  return el(
    "ul",
    { class: "legend" },
    names.map((name, at) => el("li", {}, el("i", { class: `term-${slotOf(name, at)}` }), name)),
  );
}

function candidateRow(row, names, most, written, chosen, served) {
  const marks = [];
  if (row.replica === chosen) marks.push(el("span", { class: "mark" }, "chosen"));
  if (served && row.replica === served && served !== chosen) marks.push(el("span", { class: "mark" }, "served"));
  if (row.is_home || row.pinned) marks.push(el("span", { class: "mark soft" }, "home"));
  return el(
    "tr",
    { class: row.replica === chosen ? "chosen" : null },
    el("th", { scope: "row" }, el("span", { class: "id" }, row.replica), marks),
    el("td", { class: "number" }, row.score === undefined || row.score === null ? "" : written(row.score)),
    el("td", { class: "terms" }, bar(row.terms || {}, names, most, written)),
    el("td", { class: "number" }, row.resident_tokens === undefined ? "" : count(row.resident_tokens)),
    el("td", { class: "number" }, count(row.in_flight)),
  );
}

/** One bar, as long as its terms are together; what it says is read out as words. */
function bar(terms, names, most, written) {
  const words = names.filter((name) => terms[name]).map((name) => `${name} ${written(terms[name])}`);
  const picture = svg("svg", { class: "stack", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img" });
  picture.append(svg("title", {}, words.join(", ") || "nothing"));
  let left = 0;
  names.forEach((name, at) => {
    const width = (100 * Math.max(0, terms[name] || 0)) / most;
    if (width > 0)
      picture.append(
        svg("rect", {
          x: left.toFixed(2),
          y: 0,
          width: width.toFixed(2),
          height: 10,
          class: `term-${slotOf(name, at)}`,
        }),
      );
    left += width;
  });
  return picture;
}

/** The replicas that could not be chosen, by cause. */
export function excludedList(excluded) {
  const causes = new Map();
  for (const [replica, cause] of Object.entries(excluded || {}))
    causes.set(cause, [...(causes.get(cause) || []), replica]);
  if (!causes.size) return null;
  return el(
    "section",
    {},
    el("h3", {}, "Could not be chosen"),
    el(
      "ul",
      { class: "plain" },
      [...causes].map(([cause, ids]) =>
        el(
          "li",
          {},
          el("b", {}, cause),
          ` ${ids.slice(0, 12).join(", ")}${ids.length > 12 ? ` and ${ids.length - 12} more` : ""}`,
        ),
      ),
    ),
  );
}
