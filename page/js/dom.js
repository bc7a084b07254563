// --- dom: elements, icons, numbers, what a screen reader is told -----------------------------------------------------

const $ = (id) => document.getElementById(id);

/** A new element. Names that begin with "on" are listeners; null, undefined and false leave an attribute or child out. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

const plural = (count, one, many = `${one}s`) => `${count.toLocaleString()} ${count === 1 ? one : many}`;
const seconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;

/** Tells a screen reader one thing, between what it reads; never the tokens of a stream. */
function say(text) {
  $("status").textContent = text;
}

/** A line above the conversation, with at most one thing to do about it; "" takes it away. */
function notice(text, action = "", act = null) {
  $("notice").replaceChildren();
  if (!text) return;
  const close = () => notice("");
  $("notice").append(
    el("p", {}, text),
    action && el("button", { type: "button", onclick: () => { close(); act(); } }, action),
    el("button", { type: "button", class: "quiet icon", "aria-label": "Dismiss", onclick: close }, icon("close")),
  );
}

/** Calls `work` now if it has rested, else once when it has: a stream paints at most that often. */
function throttled(work, pause = 60) {
  let timer = 0, again = false;
  const run = () => {
    if (timer) { again = true; return; }
    work();
    timer = setTimeout(() => { timer = 0; if (again) { again = false; run(); } }, pause);
  };
  return run;
}
