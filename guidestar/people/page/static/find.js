// Find texts of the pool, by words or by likeness, and give a group of them one answer after a look at each.

import { Answers, labelName } from "./answers.js";
import { $, el, fill, plural, show, typing } from "./dom.js";
import { newId } from "./outbox.js";
import { post } from "./server.js";

const FIRST = 120000; // milliseconds that the first look at a large pool may take

export class Finder {
  /** changed(ids): these have another answer now. */
  constructor(annotator, task, changed) {
    this.annotator = annotator;
    this.changed = changed;
    this.rows = []; // {id, same, box, said}
    this.setTask(task);
    $("find-form").onsubmit = (event) => {
      event.preventDefault();
      this.search({ words: $("find-words").value });
    };
    $("find-more").onclick = () => this.search(this.asked, this.rows.length);
    $("find-all").onclick = () => this.tick(() => true);
    $("find-none").onclick = () => this.tick(() => false);
    $("find-undo").onclick = () => this.undo(this.last).catch((error) => this.say(error.message));
    $("find-close").onclick = () => $("find-dialog").close();
    $("find-dialog").onkeydown = (event) => {
      if (typing(event.target) || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
      if (/^[1-9]$/.test(event.key) && this.answers.press(Number(event.key))) event.preventDefault();
    };
  }

  setTask(task) {
    this.task = task;
    if ($("find-dialog").open) this.build();
  }

  build() {
    this.answers = new Answers($("find-answers"), this.task, (text) => this.give(text));
  }

  /** example: to find texts like it; null to ask for words. */
  open(example) {
    this.fresh(example ? "" : $("find-words").value);
    $("find-dialog").showModal();
    this.build();
    if (example) this.search({ like: example.id });
    else $("find-words").focus();
  }

  fresh(words) {
    $("find-words").value = words;
    this.last = null;
    this.pending = null;
    show($("find-undo"), false);
    this.rows = [];
    this.draw(false);
    this.say("");
  }

  async search(asked, skip = 0) {
    this.asked = asked;
    if (!skip) this.fresh(asked.like ? "" : asked.words);
    this.say("Looking …");
    try {
      const found = await post("find", { annotator: this.annotator, ...asked, skip }, FIRST);
      if (this.asked !== asked) return;
      this.rows.push(...found.examples.map((one) => this.row(one, found.said[one.id])));
      this.draw(found.more);
      this.say(this.rows.length ? (asked.like ? "The most alike first." : "") : "None found.");
    } catch (error) {
      this.say(error.message);
    }
  }

  row(one, said) {
    const box = el("input", { type: "checkbox", disabled: Boolean(said), onchange: () => this.count() });
    box.checked = one.same && !said;
    const given = el("span", { class: "small" }, this.badge(one, said));
    const like = el("button", { type: "button", class: "quiet", onclick: () => this.search({ like: one.id }) }, "Like this");
    const texts = one.fields.map(({ text }) => el("span", { class: "found-text", dir: "auto" }, text));
    return { id: one.id, same: one.same, box, given, line: el("li", {}, el("label", {}, box, el("span", {}, ...texts, given)), like) };
  }

  badge(one, said) {
    if (said) return said.kind === "skip" ? "skipped" : `has ${labelName(this.task, said.text)}`;
    return one.same ? "nearly the same" : "";
  }

  draw(more) {
    fill($("find-list"), ...this.rows.map((row) => row.line));
    show($("find-more"), more);
    show($("find-act"), this.rows.length > 0);
    this.count();
  }

  tick(wanted) {
    for (const row of this.rows) row.box.checked = !row.box.disabled && wanted(row);
    this.count();
  }

  count() {
    const n = this.ticked().length;
    $("find-count").textContent = n ? `The answer for ${plural(n, "ticked text", "ticked texts")}:` : "Tick the texts that have one answer.";
  }

  ticked() {
    return this.rows.filter((row) => row.box.checked && !row.box.disabled);
  }

  /** One answer for all that are ticked. Sent again after a failure, it is the same group and stored once. */
  async give(text) {
    const ids = this.ticked().map((row) => row.id);
    if (!ids.length) {
      this.say("Tick some texts first.");
      return;
    }
    const body = { annotator: this.annotator, ids, text, how: this.asked.like ? "like" : "words" };
    const same = JSON.stringify(body);
    if (this.pending?.same !== same) this.pending = { same, group: newId() };
    const { group } = this.pending;
    try {
      const saved = (await post("group", { ...body, group })).ids;
      for (const row of this.ticked().filter((one) => saved.includes(one.id))) {
        row.box.checked = false;
        row.box.disabled = true;
        row.given.textContent = `has ${labelName(this.task, text)}`;
      }
      this.answers.set({});
      this.count();
      this.last = group;
      show($("find-undo"), saved.length > 0);
      const missed = ids.length - saved.length;
      this.say(`Saved: ${plural(saved.length, "text", "texts")} ${labelName(this.task, text)}${missed ? `; ${missed} had an answer already` : ""}`);
      this.changed(saved);
    } catch (error) {
      this.say(error.message);
    }
  }

  /** Take back a whole group. */
  async undo(group) {
    const { ids } = await post("ungroup", { annotator: this.annotator, group });
    for (const row of this.rows.filter((one) => ids.includes(one.id))) {
      row.box.disabled = false;
      row.given.textContent = this.badge(row, null);
    }
    this.pending = null;
    show($("find-undo"), false);
    this.count();
    this.say(`Taken back: ${plural(ids.length, "text", "texts")}.`);
    this.changed(ids);
  }

  say(text) {
    $("find-said").textContent = text;
  }
}
