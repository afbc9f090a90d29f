// Making and changing elements. Text goes in as text: nothing that a router says is read as HTML.

import { UNKNOWN } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

/** Make an element. `about` holds attributes; `on` in it, listeners by event; null and false leave an attribute out. */
export function el(tag, about = {}, ...children) {
  return filled(document.createElement(tag), about, children);
}

/** Make an element of an SVG picture. */
export function svg(tag, about = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), about, children);
}

function filled(node, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

/** Write a text where it differs: what stays the same costs no layout. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Write an attribute where it differs; null, undefined and false take it away. */
export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

/** The shape of a state; its word stands beside it, or is read out in its place. */
export function shape(state, { label = "" } = {}) {
  const picture = svg("svg", { class: `shape ${state}`, width: 10, height: 10, viewBox: "0 0 10 10" });
  picture.append(svg("use", { href: `#shape-${state}` }));
  if (label) picture.append(svg("title", {}, label));
  setAttribute(picture, "aria-hidden", label ? null : "true");
  return picture;
}

/** A quantity with its unit set off; what is not known has none. */
export function quantity([number, unit]) {
  return [el("b", {}, number), unit && number !== UNKNOWN ? el("span", { class: "unit" }, `\u202f${unit}`) : null];
}
