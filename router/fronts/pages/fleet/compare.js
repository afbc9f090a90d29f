// Two policies on the same requests: how many would go elsewhere, what that is predicted to cost or to save, and where.

import { el, svg } from "./dom.js";
import { count, duration, percent, plural } from "./format.js";
import { kindOf } from "./reasons.js";

const MOVES = 8;

/** Parts that show a comparison; `other` is what the compared policy is called. */
export function comparison(result, other) {
  if (!result.judged) return [el("p", { class: "quiet" }, "No decision to compare yet.")];
  const ties = result.tied ? `, ${plural(result.tied, "of them a tie", "of them ties")}` : "";
  return [
    el(
      "p",
      {},
      el("b", {}, percent(result.moved_share)),
      ` of ${plural(result.judged, "decision")} would go elsewhere${ties}.`,
    ),
    result.predicted ? el("div", { class: "beside" }, firstTokens(result.ttft_ms, other), gains(result)) : null,
    result.moves.length ? moves(result) : null,
    Object.keys(result.by_reason).length > 1 ? byReason(result.by_reason) : null,
  ].filter(Boolean);
}

function firstTokens(ttft, other) {
  const most = Math.max(ttft.made, ttft.candidate, 1e-9);
  const row = (name, value, kind) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, meter(value / most, kind), el("b", {}, duration(value))));
  return el(
    "section",
    {},
    el("h4", {}, "Predicted time to first token"),
    el("dl", { class: "pair" }, row("live", ttft.made, "series-0"), row(other, ttft.candidate, "series-1")),
  );
}

function gains(result) {
  const ms = result.regret_ms.per_request;
  const tokens = result.cached_tokens.per_request;
  return el(
    "section",
    {},
    el("h4", {}, "For one request"),
    el("p", {}, el("b", {}, duration(Math.abs(ms))), ms >= 0 ? " sooner" : " later", ", as predicted"),
    el("p", {}, el("b", {}, count(Math.abs(tokens))), tokens >= 0 ? " more" : " fewer", " tokens from the cache"),
  );
}

function moves(result) {
  const shown = result.moves.slice(0, MOVES);
  const most = Math.max(...shown.map((move) => move.requests));
  const left = result.moved - shown.reduce((sum, move) => sum + move.requests, 0);
  return el(
    "section",
    {},
    el("h4", {}, "Where to"),
    el(
      "table",
      { class: "moves" },
      el(
        "tbody",
        {},
        shown.map((move) =>
          el(
            "tr",
            {},
            el("td", {}, `${move.from} → ${move.to}`),
            el("td", {}, meter(move.requests / most, "series-1")),
            el("td", { class: "number" }, count(move.requests)),
          ),
        ),
      ),
    ),
    left > 0 ? el("p", { class: "quiet" }, `and ${count(left)} more moves between other replicas`) : null,
  );
}

function byReason(reasons) {
  const rows = Object.entries(reasons).sort(([, one], [, two]) => two.judged - one.judged);
  return el(
    "section",
    {},
    el("h4", {}, "By reason of the live policy"),
    el(
      "table",
      { class: "by-reason" },
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          ["Reason", "Decisions", "Elsewhere", "Sooner"].map((name) => el("th", { scope: "col" }, name)),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map(([reason, one]) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, el("span", { class: `reason ${kindOf(reason)}` }, reason)),
            el("td", { class: "number" }, count(one.judged)),
            el("td", { class: "number" }, percent(one.moved_share)),
            el("td", { class: "number" }, one.predicted ? signed(one.regret_ms.per_request) : "–"),
          ),
        ),
      ),
    ),
  );
}

const signed = (ms) => (ms < 0 ? `−${duration(-ms)}` : duration(ms));

/** A bar that is filled to a share. */
export function meter(share, kind) {
  return svg(
    "svg",
    { class: `meter ${kind}`, viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "rest", width: 100, height: 8 }),
    svg("rect", { class: "part", width: (100 * share).toFixed(1), height: 8 }),
  );
}
