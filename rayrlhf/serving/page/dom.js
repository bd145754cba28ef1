// Elements made without markup: every text becomes a text node, so what people and policies write is only ever shown.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `on…` attributes are listeners, false and null leave one out, children are nodes or text. */
export function el(tag, attributes, ...children) {
  return build(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function svg(tag, attributes, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

/** Put other children in place of those that are there. */
export function fill(node, ...children) {
  node.replaceChildren(...present(children));
  return node;
}

/** A button with an icon, and the key that does the same. */
export function button(label, { icon: name, key, kind = "", ...attributes }) {
  return el(
    "button",
    { type: "button", class: `button ${kind}`, "aria-keyshortcuts": key, ...attributes },
    name ? icon(name) : null,
    el("span", { class: "label" }, label),
    key ? el("kbd", { "aria-hidden": "true" }, key) : null,
  );
}

/** A small picture that says nothing to a screen reader. */
export function icon(name) {
  const drawing = svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true", focusable: "false" });
  drawing.append(...ICONS[name].map((d) => svg("path", { d })));
  return drawing;
}

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...present(children));
  return node;
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

const THUMB = "M7 21V10l4.5-7.5a2 2 0 0 1 2.4 2.4L13 9h5.6a2 2 0 0 1 2 2.4l-1.4 7.9A2 2 0 0 1 17.2 21H7Z";
const ICONS = {
  chat: ["M4 5h16v11H9.5L4 20Z"],
  compare: ["M3.5 5h7v14h-7Z", "M13.5 5h7v14h-7Z"],
  rank: ["M10 6h10", "M10 12h7", "M10 18h4", "M4 5l1.5-1v5", "M4 16.5a1.5 1.5 0 1 1 2.6 1L4 20.5h3"],
  progress: ["M4 20V11", "M10 20V5", "M16 20v-7", "M21 20H3"],
  overview: ["M3 19l6-7 4 4 8-10", "M16 6h5v5"],
  up: [THUMB, "M3 10h4v11H3Z"],
  down: ["M17 3v11l-4.5 7.5a2 2 0 0 1-2.4-2.4L11 15H5.4a2 2 0 0 1-2-2.4l1.4-7.9A2 2 0 0 1 6.8 3H17Z", "M17 3h4v11h-4Z"],
  correct: ["M4 20l1-4.5L16.5 4a2.1 2.1 0 0 1 3 3L8.5 19Z", "M14.5 6l3 3"],
  flag: ["M5 21V4", "M5 4h13l-3 4.5 3 4.5H5"],
  copy: ["M9 9h11v11H9Z", "M15 9V4H4v11h5"],
  again: ["M20 12a8 8 0 1 1-2.5-5.8", "M20.5 3v4.5H16"],
  send: ["M12 20V5", "M5.5 11.5 12 5l6.5 6.5"],
  stop: ["M7 7h10v10H7Z"],
  fresh: ["M12 5v14", "M5 12h14"],
  grip: ["M9 6h.01", "M15 6h.01", "M9 12h.01", "M15 12h.01", "M9 18h.01", "M15 18h.01"],
  higher: ["M6 15l6-6 6 6"],
  lower: ["M6 9l6 6 6-6"],
  tie: ["M6 9.5h12", "M6 14.5h12"],
  out: ["M6 6l12 12", "M18 6 6 18"],
  done: ["M4.5 12.5l5 5 10-11"],
  settings: ["M4 7h9", "M18 7h2", "M4 17h2", "M11 17h9", "M13 7a2.5 2.5 0 1 0 5 0 2.5 2.5 0 1 0-5 0", "M6 17a2.5 2.5 0 1 0 5 0 2.5 2.5 0 1 0-5 0"],
};
