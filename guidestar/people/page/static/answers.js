// The answers of a task: buttons with their keys, a search where there are many, or a box for numbers and texts.

import { el, fill, keep, recall, show } from "./dom.js";

const KEYS = 9; // labels that have a number key
const MANY = 9; // labels above which there is a search

export const DRAFTS = "sessionStorage"; // where a tab keeps what is typed and not saved
const JOINT = "; "; // between the labels of one answer, where several may hold
const NONE = "[]"; // the answer that none of them does

/** The labels of an answer. */
export const partsOf = (task, text) => (!task.several ? [text] : text === NONE ? [] : text.split(JOINT));

/** A label as it is shown: the word that the model writes, and the label where that is another. */
export function labelName(task, label) {
  if (task.several) return partsOf(task, label).map((one) => labelName({ labels: task.labels }, one)).join(JOINT) || "none of these";
  const found = task.labels.find((one) => one.label === label);
  return found ? found.word : label;
}

/** What is left of a name without its spelling: "card_arrival" and "Card arrival" say the same. */
const bare = (name) => name.toLowerCase().replace(/[\s_-]+/g, " ").trim();

export class Answers {
  /**
   * where: the element to fill. task: labels, buttons, numeric. given(text, event): an answer was given.
   * options: [{label, word}] instead of the task's labels; box: a box even where there are options.
   */
  constructor(where, task, given) {
    this.where = where;
    this.task = task;
    this.given = given;
    this.atOnce = true;
    this.selected = null;
    this.on = new Set(); // where several labels may hold: those that are switched on
    this.draftKey = null;
    this.search = null;
    this.box = null;
    this.buttons = [];
    this.build(task.labels, !task.buttons);
  }

  build(options, box) {
    this.options = options;
    this.selected = null;
    this.buttons = options.map((option, i) => this._button(option, i));
    this.search = options.length > MANY ? this._search() : null;
    this.box = box ? this._box() : null;
    fill(
      this.where,
      this.search && el("div", { class: "search" }, this.search, this.found),
      this.buttons.length ? el("div", { class: "labels" }, ...this.buttons) : null,
      this.task.several ? el("div", { class: "box" }, ...this._several()) : null,
      this.box && el("div", { class: "box" }, this.box, this.save, this.problem),
    );
    this._narrow();
  }

  /** For an example: what was answered before is marked; badges: label -> small text on its button. */
  set({ answer = null, badges = {}, draftKey = null }) {
    this.selected = null;
    this.draftKey = draftKey;
    const given = answer && answer.kind === "label" ? answer.text : null;
    this.on = new Set(given === null ? [] : partsOf(this.task, given));
    this.buttons.forEach((button, i) => {
      const { label } = this.options[i];
      this._mark(button, this.on.has(label));
      button.querySelector(".badge").textContent = badges[label] || "";
    });
    if (this.search) {
      this.search.value = "";
      this._narrow();
    }
    if (this.box) {
      this.box.value = recall(draftKey, DRAFTS) ?? given ?? "";
      this.problem.textContent = "";
      this._fit();
    }
  }

  /** A number key. Returns whether there is such an answer. */
  press(digit) {
    const button = this.buttons[digit - 1];
    if (!button || digit > KEYS) return false;
    this._choose(digit - 1);
    return true;
  }

  /** Whether Enter would save something that was chosen before. */
  get chosen() {
    return this.task.several ? this.on.size > 0 : !this.atOnce && this.selected !== null;
  }

  /** 0: none of several labels holds. */
  none() {
    if (this.task.several) this.given(NONE);
  }

  /** Enter: save what is selected. */
  confirm() {
    if (this.task.several) {
      if (this.on.size) this.given(this.options.map(({ label }) => label).filter((label) => this.on.has(label)).join(JOINT));
      return this.on.size > 0;
    }
    if (this.selected === null) return false;
    this.given(this.options[this.selected].label);
    return true;
  }

  focusSearch() {
    if (this.search) this.search.focus();
    return this.search !== null;
  }

  /** Put a draft into the box, where it can be edited. */
  insert(text) {
    if (!this.box) return;
    this.box.value = text;
    this._keep();
    this._fit();
    this.box.focus();
  }

  focusBox() {
    if (this.box) this.box.focus();
    return this.box !== null;
  }

  /** Whether something is typed that is not saved. */
  get dirty() {
    return this.box !== null && recall(this.draftKey, DRAFTS) !== null;
  }

