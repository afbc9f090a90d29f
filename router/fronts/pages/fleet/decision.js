// One decision, looked at closely: candidates with their terms, what was predicted beside what came, what would have
// changed it.

import { ask } from "./api.js";
import { candidatesTable, excludedList } from "./candidates.js";
import { statusOf } from "./decisions.js";
import { el } from "./dom.js";
import { facts } from "./drawer.js";
import { clock, count, duration } from "./format.js";
import { kindOf } from "./reasons.js";

/** Show a decision in the drawer. */
export function showDecision(drawer, id) {
  return drawer.show("decision", ["Decision ", el("code", {}, id)], async () => {
    const { data } = await ask(`/v1/decisions/${encodeURIComponent(id)}`);
    return decisionParts(data);
  });
}

function decisionParts(decision) {
  const outcome = decision.outcome || {};
  const ms = decision.policy?.name === "kv_cost";
  return [
    el(
      "p",
      { class: "headline" },
      el("span", { class: `reason ${kindOf(decision.reason)}` }, decision.reason),
      decision.first
        ? el("b", {}, ` → ${decision.first}`)
        : el("b", { class: "wrong" }, decision.status ? ` refused with ${decision.status}` : " nobody chosen"),
      decision.prefill ? el("span", { class: "quiet" }, ` prompt computed by ${decision.prefill}`) : null,
    ),
    decision.would_change ? el("p", { class: "would-change" }, decision.would_change) : null,
    decision.shadow ? shadowLine(decision) : null,
    cameOf(decision, outcome),
    decision.candidates
      ? el(
          "section",
          {},
          el("h3", {}, "Candidates"),
          candidatesTable(decision.candidates, {
            chosen: decision.first,
            served: outcome.replica,
            total: decision.candidates_total ?? decision.candidates.length,
            ms,
          }),
        )
      : null,
    excludedList(decision.excluded),
    el("section", {}, el("h3", {}, "Request"), requestFacts(decision)),
  ];
}

/** The choice of the policy that decides beside the live one. */
function shadowLine({ first, shadow }) {
  const { ttft_ms: its, made_ttft_ms: made } = shadow;
  const times =
    its === undefined || made === undefined
      ? ""
      : `; first token predicted after ${duration(its)}, not ${duration(made)}`;
  const choice = shadow.first === first ? "the same choice" : el("b", {}, `→ ${shadow.first}`);
  return el(
    "p",
    { class: "quiet" },
    `In the shadow, ${shadow.policy}: `,
    choice,
    ` (${shadow.reason})${shadow.first === first ? "" : times}.`,
  );
}

/** Predicted beside what came, in two columns. */
function cameOf(decision, outcome) {
  const terms = decision.candidates?.find((row) => row.replica === decision.first)?.terms;
  const ahead = terms && "queue" in terms ? `queue ${duration(terms.queue)} + miss ${duration(terms.miss)}` : "";
  const [status, wrong] = statusOf(decision);
  const prompt = outcome.prompt_tokens ?? decision.prompt_tokens;
  const rows = [
    ["Replica", decision.first || "", outcome.replica || ""],
    ["Prompt tokens", count(decision.prompt_tokens), count(outcome.prompt_tokens)],
    [
      "Cached tokens",
      shareOf(decision.resident_tokens, decision.prompt_tokens),
      shareOf(outcome.actual_cached, prompt),
    ],
    ["Time to first token", ahead, duration(outcome.ttft_ms)],
    [
      "Duration",
      "",
      outcome.duration_ms === undefined
        ? ""
        : `${duration(outcome.duration_ms)}${outcome.output_tokens === undefined ? "" : `, ${count(outcome.output_tokens)} tokens out`}`,
    ],
    [
      "End",
      "",
      el(
        "span",
        { class: wrong ? "wrong" : null },
        outcome.ended === undefined ? "in flight" : `${status} · ${outcome.ended}`,
      ),
    ],
  ];
  return el(
    "table",
    { class: "compare" },
    el("colgroup", {}, el("col", { class: "names" }), el("col", {}), el("col", {})),
    el(
      "thead",
      {},
      el("tr", {}, el("td", {}), el("th", { scope: "col" }, "predicted"), el("th", { scope: "col" }, "came")),
    ),
    el(
      "tbody",
      {},
      rows.map(([name, predicted, came]) =>
        el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, predicted), el("td", {}, came)),
      ),
    ),
  );
}

function shareOf(part, whole) {
  if (part === undefined) return "–";
  return whole ? `${count(part)} · ${((100 * part) / whole).toFixed(1)}\u202f%` : count(part);
}

function requestFacts(decision) {
  const policy = decision.policy;
  return facts([
    ["Client's id", decision.client_id && el("code", {}, decision.client_id)],
    ["Decided", `${clock(decision.at, true)}${decision.edge ? ` by ${decision.edge}` : ""}`],
    ["Path", decision.path],
    ["Model", decision.model],
    ["Session", decision.session],
    ["Tenant", decision.tenant],
    ["Policy", policy && `${policy.name}${policy.revision ? ` r${policy.revision}` : ""}`],
    ["Second choice", decision.second],
    ["Pairing", decision.pairing],
    ["Held", decision.held_ms === undefined ? "" : duration(decision.held_ms)],
    ["Sent again", decision.outcome?.retries],
  ]);
}
