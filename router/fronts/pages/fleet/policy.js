// The policy: what is live, what is rolled out or decides beside it in the shadow, what was before, and a change that is
// tried first.

import { ask, askIfThere, Refused } from "./api.js";
import { change, sureButton } from "./change.js";
import { comparison } from "./compare.js";
import { differences } from "./documents.js";
import { el } from "./dom.js";
import { sentence } from "./drawer.js";
import { ago, clock, plural } from "./format.js";
import { latestRollout, RolloutPanel } from "./rollout.js";

const REVISIONS = 30;

/** Past decisions that a document is tried on. */
const TRIED = 1000;

const ROLLOUT = "10 % of new sessions, then half, then all of them, as long as it is no worse than the live policy";

export function showPolicy(drawer, live, { mayOperate }) {
  const again = () => showPolicy(drawer, live, { mayOperate });
  let over = false;
  let stop = () => {};
  const fill = async () => {
    const [{ data: document, etag }, { data: listed }, { data: installed }, shadow, rollout] = await Promise.all([
      ask("/v1/policy"),
      ask(`/v1/policy/revisions?limit=${REVISIONS}`),
      ask("/v1/policies"),
      askIfThere("/v1/policy/shadow"),
      latestRollout(),
    ]);
    const revision = listed.revisions.find((one) => one.active);
    const rolled = rollout ? new RolloutPanel(rollout, document, { mayOperate: mayOperate(), again }) : null;
    if (rolled && !over) stop = rolled.follow();
    return [
      headline(document, revision),
      rolled?.element,
      shadow ? shadowOf(document, shadow, mayOperate(), again) : null,
      mayOperate() ? new Editor(document, etag, installed.policies, again).element : readOnly(document),
      revisionsOf(listed.revisions, mayOperate(), again),
    ];
  };
  return drawer.show("policy", "Policy", fill, () => {
    over = true;
    stop();
  });
}

function headline(document, revision) {
  if (!revision) return el("p", { class: "headline" }, el("b", {}, document.policy));
  const by = revision.author ? ` by ${revision.author}` : "";
  const why = revision.why ? `: ${revision.why}` : "";
  return el(
    "p",
    { class: "headline" },
    el("b", {}, `${document.policy} r${revision.revision}`),
    el("span", { class: "quiet" }, ` ${ago(revision.at, Date.now())}${by}${why}`),
  );
}

function shadowOf(live, shadow, mayOperate, again) {
  const name = shadow.document.policy;
  const failed = shadow.state !== "running";
  const outcome = el("div", { role: "status" });
  const stop = el("button", { type: "button", class: "small" }, "Take it away");
  stop.addEventListener("click", () =>
    change(outcome, stop, () => ask("/v1/policy/shadow", { method: "DELETE" }), again),
  );
  const since = `since ${clock(shadow.since)}, ${ago(shadow.since, Date.now())}${shadow.sample < 1 ? `, on ${Math.round(100 * shadow.sample)}\u202f% of requests` : ""}`;
  return el(
    "section",
    { class: "shadow" },
    el("h3", {}, `Beside it in the shadow: ${name} `, mayOperate ? stop : null),
    el("p", { class: failed ? "wrong" : "quiet" }, failed ? `Switched off: ${shadow.error || "it failed"}` : since),
    ...comparison(shadow.result, name === live.policy ? "shadow" : name),
    el("details", {}, el("summary", {}, "What differs from the live document"), differences(live, shadow.document)),
    el("p", { class: "quiet" }, `A decision of the shadow takes ${Math.round(shadow.decision_us.mean)}\u202fµs.`),
    ...(shadow.warnings || []).map((warning) => el("p", { class: "wrong" }, warning)),
    outcome,
  );
}

function readOnly(document) {
  return el(
    "section",
    {},
    el("h3", {}, "Document"),
    el("pre", {}, JSON.stringify(document, null, 2)),
    el("p", { class: "quiet" }, "A token with the role operate may change it."),
  );
}