  _button(option, i) {
    const key = i < KEYS ? String(i + 1) : null;
    return el(
      "button",
      {
        type: "button",
        class: "answer",
        "aria-keyshortcuts": key,
        "aria-pressed": "false",
        onclick: (event) => this._choose(i, event),
      },
      key ? el("kbd", { "aria-hidden": "true" }, key) : el("span", { class: "nokey", "aria-hidden": "true" }),
      el(
        "span",
        { class: "name", dir: "auto" },
        option.word,
        bare(option.word) === bare(option.label) ? null : el("small", {}, ` ${option.label}`),
        option.about ? el("small", { class: "about" }, option.about) : null,
      ),
      el("span", { class: "badge", dir: "auto" }),
    );
  }

  _several() {
    const key = (name) => el("kbd", { "aria-hidden": "true" }, name);
    return [
      el("button", { type: "button", class: "main-action", "aria-keyshortcuts": "Enter", onclick: () => this.confirm() }, "Save ", key("Enter")),
      el("button", { type: "button", class: "quiet", "aria-keyshortcuts": "0", onclick: () => this.none() }, key("0"), " None of these"),
    ];
  }

  _choose(i, event) {
    if (this.task.several) {
      const { label } = this.options[i];
      if (!this.on.delete(label)) this.on.add(label);
      this._mark(this.buttons[i], this.on.has(label));
      return;
    }
    if (this.atOnce) {
      this.given(this.options[i].label, event);
      return;
    }
    this.selected = i;
    this.buttons.forEach((button, at) => this._mark(button, at === i));
  }

  _mark(button, pressed) {
    button.setAttribute("aria-pressed", String(pressed));
  }

  // --- search ---

  _search() {
    this.found = el("p", { class: "small", role: "status" });
    return el("input", {
      type: "search",
      placeholder: "Search the labels  /",
      "aria-label": "Search the labels",
      "aria-keyshortcuts": "/",
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this._narrow(),
      onkeydown: (event) => this._searchKey(event),
    });
  }

  _matches() {
    const wanted = this.search ? this.search.value.trim().toLowerCase() : "";
    return this.options.map(({ label, word }) => [label, word].some((name) => name.toLowerCase().includes(wanted)));
  }

  _narrow() {
    if (!this.search) return;
    const matches = this._matches();
    this.at = this.search.value.trim() ? matches.indexOf(true) : -1;
    this.buttons.forEach((button, i) => show(button, matches[i]));
    const n = matches.filter(Boolean).length;
    this.found.textContent = this.search.value.trim() ? (n ? `${n} found; Enter takes the marked one` : "none found") : "";
    this._point();
  }

  _point() {
    this.buttons.forEach((button, i) => button.classList.toggle("pointed", i === this.at));
    if (this.at >= 0) this.buttons[this.at].scrollIntoView({ block: "nearest" });
  }

  _searchKey(event) {
    const matches = this._matches();
    const places = matches.flatMap((match, i) => (match ? [i] : []));
    if (event.key === "Enter" && !event.isComposing) {
      event.preventDefault();
      if (this.at >= 0 && !event.repeat) {
        const at = this.at;
        this.search.blur();
        if (this.task.several) this._choose(at);
        else this.given(this.options[at].label);
      }
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      const next = places.indexOf(this.at) + step;
      this.at = places[Math.min(Math.max(next, 0), places.length - 1)] ?? -1;
      this._point();
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.search.value = "";
      this._narrow();
      this.search.blur();
    }
  }

  // --- the box ---

  _box() {
    const number = this.task.numeric;
    this.problem = el("p", { class: "problem", role: "alert" });
    this.save = el("button", { type: "button", class: "main-action", onclick: () => this._submit() }, "Save ", el("kbd", { "aria-hidden": "true" }, "Enter"));
    return el("textarea", {
      rows: "2",
      maxlength: "10000",
      dir: "auto",
      "aria-label": number ? "Answer, ending in a number" : "Answer",
      placeholder: number ? "The number, or a worked answer" : "The answer",
      oninput: () => {
        this._keep();
        this._fit();
      },
      onkeydown: (event) => {
        if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
          event.preventDefault();
          if (!event.repeat) this._submit();
        } else if (event.key === "Escape") {
          event.preventDefault();
          this.box.blur();
        }
      },
    });
  }

  _submit() {
    const text = this.box.value.trim();
    let problem = "";
    if (!text) problem = "The box is empty. To leave the example without an answer, skip it.";
    else if (this.task.numeric && !/[0-9]/.test(text)) problem = "There is no number in it.";
    this.problem.textContent = problem;
    if (problem) {
      this.box.focus();
      return;
    }
    keep(this.draftKey, null, DRAFTS);
    this.given(text);
  }

  _keep() {
    keep(this.draftKey, this.box.value.trim() ? this.box.value : null, DRAFTS);
  }

  _fit() {
    this.box.style.height = "auto";
    if (this.box.scrollHeight) this.box.style.height = `${Math.min(this.box.scrollHeight + 2, 360)}px`;
  }
}
