// The policy: what is live, what was before, what another one would do, and a change that is tried before it is made.

import { ask, askIfThere, describe, Refused } from "./api.js";
import { el, setText } from "./dom.js";
import { sentence } from "./drawer.js";
import { ago, clock, count, duration, percent, plural } from "./format.js";

const REVISIONS = 30;

/** Decisions that active and shadow are compared over. */
const COMPARED = 500;

export function showPolicy(drawer, live, { mayOperate }) {
  return drawer.show("policy", "Policy", async () => {
    const [{ data: document, etag }, revisions, installed, recent] = await Promise.all([
      ask("/v1/policy"),
      askIfThere(`/v1/policy/revisions?limit=${REVISIONS}`, "/v1/policy/revisions"),
      askIfThere("/v1/policies", "/v1/policies"),
      askIfThere(`/v1/decisions?limit=${COMPARED}`, "/v1/decisions"),
    ]);
    const summary = installed?.data.policies.find((one) => one.name === document.policy)?.summary;
    const again = () => showPolicy(drawer, live, { mayOperate });
    return [
      el("p", { class: "headline" }, el("b", {}, document.policy), live.latest ? el("span", { class: "quiet" }, ` revision ${live.latest.policy.revision}, ${ago(live.latest.policy.since, Date.now())}`) : null),
      summary ? el("p", { class: "quiet" }, summary) : null,
      shadowOf(recent?.data.decisions || []),
      editor(document, etag, mayOperate(), again, installed?.data.policies || []),
      revisionsOf(revisions?.data.revisions || [], mayOperate(), again),
    ];
  });
}

/** Active beside shadow over the latest decisions: how many would have gone elsewhere, where to, and why. */
function shadowOf(decisions) {
  const both = decisions.filter((decision) => decision.shadow && decision.first);
  if (!both.length) return null;
  const moved = both.filter((decision) => decision.shadow.first !== decision.first);
  const places = new Map();
  for (const decision of both) {
    for (const [side, id] of [["active", decision.first], ["shadow", decision.shadow.first || "nobody"]]) {
      if (!places.has(id)) places.set(id, { active: 0, shadow: 0 });
      places.get(id)[side] += 1;
    }
  }
  const most = Math.max(...[...places.values()].flatMap((one) => [one.active, one.shadow]));
  const rows = [...places].sort(([one], [other]) => (one < other ? -1 : 1));
  return el(
    "section",
    { class: "shadow" },
    el("h3", {}, `Beside it in the shadow: ${both[0].shadow.policy}`),
    el("p", {}, el("b", {}, percent(moved.length / both.length)), ` of the latest ${plural(both.length, "decision")} would have gone to another replica.`),
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ["Replica", "active", "shadow"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows.slice(0, 16).map(([id, one]) => el("tr", {}, el("th", { scope: "row" }, id), el("td", {}, meter(one.active, most)), el("td", {}, meter(one.shadow, most))))),
    ),
  );
}

function meter(value, most) {
  return [el("meter", { min: 0, max: most, value }), ` ${count(value)}`];
}

function editor(document, etag, mayOperate, again, policies) {
  const text = JSON.stringify(document, null, 2);
  if (!mayOperate) {
    return el("section", {}, el("h3", {}, "Live document"), el("pre", {}, text), el("p", { class: "quiet" }, "A token with the role operate may change it."));
  }
  const field = el("textarea", { id: "policy-document", rows: Math.min(22, text.split("\n").length + 1), spellcheck: "false" });
  field.value = text;
  const outcome = el("div", { role: "status" });
  const live = el("button", { type: "button", class: "main", disabled: true }, "Put live");
  const check = el("button", { type: "button" }, "Try it");
  const why = el("input", { id: "policy-why", type: "text", maxlength: 200, placeholder: "for the record" });
  field.addEventListener("input", () => (live.disabled = true));
  check.addEventListener("click", async () => {
    live.disabled = true;
    try {
      outcome.replaceChildren(...(await tried(document, field.value)));
      live.disabled = false;
    } catch (error) {
      outcome.replaceChildren(el("p", { class: "wrong" }, error instanceof SyntaxError ? `Not JSON: ${error.message}` : sentence(error)));
    }
  });
  live.addEventListener("click", async () => {
    live.disabled = true;
    try {
      await put(field.value, etag, why.value);
      again();
    } catch (error) {
      const changed = error instanceof Refused && error.status === 412;
      outcome.replaceChildren(el("p", { class: "wrong" }, changed ? `Somebody changed the policy meanwhile; nothing was put. ${error.message}` : sentence(error)));
    }
  });
  return el(
    "section",
    {},
    el("h3", {}, "Document"),
    el(
      "div",
      { class: "fields" },
      el("label", { for: "policy-document" }, "What decides"),
      field,
      policies.length ? el("p", { class: "quiet" }, `Installed: ${policies.map((one) => one.name).join(", ")}.`) : null,
      el("label", { for: "policy-why" }, "Why"),
      why,
    ),
    el("p", { class: "actions" }, check, live),
    outcome,
  );
}

