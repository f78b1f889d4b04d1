// Elements out of data. Data becomes text nodes and attributes, never markup.

/** An element. Attributes and children that are false, null or undefined are left out. */
export function el(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === true) element.setAttribute(key, "");
    else if (value != null && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

/** A table in a box that scrolls by itself. Cells are nodes, texts or numbers. */
export function table(caption, heads, rows) {
  const cell = (value) => typeof value === "number"
    ? el("td", { class: "number" }, number(value))
    : el("td", {}, value ?? "");
  const head = el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)));
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    el("table", {}, el("thead", {}, head),
      el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map(cell))))));
}

/**
 * Makes the children of `box` look like `children`, and touches what differs only: focus, opened
 * details and the place in a list stay where they were.
 */
export function show(box, ...children) {
  const wanted = el("div", {}, ...children);
  morphChildren(box, wanted);
}

function morphChildren(old, wanted) {
  const nodes = [...wanted.childNodes];
  nodes.forEach((node, index) => {
    const there = old.childNodes[index];
    if (!there) old.append(node);
    else if (!there.isEqualNode(node)) morph(there, node);
  });
  while (old.childNodes.length > nodes.length) old.lastChild.remove();
}

function morph(old, wanted) {
  if (old.nodeName !== wanted.nodeName || old.dataset?.key !== wanted.dataset?.key) {
    old.replaceWith(wanted);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    old.data = wanted.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // Whoever opened it wants to read it.
    if (!wanted.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  morphChildren(old, wanted);
}

/** A number as people read it; at most one digit after the point below 1000. */
export function number(value) {
  const digits = Math.abs(value) < 1000 ? 1 : 0;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** Seconds since 1970 as local date and time. */
export function time(seconds) {
  return new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** Bytes in KiB or MiB. */
export function bytes(count) {
  return count < 1 << 20 ? `${number(count / 1024)} KiB` : `${number(count / (1 << 20))} MiB`;
}

/** The options of a select; what was chosen stays chosen while it is there. */
export function options(select, entries) {
  const chosen = select.value;
  show(select, ...entries.map(([value, label]) => el("option", { value }, label)));
  if (entries.some(([value]) => value === chosen)) select.value = chosen;
}