/** The document as text, tried on past decisions before it may be put live or into the shadow. */
class Editor {
  constructor(document, etag, policies, again) {
    this.before = document;
    const text = JSON.stringify(document, null, 2);
    this.field = el("textarea", {
      id: "policy-document",
      rows: Math.min(20, text.split("\n").length),
      spellcheck: "false",
    });
    this.field.value = text;
    this.why = el("input", { id: "policy-why", type: "text", maxlength: 200, placeholder: "for the record" });
    this.outcome = el("div", { class: "answer", role: "status" });
    const query = () => (this.why.value ? `?why=${encodeURIComponent(this.why.value)}` : "");
    const headers = etag ? { "if-match": etag } : {};
    const tryIt = el("button", { type: "button" }, "Try it");
    const shade = el("button", { type: "button", disabled: true }, "Into the shadow");
    const roll = el("button", { type: "button", disabled: true, title: ROLLOUT }, "Roll out");
    const live = el("button", { type: "button", class: "main", disabled: true }, "Put live");
    this.after = [shade, roll, live];
    this.field.addEventListener("input", () => this.allow(false));
    tryIt.addEventListener("click", () => this.try());
    live.addEventListener("click", () =>
      change(
        this.outcome,
        live,
        () => ask(`/v1/policy${query()}`, { method: "PUT", body: this.field.value, headers }),
        again,
      ),
    );
    const body = () => JSON.stringify({ document: JSON.parse(this.field.value), why: this.why.value });
    const shadow = () => ask("/v1/policy/shadow", { method: "PUT", body: body() });
    shade.addEventListener("click", () => change(this.outcome, shade, shadow, again));
    const rollout = () => ask("/v1/policy/rollout", { method: "POST", body: body(), headers });
    roll.addEventListener("click", () => change(this.outcome, roll, rollout, again));
    this.element = el(
      "section",
      {},
      el("h3", {}, "Document"),
      el(
        "div",
        { class: "fields" },
        el("label", { for: "policy-document" }, "JSON"),
        this.field,
        el("p", { class: "quiet" }, `Installed: ${policies.map((one) => one.name).join(", ")}.`),
        el("label", { for: "policy-why" }, "Why"),
        this.why,
        el("p", { class: "actions" }, tryIt, shade, roll, live),
      ),
      this.outcome,
    );
  }

  allow(allowed) {
    for (const button of this.after) button.disabled = !allowed;
  }

  /** Check the document, show what differs, and what it would have decided. */
  async try() {
    this.allow(false);
    try {
      const document = JSON.parse(this.field.value);
      const { data: applied } = await ask("/v1/policy?dry_run=true", { method: "PUT", body: this.field.value });
      const { warnings = [], ...whole } = applied;
      const tried = await onPast(document);
      this.outcome.replaceChildren(
        ...warnings.map((warning) => el("p", { class: "wrong" }, warning)),
        tried,
        el("section", {}, el("h3", {}, "It differs in"), differences(this.before, whole)),
      );
      this.allow(true);
    } catch (error) {
      this.outcome.replaceChildren(
        el("p", { class: "wrong" }, error instanceof SyntaxError ? `Not JSON: ${error.message}` : sentence(error)),
      );
    }
  }
}

/** What a document would have decided of the latest requests; a router that keeps none says so. */
async function onPast(document) {
  try {
    const body = JSON.stringify({ document, last: TRIED });
    return triedParts((await ask("/v1/policy/dry-run", { method: "POST", body })).data);
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return el("p", { class: "quiet" }, error.message);
    throw error;
  }
}

function triedParts(tried) {
  const unjudged = Object.entries(tried.unjudged).map(([cause, number]) => `${number} ${cause}`);
  return el(
    "section",
    {},
    el("h3", {}, `On the latest ${plural(tried.looked_at, "decision")}`),
    ...comparison(tried.result, tried.document.policy),
    unjudged.length ? el("p", { class: "quiet" }, `Not judged: ${unjudged.join(", ")}.`) : null,
    tried.error ? el("p", { class: "wrong" }, tried.error) : null,
    ...tried.notes.map((note) => el("p", { class: "quiet" }, note)),
  );
}

function revisionsOf(revisions, mayOperate, again) {
  const outcome = el("div", { role: "status" });
  const rows = revisions.map((revision, at) => {
    const before = revisions[at + 1];
    const place = el("div", {});
    const show = el("button", { type: "button", class: "small", "aria-expanded": "false" }, "diff");
    show.addEventListener("click", () => {
      const opened = place.childNodes.length === 0;
      place.replaceChildren(...(opened ? [differences(before.document, revision.document)] : []));
      show.setAttribute("aria-expanded", String(opened));
    });
    return el(
      "li",
      {},
      el("span", { class: "quiet" }, clock(revision.at)),
      el("b", {}, ` r${revision.revision} ${revision.document.policy} `),
      revision.active ? el("span", { class: "mark" }, "live") : null,
      revision.tried ? el("span", { class: "mark soft" }, "tried") : null,
      el(
        "span",
        { class: "quiet" },
        `${revision.author ? `by ${revision.author}` : ""}${revision.why ? `: ${revision.why}` : ""}`,
      ),
      before ? show : null,
      mayOperate && !revision.active && !revision.tried ? back(revision, outcome, again) : null,
      place,
    );
  });
  return el("section", {}, el("h3", {}, "Revisions"), el("ol", { class: "revisions" }, rows), outcome);
}

/** A button that puts a revision live again; the second press does it. */
function back(revision, outcome, again) {
  const body = JSON.stringify({ revision: revision.revision });
  return sureButton("back to it…", `put r${revision.revision} live`, (button) =>
    change(outcome, button, () => ask("/v1/policy/rollback", { method: "POST", body }), again),
  );
}
