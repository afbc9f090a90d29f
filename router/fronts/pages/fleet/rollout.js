// A rollout: how far it is, both policies side by side, and the button that takes the new one back.

import { ask, askIfThere } from "./api.js";
import { change, sureButton } from "./change.js";
import { meter } from "./compare.js";
import { differences } from "./documents.js";
import { el } from "./dom.js";
import { ago, clock, count, duration, percent } from "./format.js";

const EVERY_MS = 2000;

const PATH = "/v1/policy/rollout";

/** The latest rollout; null where there was none since the router started. */
export const latestRollout = () => askIfThere(PATH);

export class RolloutPanel {
  /** view: the rollout at this moment. live: the document that is live. again: shows everything anew, after a change. */
  constructor(view, live, { mayOperate, again }) {
    const name = view.document.policy;
    this.names = { live: live.policy, candidate: name === live.policy ? "new document" : name };
    this.running = view.state === "running";
    this.outcome = el("div", { role: "status" });
    this.back = mayOperate && this.running ? this.backButton(live.policy, again) : null;
    this.mark = el("span", {});
    this.moving = el("div", { class: "moving" });
    this.element = el(
      "section",
      { class: "rollout" },
      el("h3", {}, `Rollout of ${name} `, this.mark, this.back),
      this.moving,
      this.running
        ? el("details", {}, el("summary", {}, "What differs from the live document"), differences(live, view.document))
        : null,
      this.outcome,
    );
    this.draw(view);
  }

  backButton(live, again) {
    return sureButton("Return…", `Let ${live} decide all sessions`, (button) =>
      change(this.outcome, button, () => ask(PATH, { method: "DELETE" }), again),
    );
  }

  /** Draw the rollout anew every few seconds, until it is over or the function that is returned is called. */
  follow() {
    if (!this.running) return () => {};
    const timer = setInterval(async () => {
      try {
        const view = await latestRollout();
        if (view) this.draw(view);
        if (!this.running) clearInterval(timer);
      } catch {
        // What is shown stays; the strip says that the edge does not answer.
      }
    }, EVERY_MS);
    return () => clearInterval(timer);
  }

  draw(view) {
    this.running = view.state === "running";
    if (this.back) this.back.hidden = !this.running;
    this.mark.className = this.running ? "mark" : "mark soft";
    this.mark.textContent = view.state;
    this.moving.replaceChildren(...parts(view, this.names));
  }
}

function parts(view, names) {
  const running = view.state === "running";
  const by = view.author ? ` by ${view.author}` : "";
  const why = view.why ? `: ${view.why}` : "";
  return [
    el("p", { class: "quiet" }, `began ${clock(view.started_at)}, ${ago(view.started_at, Date.now())}${by}${why}`),
    view.ended ? el("p", { class: view.state === "returned" ? "wrong" : "quiet" }, `Over: ${view.ended}.`) : null,
    stepsOf(view, running),
    running ? el("p", {}, ...progress(view)) : null,
    arms(view, names),
    view.not_compared
      ? el(
          "p",
          { class: "quiet" },
          `${count(view.not_compared)} requests of sessions from before this step are not compared.`,
        )
      : null,
    ...(view.warnings || []).map((warning) => el("p", { class: "wrong" }, warning)),
  ].filter(Boolean);
}

/** The steps of the plan as a row, and the one that is reached. */
function stepsOf(view, running) {
  const promoted = view.state === "promoted";
  const steps = view.steps.map((share, at) => {
    const kind = promoted || at + 1 < view.step ? "done" : at + 1 === view.step ? (running ? "now" : "reached") : "";
    return el("li", { class: kind, "aria-current": kind === "now" ? "step" : null }, percent(share, 0));
  });
  steps.push(el("li", { class: promoted ? "now" : "" }, "live"));
  return el("ol", { class: "steps", "aria-label": "Shares of new sessions" }, steps);
}

function progress(view) {
  const said = [
    el("b", {}, percent(view.share, 0)),
    ` of new sessions for ${duration(1000 * view.step_age_s)}, of at least ${duration(1000 * view.step_s)}.`,
  ];
  if (view.waits_for) said.push(el("span", { class: "quiet" }, ` So far, ${view.waits_for}.`));
  return said;
}

/** Both policies side by side, each row with the bound that it must keep. */
function arms(view, names) {
  const { live, candidate, bounds } = view;
  const first = (arm, share) => arm.ttft_ms?.[share] ?? null;
  const rows = [
    row("Requests ended", [live.requests, candidate.requests], count),
    row("Failed", [live.error_share, candidate.error_share], (share) => percent(share), {
      beside: [count(live.errors), count(candidate.errors)],
      bound: `at most +${percent(bounds.error_share)}`,
      full: live.error_share + bounds.error_share,
      wrong: candidate.error_share - live.error_share > bounds.error_share,
    }),
    row("Refused with 429", [live.refused, candidate.refused], count),
    row("TTFT p50", [first(live, "p50"), first(candidate, "p50")], duration),
    row("TTFT p99", [first(live, "p99"), first(candidate, "p99")], duration),
    row("Typical TTFT", [view.ttft_ratio === null ? null : 1, view.ttft_ratio], times, {
      bound: `at most ${times(bounds.ttft_ratio)}`,
      full: bounds.ttft_ratio,
      wrong: view.ttft_ratio > bounds.ttft_ratio,
    }),
  ];
  const heads = [
    el("td", {}),
    el("th", { scope: "col" }, el("i", { class: "series-0" }), names.live),
    el("th", { scope: "col" }, el("i", { class: "series-1" }), names.candidate),
    el("th", { scope: "col" }, "bound"),
  ];
  return el("table", { class: "arms" }, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows));
}

const times = (ratio) => (ratio === null ? "–" : `${ratio.toFixed(2)}\u202f×`);

/**
 * One figure of both policies.
 *
 * beside: a second text of each. bound: what the new policy must keep. full: value of a whole bar, where none is larger.
 * wrong: whether the bound is exceeded.
 */
function row(name, values, written, { beside = ["", ""], bound = "", full = 1e-9, wrong = false } = {}) {
  const most = Math.max(...values.map((value) => value ?? 0), full);
  const cells = values.map((value, at) =>
    el(
      "td",
      {},
      el(
        "div",
        {},
        meter((value ?? 0) / most, `series-${at}`),
        el("b", { class: wrong && at === 1 ? "wrong" : "" }, written(value)),
        el("span", { class: "quiet" }, beside[at]),
      ),
    ),
  );
  return el("tr", {}, el("th", { scope: "row" }, name), cells, el("td", { class: "bound" }, bound));
}
