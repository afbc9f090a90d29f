// The operations of /openapi.json as a page. Text is put in as text, never as markup.
"use strict";

const METHODS = ["get", "put", "post", "delete"];
const SCHEMA = "#/components/schemas/";

/** An element with attributes and children; strings become text, null is left out. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

/** Text whose `words` are code and whose [words](links) are links. */
function prose(text) {
  return (text || "").split(/(`[^`]+`|\[[^\]]+\]\([^)]+\))/).map((part) => {
    if (part.startsWith("`")) return make("code", {}, part.slice(1, -1));
    const link = /^\[([^\]]+)\]\((\/[^)]*)\)$/.exec(part);
    return link ? make("a", { href: link[2] }, link[1]) : part;
  });
}

/** The type of a value in words, with links to the schemas that it names. */
function typeOf(schema) {
  if (schema.$ref) {
    const name = schema.$ref.slice(SCHEMA.length);
    return [make("a", { href: `#${name}` }, name)];
  }
  const choices = schema.anyOf || schema.oneOf;
  if (choices) return choices.flatMap((choice, at) => (at ? [" or ", ...typeOf(choice)] : typeOf(choice)));
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  if (schema.type === "array") return ["list of ", ...(schema.items ? typeOf(schema.items) : ["anything"])];
  if (schema.type === "object" && typeof schema.additionalProperties === "object") {
    return ["object of ", ...typeOf(schema.additionalProperties)];
  }
  return [[schema.type || "anything", bounds(schema)].filter(Boolean).join(" ")];
}

function bounds(schema) {
  const said = [];
  if (schema.minimum !== undefined) said.push(`from ${schema.minimum}`);
  if (schema.exclusiveMinimum !== undefined) said.push(`above ${schema.exclusiveMinimum}`);
  if (schema.maximum !== undefined) said.push(`to ${schema.maximum}`);
  if (schema.maxLength !== undefined) said.push(`of at most ${schema.maxLength} characters`);
  if (schema.pattern !== undefined) said.push(`like ${schema.pattern}`);
  return said.join(" ");
}

function table(head, rows) {
  if (!rows.length) return null;
  const cells = (tag, row) => make("tr", {}, row.map((cell) => make(tag, {}, cell)));
  return make("table", {}, make("thead", {}, cells("th", head)), make("tbody", {}, rows.map((row) => cells("td", row))));
}

function properties(schema) {
  const required = new Set(schema.required || []);
  const rows = Object.entries(schema.properties || {}).map(([name, value]) => [
    make("code", {}, name),
    [...typeOf(value), required.has(name) ? " (required)" : ""],
    prose(value.description),
  ]);
  return table(["field", "type", "meaning"], rows);
}

function contents(content) {
  return Object.entries(content || {}).flatMap(([type, { schema }], at) => [
    at ? "; " : "", make("code", {}, type), ": ", ...typeOf(schema || {}),
  ]);
}

/** A command that makes the call, with a place for what the caller has to fill in. */
function command(method, path, operation, parameters) {
  const words = ["curl -s"];
  if (method !== "get") words.push(`-X ${method.toUpperCase()}`);
  const required = parameters.filter((one) => one.in === "query" && one.required).map((one) => `${one.name}=...`);
  words.push(`'${location.origin}${path}${required.length ? `?${required.join("&")}` : ""}'`);
  if ((operation.security || []).length) words.push('-H "authorization: Bearer $TOKEN"');
  if (operation.requestBody) words.push("-H 'content-type: application/json' -d @body.json");
  return words.join(" ");
}

function operationBlock(method, path, item, operation) {
  const parameters = [...(item.parameters || []), ...(operation.parameters || [])];
  const answers = Object.entries(operation.responses).map(([status, answer]) => [
    status,
    [...prose(answer.description), ...Object.keys(answer.headers || {}).map((name) => ` Header ${name}.`)],
    contents(answer.content),
  ]);
  const rows = parameters.map((one) => [
    make("code", {}, one.name), [`${one.in}: `, ...typeOf(one.schema), one.required ? " (required)" : ""],
    prose(one.description),
  ]);
  const block = make("details", { id: operation.operationId },
    make("summary", {},
      make("span", { class: `method ${method}` }, method.toUpperCase()),
      make("span", { class: "path" }, path), make("span", { class: "quiet" }, operation.summary)),
    make("div", {},
      make("p", {}, prose(operation.description || "No token is asked for."),
        " Operation ", make("code", {}, operation.operationId), "."),
      make("pre", { tabindex: "0" }, command(method, path, operation, parameters)),
      rows.length ? make("h3", {}, "Parameters") : null, table(["name", "place and type", "meaning"], rows),
      operation.requestBody ? make("h3", {}, "Body") : null,
      operation.requestBody ? make("p", {}, contents(operation.requestBody.content)) : null,
      make("h3", {}, "Answers"), table(["status", "meaning", "body"], answers)));
  block.dataset.words = [method, path, operation.operationId, operation.summary, ...Object.keys(operation.responses)]
    .join(" ").toLowerCase();
  return block;
}

function schemaBlock(name, schema) {
  const block = make("details", { id: name }, make("summary", {}, make("span", { class: "path" }, name)),
    make("div", {}, make("p", {}, prose(schema.description)),
      properties(schema) || make("p", {}, typeOf(schema))));
  block.dataset.words = name.toLowerCase();
  return block;
}

function show(description) {
  const main = document.getElementById("operations");
  const navigation = document.getElementById("contents");
  const [first, ...more] = description.info.description.split("\n\n");
  document.getElementById("about").replaceChildren(...prose(first), ` Version ${description.info.version}.`);
  document.querySelector("header").append(...more.map((text) => make("p", { class: "quiet" }, prose(text))));
  const section = (id, title, text, blocks) => {
    navigation.append(make("a", { href: `#${id}` }, title));
    main.append(make("section", {}, make("h2", { id }, title), make("p", { class: "quiet" }, prose(text)), blocks));
  };
  for (const tag of description.tags) {
    const blocks = Object.entries(description.paths).flatMap(([path, item]) => METHODS
      .filter((method) => item[method] && item[method].tags.includes(tag.name))
      .map((method) => operationBlock(method, path, item, item[method])));
    section(`tag-${tag.name}`, tag.name, tag.description, blocks);
  }
  const schemas = Object.entries(description.components.schemas).sort(([one], [other]) => (one < other ? -1 : 1));
  section("schemas", "schemas", "Bodies of requests and answers.", schemas.map((entry) => schemaBlock(...entry)));
}

/** Show what fits the filter; a group without any is hidden with its title. */
function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  for (const section of document.querySelectorAll("section")) {
    let shown = 0;
    for (const block of section.querySelectorAll("details")) {
      block.hidden = !words.every((word) => block.dataset.words.includes(word));
      shown += block.hidden ? 0 : 1;
    }
    section.hidden = !shown;
  }
}

/** Open what the address points at: links to schemas and operations lead to closed blocks. */
function open() {
  const block = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (block instanceof HTMLDetailsElement) {
    block.hidden = false;
    block.closest("section").hidden = false;
    block.open = true;
    block.scrollIntoView();
  }
}

async function start() {
  const input = document.getElementById("filter");
  input.addEventListener("input", () => filter(input.value));
  window.addEventListener("hashchange", open);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== input) {
      event.preventDefault();
      input.focus();
    }
  });
  try {
    const answer = await fetch("/openapi.json");
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
    open();
  } catch (error) {
    document.getElementById("about").textContent = `/openapi.json cannot be read: ${error.message}`;
  }
}

start();
