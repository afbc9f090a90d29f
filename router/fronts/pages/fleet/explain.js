// Where would a request go? A form with a body, and the decision that this edge would make of it.

import { ask } from "./api.js";
import { candidatesTable, excludedList } from "./candidates.js";
import { el } from "./dom.js";
import { sentence } from "./drawer.js";
import { count } from "./format.js";
import { kindOf } from "./reasons.js";

const PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"];

/** The form as it was left, as long as the page is open. */
const left = { path: PATHS[0], session: "", body: "" };

export function showExplain(drawer, live) {
  return drawer.show("explain", "Explain a request", async () => {
    const answer = el("div", { class: "answer", role: "status" });
    return [form(live, answer), answer];
  });
}

function example(live) {
  const model = live.latest?.replicas.find((replica) => replica.model)?.model || "my-model";
  return JSON.stringify({ model, messages: [{ role: "user", content: "Hello" }] }, null, 2);
}

function form(live, answer) {
  const path = el(
    "select",
    { id: "explain-path" },
    PATHS.map((one) => el("option", { selected: one === left.path }, one)),
  );
  const session = el("input", {
    id: "explain-session",
    type: "text",
    value: left.session,
    placeholder: "none",
    autocomplete: "off",
    spellcheck: "false",
  });
  const body = el("textarea", {
    id: "explain-body",
    rows: 10,
    spellcheck: "false",
    "aria-describedby": "explain-hint",
  });
  body.value = left.body || example(live);
  const submit = async (event) => {
    event.preventDefault();
    Object.assign(left, { path: path.value, session: session.value, body: body.value });
    let parsed;
    try {
      parsed = JSON.parse(body.value);
    } catch (error) {
      answer.replaceChildren(el("p", { class: "wrong" }, `The body is not JSON: ${error.message}`));
      return;
    }
    try {
      answer.replaceChildren(...(await explained(path.value, session.value, parsed)).filter(Boolean));
    } catch (error) {
      answer.replaceChildren(el("p", { class: "wrong" }, sentence(error)));
    }
  };
  return el(
    "form",
    { class: "fields", on: { submit } },
    el("label", { for: "explain-path" }, "Path"),
    path,
    el("label", { for: "explain-session" }, "Session"),
    session,
    el("label", { for: "explain-body" }, "Body"),
    body,
    el("p", { id: "explain-hint", class: "quiet" }, "Nothing is sent to a replica, and nothing is reserved."),
    el("p", { class: "actions" }, el("button", { type: "submit", class: "main" }, "Explain")),
  );
}

async function explained(path, session, body) {
  const headers = session ? { "x-session-id": session } : {};
  const { data } = await ask("/v1/explain", { method: "POST", body: JSON.stringify({ path, headers, body }) });
  return explanation(data);
}

function explanation(data) {
  const { decision } = data;
  const cached = data.resident_tokens === undefined ? "" : `, of which ${count(data.resident_tokens)} are cached there`;
  return [
    el(
      "p",
      { class: "headline" },
      el("span", { class: `reason ${kindOf(decision.reason)}` }, decision.reason),
      el(
        "b",
        {},
        decision.first
          ? ` → ${decision.first}`
          : ` nobody${decision.status ? `, refused with ${decision.status}` : ""}`,
      ),
    ),
    data.would_change ? el("p", { class: "would-change" }, data.would_change) : null,
    data.prompt_tokens
      ? el("p", { class: "quiet" }, `${count(data.prompt_tokens)} prompt tokens as predicted${cached}.`)
      : null,
    ...data.warnings.map((one) => el("p", { class: "quiet" }, one)),
    ...data.assumed.map((one) => el("p", { class: "quiet" }, `Assumed: ${one}`)),
    data.candidates.length
      ? candidatesTable(data.candidates, {
          chosen: decision.first,
          ms: data.margin_unit === "ms" || data.policy.policy === "kv_cost",
        })
      : null,
    excludedList(data.excluded),
  ];
}
