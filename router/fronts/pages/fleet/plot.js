// A small plot over the last minutes, drawn as SVG: lines or stacked areas, marks, and a place that is pointed at.

import { el, setAttribute, setText, svg } from "./dom.js";
import { spanOf } from "./live.js";

const WIDTH = 300;
const HEIGHT = 60;

/** Steps of a vertical axis: a scale changes seldom, and to a round number. */
const NICE = [1, 1.5, 2, 3, 4, 5, 6, 8, 10];

export class Plot {
  /**
   * title: its question. unit: writes a value. floor: the least that the axis reaches to. ceiling: the most, if there
   * is one. stacked: whether series are areas on each other.
   */
  constructor(title, { unit, floor, ceiling = Infinity, stacked = false }) {
    this.unit = unit;
    this.floor = floor;
    this.ceiling = ceiling;
    this.stacked = stacked;
    this.top = floor;
    this.span = spanOf(0);
    this.shapes = new Map();
    this.area = svg("g", {});
    this.marks = svg("g", { class: "marks" });
    this.pointer = svg("line", { class: "pointer", y1: 0, y2: HEIGHT, visibility: "hidden" });
    this.picture = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
      this.area,
      this.marks,
      this.pointer,
    );
    this.label = svg("title", {});
    this.picture.prepend(this.label);
    this.most = el("span", { class: "axis" });
    this.since = el("span", { class: "axis since" });
    this.legend = el("ul", { class: "legend" });
    this.element = el(
      "figure",
      { class: "plot" },
      el("figcaption", {}, el("h3", {}, title), this.legend),
      el("div", { class: "field" }, this.most, this.picture, this.since),
    );
    this.title = title;
  }

  /**
   * series: [{name, class, values}], values by second, the newest last, null where nothing is known.
   * said: [[name, class, text]] beside the title: the values pointed at, or the newest.
   */
  draw(series, said, marks = []) {
    const most = this.stacked
      ? Math.max(0, ...sums(series))
      : Math.max(0, ...series.flatMap((one) => one.values.filter((value) => value !== null)));
    this.scale(most);
    setText(this.most, this.unit(this.top));
    this.span = spanOf(series[0]?.values.length || 0);
    setText(this.since, `${this.span / 60}\u202fmin`);
    const below = this.stacked ? new Array(series[0]?.values.length || 0).fill(0) : null;
    const wanted = new Set(series.map((one) => one.name));
    for (const [name, path] of this.shapes) {
      if (!wanted.has(name)) {
        path.remove();
        this.shapes.delete(name);
      }
    }
    for (const one of series) {
      let path = this.shapes.get(one.name);
      if (!path) {
        path = svg("path", {});
        this.shapes.set(one.name, path);
      }
      if (path.parentNode !== this.area) this.area.append(path);
      setAttribute(path, "class", `${this.stacked ? "filled" : "drawn"} ${one.class}`);
      setAttribute(path, "d", this.stacked ? this.areaOf(one.values, below) : this.lineOf(one.values));
    }
    this.marks.replaceChildren(
      ...marks.map(({ ago, text }) =>
        svg("line", { x1: this.x(ago), x2: this.x(ago), y1: 0, y2: HEIGHT }, svg("title", {}, text)),
      ),
    );
    this.tell(said);
  }

  tell(said) {
    const text = said.map(([name, , value]) => `${name} ${value}`).join(", ");
    setText(this.label, `${this.title}: ${text || "nothing yet"}`);
    if (this.legend.dataset.said === text) return;
    this.legend.dataset.said = text;
    this.legend.replaceChildren(
      ...said.map(([name, kind, value]) =>
        el("li", {}, kind ? el("i", { class: kind }) : null, name && `${name} `, el("b", {}, value)),
      ),
    );
  }

  /** Mark the second so many before the last one; null for none. */
  point(ago) {
    setAttribute(this.pointer, "visibility", ago === null ? "hidden" : "visible");
    if (ago === null) return;
    setAttribute(this.pointer, "x1", this.x(ago));
    setAttribute(this.pointer, "x2", this.x(ago));
  }

  scale(most) {
    const wanted = Math.max(this.floor, most);
    if (wanted <= this.top && wanted > 0.4 * this.top) return;
    const power = 10 ** Math.floor(Math.log10(wanted));
    this.top = Math.min(this.ceiling, NICE.find((step) => step * power >= wanted * 1.02) * power || wanted);
  }

  /** Place of a second so many before the last one. */
  x(ago) {
    return (WIDTH * (1 - ago / (this.span - 1))).toFixed(1);
  }

  y(value) {
    return (HEIGHT - ((HEIGHT - 3) * Math.min(value, this.top)) / this.top).toFixed(1);
  }

  lineOf(values) {
    let path = "";
    let pen = "M";
    values.forEach((value, at) => {
      if (value === null) {
        pen = "M";
        return;
      }
      path += `${pen}${this.x(values.length - 1 - at)} ${this.y(value)}`;
      pen = "L";
    });
    return path || "M0 0";
  }

  areaOf(values, below) {
    const place = (at) => this.x(values.length - 1 - at);
    const under = values.map((_, at) => `${place(at)} ${this.y(below[at])}`);
    const over = values.map((value, at) => `${place(at)} ${this.y((below[at] += value || 0))}`);
    return values.length ? `M${over.join("L")}L${under.reverse().join("L")}Z` : "M0 0";
  }
}

function sums(series) {
  const length = series[0]?.values.length || 0;
  return Array.from({ length }, (_, at) => series.reduce((sum, one) => sum + (one.values[at] || 0), 0));
}
