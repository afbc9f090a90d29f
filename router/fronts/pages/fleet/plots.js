// The five plots below: times to first token, reasons, hit rate, backlog, held. They begin when the page is opened.

import { byId } from "./dom.js";
import { count, duration, percent, rate } from "./format.js";
import { busiestModel, spanOf } from "./live.js";
import { Plot } from "./plot.js";
import { kindOf } from "./reasons.js";

/** Models and reasons with a shape of their own. */
const MODELS_MAX = 3;
const REASONS_MAX = 6;

export class Plots {
  constructor(live) {
    this.live = live;
    this.pointed = null;
    this.place = byId("plots");
    this.ttft = new Plot("TTFT", { unit: duration, floor: 20 });
    this.reasons = new Plot("Requests by reason", {
      unit: (value) => `${rate(value)}\u202f/s`,
      floor: 2,
      stacked: true,
    });
    this.hit = new Plot("Hit rate", { unit: (share) => percent(share, 0), floor: 1, ceiling: 1 });
    this.backlog = new Plot("Prefill backlog", { unit: duration, floor: 100 });
    this.held = new Plot("Held", { unit: count, floor: 4 });
    this.all = [this.ttft, this.reasons, this.hit, this.backlog, this.held];
    this.place.append(...this.all.map((plot) => plot.element));
    this.place.addEventListener("pointermove", (event) => this.point(event));
    this.place.addEventListener("pointerleave", () => this.pointAt(null));
    live.each(() => this.draw());
  }

  point(event) {
    const field = event.target.closest(".field");
    if (!field) return this.pointAt(null);
    const { left, width } = field.getBoundingClientRect();
    const ago = Math.round((spanOf(this.live.past.length) - 1) * (1 - (event.clientX - left) / width));
    return this.pointAt(ago >= 0 && ago < this.live.past.length ? ago : null);
  }

  pointAt(ago) {
    if (this.pointed === ago) return;
    this.pointed = ago;
    for (const plot of this.all) plot.point(ago);
    this.draw();
  }

  draw() {
    const past = this.live.past;
    if (!past.length) return;
    const at = past[past.length - 1 - (this.pointed ?? 0)];
    const newest = past[past.length - 1].at;
    const span = spanOf(past.length);
    const marks = this.live.marks
      .map((mark) => ({ ago: Math.max(0, Math.round((newest - mark.at) / 1000)), text: mark.text }))
      .filter((mark) => mark.ago < span);
    this.drawFirstTokens(past, at, marks);
    this.drawReasons(past, at, marks);
    this.hit.draw(
      [line("possible", "series-soft", past, (one) => one.possible), line("hit", "series-0", past, (one) => one.hit)],
      [
        ["hit", "series-0", percent(at.hit)],
        ["possible", "series-soft", percent(at.possible)],
      ],
      marks,
    );
    this.backlog.draw(
      [
        line("median", "series-soft", past, (one) => one.backlogMiddle),
        line("most", "series-0", past, (one) => one.backlogMost),
      ],
      [
        ["most", "series-0", duration(at.backlogMost)],
        ["median", "series-soft", duration(at.backlogMiddle)],
      ],
      marks,
    );
    this.held.draw(
      [line("held", "series-0", past, (one) => one.held)],
      [
        ["", "", count(at.held)],
        ["conversations", "", count(at.conversations)],
      ],
      marks,
    );
  }

  drawFirstTokens(past, at, marks) {
    const newest = past[past.length - 1].ttft;
    const models = Object.entries(newest)
      .sort(([, one], [, other]) => other.count - one.count)
      .slice(0, MODELS_MAX)
      .map(([model]) => model);
    const series = [];
    models.forEach((model, number) => {
      series.push(line(`${model} p99`, `series-${number} thin`, past, (one) => one.ttft[model]?.p99 ?? null));
      series.push(line(`${model} p50`, `series-${number}`, past, (one) => one.ttft[model]?.p50 ?? null));
    });
    const busiest = busiestModel(at.ttft);
    const said =
      models.length > 1
        ? models.map((model, number) => [model || "(no model)", `series-${number}`, duration(at.ttft[model]?.p50)])
        : [
            ["p50", "series-0", duration(at.ttft[busiest]?.p50)],
            ["p99", "series-0 thin", duration(at.ttft[busiest]?.p99)],
          ];
    this.ttft.draw(series, said, marks);
  }

  drawReasons(past, at, marks) {
    const totals = new Map();
    for (const one of past)
      for (const [reason, value] of Object.entries(one.reasons)) totals.set(reason, (totals.get(reason) || 0) + value);
    const most = [...totals].sort(([, one], [, other]) => other - one).map(([reason]) => reason);
    // Sorted by class and word, so that an area keeps its place when its share changes.
    const own = most.slice(0, REASONS_MAX).sort((one, other) => (kindOf(one) + one < kindOf(other) + other ? -1 : 1));
    const rest = most.slice(REASONS_MAX);
    const series = own.map((reason) => line(reason, kindOf(reason), past, (one) => one.reasons[reason] || 0));
    if (rest.length)
      series.push(
        line("other", "kind-6", past, (one) => rest.reduce((sum, reason) => sum + (one.reasons[reason] || 0), 0)),
      );
    const said = own
      .filter((reason) => at.reasons[reason])
      .map((reason) => [reason, kindOf(reason), rate(at.reasons[reason])]);
    this.reasons.draw(series, said, marks);
  }
}

function line(name, kind, past, of) {
  return { name, class: kind, values: past.map(of) };
}
