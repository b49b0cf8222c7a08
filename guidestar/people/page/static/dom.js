// Small helpers. Texts become text nodes, here and everywhere: nothing in these scripts parses HTML.

const LONG = 240; // characters above which a text is set smaller

export const $ = (id) => document.getElementById(id);

const given = (children) => children.filter((child) => child !== null && child !== undefined);

/** An element with attributes, listeners (functions under "on…") and children (elements or texts). */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...given(children));
  return element;
}

export function fill(element, ...children) {
  element.replaceChildren(...given(children));
}

export function show(element, shown) {
  element.hidden = !shown;
}

/** The texts of an example, each under the name of its column. */
export function fields(example) {
  return example.fields.map(({ name, text }) =>
    el(
      "section",
      { class: "field" },
      el("h2", {}, name),
      text.trim()
        ? el("p", { class: text.length > LONG ? "text long" : "text", dir: "auto" }, text)
        : el("p", { class: "text small" }, "(empty)"),
    ),
  );
}

/** What the browser remembers under a key, null where it has nothing or gives no storage. where: a storage of the window. */
export function recall(key, where = "localStorage") {
  try {
    return window[where].getItem(key);
  } catch {
    return null;
  }
}

/** Remember a text under a key, null to forget it. Without a storage it is forgotten; without a key nothing is done. */
export function keep(key, text, where = "localStorage") {
  if (key === null) return;
  try {
    if (text === null) window[where].removeItem(key);
    else window[where].setItem(key, text);
  } catch {
    // then it is asked for or typed again
  }
}

export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)}\u00a0%`);

export function plural(n, one, many) {
  return `${n} ${n === 1 ? one : many}`;
}

/** Whether a key press belongs to a box in which one types. */
export function typing(target) {
  if (target instanceof HTMLInputElement) return !["checkbox", "radio", "button", "submit"].includes(target.type);
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}

export const dialogOpen = () => document.querySelector("dialog[open]") !== null;

/** The help dialog, on both pages. */
export function helpDialog() {
  const open = () => {
    $("help").showModal();
    $("help").scrollTop = 0; // its button has the focus and lies below many keys
  };
  $("help-open").addEventListener("click", open);
  return open;
}
