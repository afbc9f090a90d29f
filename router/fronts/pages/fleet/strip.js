// The strip on top: is it well, which policy decides, and the figures that say so.

import { byId, el, quantity, setAttribute, setText, shape } from "./dom.js";
import { ago, clock, count, duration, durationParts, percent, percentParts, plural, rate } from "./format.js";
import { busiestModel } from "./live.js";

const IN_STEP = "in-step";

/** Draw the strip from the live figures, and say once a second how old they are. */
export function drawStrip(live) {
  live.each((document) => {
    drawEdge(document);
    drawFigures(document);
    drawAge(live);
  });
  setInterval(() => drawAge(live), 1000);
}

function drawEdge(document) {
  const name = document.edge || location.host;
  setText(byId("edge"), name);
  setTitle(name);
  const troubles = [...document.not_ready, ...document.degraded];
  const state = document.not_ready.length ? "down" : document.degraded.length ? "ejected" : "up";
  const word = document.not_ready.length ? "not ready" : document.degraded.length ? "degraded" : "ready";
  const health = byId("health");
  if (health.dataset.word !== word) {
    health.dataset.word = word;
    health.replaceChildren(shape(state), ` ${word}`);
    health.className = `health ${state}`;
  }
  const notice = byId("notice");
  notice.hidden = !troubles.length;
  setText(notice, troubles.join(" · "));
  drawEdges(document.edges);
  const policy = document.policy;
  setText(byId("policy-name"), `${policy.name} r${policy.revision}`);
  const by = policy.author ? ` by ${policy.author}` : "";
  setText(byId("policy-since"), `· ${ago(policy.since, Date.parse(document.at))}${by}`);
  const { rollout, shadow } = document;
  tried("rollout", rollout && `rollout ${rollout.name} ${percent(rollout.share, 0)}`);
  tried("shadow", shadow && `shadow ${shadow}`);
}

/** Say what is tried beside the live policy; nothing where nothing is. */
function tried(id, text) {
  const place = byId(id);
  place.hidden = !text;
  setText(place, text || "");
}

function setTitle(name) {
  const title = `${name} · Pointsman`;
  if (document.title !== title) document.title = title;
}

function drawEdges(edges) {
  const place = byId("edges");
  const shown = edges.map((edge) => `${edge.name} ${edge.state} ${edge.admin_url}`).join("|");
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  const apart = edges.filter((edge) => edge.state !== IN_STEP);
  if (!edges.length) {
    place.replaceChildren();
    return;
  }
  const sentence = apart.length
    ? `${plural(apart.length, "edge")} of ${edges.length + 1} apart`
    : `${plural(edges.length + 1, "edge")} agree`;
  const links = edges.map((edge) =>
    el(
      "li",
      {},
      /^https?:\/\//.test(edge.admin_url) ? el("a", { href: edge.admin_url }, edge.name) : edge.name,
      el("span", { class: "quiet" }, ` ${edge.state}`),
    ),
  );
  place.replaceChildren(
    el(
      "details",
      { class: apart.length ? "menu wrong" : "menu" },
      el("summary", {}, `· ${sentence}`),
      el("ul", {}, links),
    ),
  );
}

function drawFigures(document) {
  put("f-requests", quantity([rate(document.requests_per_s), "/s"]));
  put("f-in-flight", quantity([count(document.in_flight), ""]));
  const model = busiestModel(document.ttft_ms);
  const first = model === null ? {} : document.ttft_ms[model];
  put("f-ttft", [quantity(durationParts(first.p50)), el("i", {}), quantity(durationParts(first.p99))]);
  setText(byId("f-ttft-model"), Object.keys(document.ttft_ms).length > 1 ? `of ${model || "(no model)"}` : "");
  const hit = document.hit;
  put("f-hit", [
    quantity(percentParts(hit?.share)),
    hit?.share_best === undefined ? null : el("span", { class: "beside" }, ` of ${(100 * hit.share_best).toFixed(1)}`),
  ]);
  put("f-regret", quantity(durationParts(document.regret?.ms)));
  put("f-held", quantity([count(document.held), ""]), document.held > 0);
  put("f-fail-open", quantity([rate(document.fail_open_per_s), "/s"]), document.fail_open_per_s > 0);
}

function put(id, parts, wrong = false) {
  const place = byId(id);
  place.replaceChildren(...parts.flat().filter(Boolean));
  place.classList.toggle("wrong", wrong);
}

function drawAge(live) {
  const place = byId("as-of");
  const body = document.body;
  if (live.latest === null) {
    const waits = live.retryAt > Date.now();
    setText(place, waits ? `no answer; next try in ${duration(live.retryAt - Date.now())}` : "connecting");
    body.classList.toggle("stale", waits);
    return;
  }
  const stale = live.stale;
  body.classList.toggle("stale", stale);
  const age = Date.now() - live.heardAt;
  const again = live.retryAt > Date.now() ? `, next try in ${duration(live.retryAt - Date.now())}` : "";
  setText(
    place,
    stale ? `stale: as of ${clock(live.latest.at)}, ${duration(age)} ago${again}` : `as of ${clock(live.latest.at)}`,
  );
  setAttribute(place, "title", `Time of this edge: ${live.latest.at}`);
}