const JSON_BODY = (text) => JSON.stringify(JSON.parse(text));

async function put(text, etag, why) {
  const { paths } = await describe();
  const recorded = paths["/v1/policy"].put.parameters.some((parameter) => parameter.name === "why");
  const query = why && recorded ? `?why=${encodeURIComponent(why)}` : "";
  await ask(`/v1/policy${query}`, { method: "PUT", body: JSON_BODY(text), headers: etag ? { "if-match": etag } : {} });
}

/** What a document would change: its fields, and the latest decisions where the router can tell. */
async function tried(before, text) {
  const { data: applied } = await ask("/v1/policy?dry_run=true", { method: "PUT", body: JSON_BODY(text) });
  const moved = await askIfThere("/v1/policy/dry-run", "/v1/policy/dry-run", { method: "POST", body: JSON_BODY(text) }).catch((error) => ({ error }));
  const { warnings = [], ...document } = applied;
  return [
    el("h3", {}, "It would change"),
    differences(before, document),
    ...warnings.map((warning) => el("p", { class: "wrong" }, warning)),
    moved?.data ? movedBy(moved.data) : null,
  ].filter(Boolean);
}

function movedBy(answer) {
  const share = answer.moved_share ?? answer.share_moved ?? answer.moved?.share;
  const decisions = answer.decisions ?? answer.compared ?? answer.count;
  if (typeof share !== "number") return el("pre", {}, JSON.stringify(answer, null, 2));
  const regret = typeof answer.regret_ms === "number" ? `, regret ${duration(answer.regret_ms)}` : "";
  return el("p", {}, el("b", {}, percent(share)), ` of the latest ${typeof decisions === "number" ? plural(decisions, "decision") : "decisions"} would have gone to another replica${regret}.`);
}

function flat(value, path, into) {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    for (const [name, inner] of Object.entries(value)) flat(inner, path ? `${path}.${name}` : name, into);
  } else into.set(path, JSON.stringify(value));
  return into;
}

/** The fields that two documents differ in. */
function differences(before, after) {
  const old = flat(before, "", new Map());
  const changed = flat(after, "", new Map());
  const rows = [...new Set([...old.keys(), ...changed.keys()])].filter((name) => old.get(name) !== changed.get(name));
  if (!rows.length) return el("p", { class: "quiet" }, "Nothing: the documents are equal.");
  return el(
    "table",
    { class: "diff" },
    el("tbody", {}, rows.map((name) => el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "old" }, old.get(name) ?? "absent"), el("td", { class: "new" }, changed.get(name) ?? "absent")))),
  );
}

function revisionsOf(revisions, mayOperate, again) {
  if (!revisions.length) return null;
  const outcome = el("div", { role: "status" });
  const rows = revisions.map((revision, at) => {
    const before = revisions[at + 1];
    const show = el("button", { type: "button", class: "small" }, "diff");
    const place = el("div", {});
    show.addEventListener("click", () => place.replaceChildren(...(place.childNodes.length ? [] : [differences(before.document, revision.document)])));
    return el(
      "li",
      {},
      el("span", { class: "quiet" }, clock(revision.at)),
      el("b", {}, ` r${revision.revision} ${revision.document?.policy ?? ""} `),
      revision.active ? el("span", { class: "mark" }, "live") : null,
      revision.tried ? el("span", { class: "mark soft" }, "tried") : null,
      el("span", { class: "quiet" }, `${revision.author ? ` by ${revision.author}` : ""}${revision.why ? `: ${revision.why}` : ""}`),
      before?.document && revision.document ? show : null,
      mayOperate && !revision.active && !revision.tried ? back(revision, outcome, again) : null,
      place,
    );
  });
  return el("section", {}, el("h3", {}, "Revisions"), el("ol", { class: "revisions" }, rows), outcome);
}

/** A button that puts a revision live again; the second press does it. */
function back(revision, outcome, again) {
  const button = el("button", { type: "button", class: "small" }, "back to it…");
  button.addEventListener("click", async () => {
    if (button.dataset.sure !== "yes") {
      button.dataset.sure = "yes";
      setText(button, `put r${revision.revision} live`);
      return;
    }
    try {
      await ask("/v1/policy/rollback", { method: "POST", body: JSON.stringify({ revision: revision.revision }) });
      again();
    } catch (error) {
      outcome.replaceChildren(el("p", { class: "wrong" }, sentence(error)));
    }
  });
  return button;
}
