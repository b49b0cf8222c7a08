// The list of what one did: newest first, each line opens its example so that the answer can be changed.

import { lay } from "./decisions.js";
import { $, el, show } from "./dom.js";
import { post } from "./server.js";

const LINES = 60; // drawn at first, and more with each "Show older": every answer draws the list anew

export class History {
  /** open(id): a line was chosen. nameOf(label): how a label is shown. */
  constructor(annotator, { open, nameOf, waiting }) {
    this.annotator = annotator;
    this.open = open;
    this.nameOf = nameOf;
    this.waiting = waiting;
    this.lines = []; // newest first: {id, answer, flagged, noted, text}
    this.more = false;
    this.current = null;
    this.skip = 0;
    this.shown = LINES;
    this.drawn = new Map(); // example -> what its line says, and its element
    this.planned = false;
    $("older").addEventListener("click", () => this._older());
    $("only").addEventListener("change", () => this.load());
    show($("history"), true);
    this.render();
  }

  get only() {
    return $("only").value;
  }

  /** From the server, with what is still on its way laid over it. */
  async load() {
    const reply = await post("history", { annotator: this.annotator, skip: 0, only: this.only });
    this.lines = reply.lines;
    this.skip = reply.lines.length;
    this.more = reply.more;
    if (this.only === "all") {
      for (const one of this.waiting()) this._overlay(one);
    }
    this.render();
  }

  async _older() {
    this.shown += LINES;
    if (this.lines.length >= this.shown || !this.more) {
      this.render();
      return;
    }
    const reply = await post("history", { annotator: this.annotator, skip: this.skip, only: this.only }).catch(() => null);
    if (!reply) return;
    const known = new Set(this.lines.map((line) => line.id));
    this.lines.push(...reply.lines.filter((line) => !known.has(line.id)));
    this.skip += reply.lines.length;
    this.more = reply.more;
    this.render();
  }

  /** Something was done to an example just now. */
  put(example) {
    const at = this.lines.findIndex((line) => line.id === example.id);
    if (at >= 0) this.lines.splice(at, 1);
    else this.skip += 1;
    const line = { id: example.id, answer: example.answer, flagged: example.flagged, noted: Boolean(example.note), text: example.excerpt };
    if (line.answer || line.flagged || line.noted) this.lines.unshift(line);
    else this.skip = Math.max(this.skip - 1, 0);
    this.render();
  }

  /** The newest example with an answer, null if there is none. */
  newest() {
    return this.lines.find((one) => one.answer)?.id ?? null;
  }

  /** The answered example `step` lines further into the past than `id` (null: the present); null is the present. */
  neighbour(id, step) {
    const answered = this.lines.filter((line) => line.answer || line.id === id);
    const at = answered.findIndex((line) => line.id === id) + step;
    return at < 0 ? null : (answered[Math.min(at, answered.length - 1)] || { id: null }).id;
  }

  mark(id) {
    this.current = id;
    this.render();
  }

  _overlay(one) {
    const at = this.lines.findIndex((found) => found.id === one.id);
    const line = at < 0 ? { id: one.id, answer: null, flagged: false, noted: false, text: one.excerpt || "" } : this.lines.splice(at, 1)[0];
    lay(one, line);
    if (one.kind === "note") line.noted = Boolean(one.text);
    if (line.answer || line.flagged || line.noted) this.lines.unshift(line);
  }

  /** Draw soon, once for all that changes now: the next example comes first. */
  render() {
    if (this.planned) return;
    this.planned = true;
    setTimeout(() => {
      this.planned = false;
      this._draw();
    });
  }

  _draw() {
    const at = this.lines.findIndex((line) => line.id === this.current);
    this.shown = Math.max(this.shown, at + 1);
    const pending = new Set(this.waiting().map((one) => one.id));
    const before = this.drawn;
    this.drawn = new Map();
    for (const line of this.lines.slice(0, this.shown)) {
      const says = JSON.stringify([line, pending.has(line.id), line.id === this.current]);
      const known = before.get(line.id);
      this.drawn.set(line.id, known?.says === says ? known : { says, element: this._line(line, pending.has(line.id)) });
    }
    const list = $("history-list");
    const elements = [...this.drawn.values()].map((one) => one.element);
    if (elements.length !== list.children.length || elements.some((element, i) => element !== list.children[i])) {
      const focused = document.activeElement?.dataset?.id;
      list.replaceChildren(...elements);
      if (focused) list.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
    }
    show($("history-none"), this.lines.length === 0);
    $("history-none").textContent =
      this.only === "all" ? "Nothing yet. What you answer appears here and can be changed." : "None.";
    show($("older"), this.more || this.lines.length > this.shown);
  }

  _line(line, pending) {
    const given = !line.answer ? "no answer" : line.answer.kind === "skip" ? "skipped" : this.nameOf(line.answer.text);
    const marks = [line.flagged && "flagged", line.noted && "note", line.group && "in a group", pending && "not saved yet"].filter(Boolean);
    return el(
      "li",
      {},
      el(
        "button",
        {
          type: "button",
          class: "line",
          "data-id": line.id,
          "aria-current": line.id === this.current ? "true" : null,
          onclick: () => this.open(line.id),
        },
        el(
          "span",
          { class: "given" },
          el("strong", { dir: "auto" }, given),
          marks.length ? el("span", { class: pending ? "marks pending" : "marks" }, marks.join(" · ")) : null,
        ),
        el("span", { class: "excerpt", dir: "auto" }, line.text),
      ),
    );
  }
}

