// The review page: disagreements, likely label errors and flagged examples, one at a time, and a verdict for each.

import { Answers, labelName, partsOf } from "./answers.js";
import { $, dialogOpen, el, fields, fill, helpDialog, percent, show, typing } from "./dom.js";
import { agreement } from "./agreement.js";
import { Outbox } from "./outbox.js";
import { notices } from "./progress.js";
import { post } from "./server.js";
import { whoever } from "./who.js";

const AGAIN = 3000; // milliseconds until the next try while the server is away or the run has not begun
const run = document.body.dataset.run;

const LISTS = {
  disagreements: ["Disagreements", "Annotators gave different answers. A verdict counts above all of them.", "Nobody disagrees about anything."],
  suspects: [
    "Likely label errors",
    "The model, tuned on the other labels, is almost sure of another answer. It can be wrong: read the text, then keep or change the label.",
    "The model contradicts no label strongly. It has something to say once it is trained.",
  ],
  flagged: ["Flagged", "Somebody wanted a second look at these.", "Nothing is flagged."],
  settled: ["Settled", "Verdicts that were given. Another one replaces the earlier.", "No verdict was given yet."],
};

class ReviewPage {
  constructor(annotator) {
    this.annotator = annotator;
    this.list = "disagreements";
    this.at = 0;
    this.data = null;
    this.problem = null;
    this.outbox = new Outbox(run, {
      told: (results) => this.told(results),
      changed: () => this.changed(),
      away: (text) => this.away(text),
    });
  }

  async start() {
    const help = helpDialog();
    while (!(await this.load())) await new Promise((resolve) => setTimeout(resolve, AGAIN));
    this.list = Object.keys(LISTS).find((name) => this.data.lists[name].count) || "disagreements";
    this.task = this.data.state.task;
    this.answers = new Answers($("answers"), this.task, (text) => this.verdict(text));
    show($("review"), true);
    $("keep").onclick = () => this.keep();
    $("flag").onclick = () => this.flag();
    $("back").onclick = () => this.step(-1);
    $("forth").onclick = () => this.step(1);
    document.addEventListener("keydown", (event) => this.key(event, help));
    this.outbox.flush();
    this.render();
  }

  async load() {
    try {
      this.data = await post("review", { annotator: this.annotator });
      this.away(null);
      return true;
    } catch (error) {
      this.away(error.message);
      return false;
    }
  }

  get cards() {
    return this.data.lists[this.list].cards;
  }

  get card() {
    return this.cards[this.at] || null;
  }

  key(event, help) {
    if (event.defaultPrevented || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (dialogOpen() || typing(event.target)) return;
    const keys = {
      k: () => this.keep(),
      f: () => this.flag(),
      "/": () => this.answers.focusSearch() || this.answers.focusBox(),
      0: () => this.answers.none(),
      "?": help,
      ArrowLeft: () => this.step(-1),
      ArrowRight: () => this.step(1),
    };
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (/^[1-9]$/.test(name)) {
      if (!this.card || !this.answers.press(Number(name))) return;
    } else if (name === "Enter" && this.task.several) {
      if (event.target.closest?.("button:not(.answer), a, summary") || !this.answers.confirm()) return;
    } else if (Object.hasOwn(keys, name)) keys[name]();
    else return;
    event.preventDefault();
  }

  // --- deciding ---

  verdict(text) {
    const card = this.card;
    if (!card) return;
    this.outbox.add({ annotator: this.annotator, id: card.id, kind: "verdict", text, excerpt: "" });
    card.verdict = { annotator: this.annotator, kind: "label", text };
    card.counts = { kind: "label", text };
    for (const [name, list] of Object.entries(this.data.lists)) {
      const at = list.cards.findIndex((one) => one.id === card.id);
      if (at < 0) continue;
      list.cards.splice(at, 1);
      list.count -= 1;
      if (name === this.list) this.at = Math.min(at, Math.max(list.cards.length - 1, 0));
    }
    const settled = this.data.lists.settled;
    settled.cards.unshift(card);
    settled.count += 1;
    if (this.list === "settled") this.at = 0;
    this.render();
  }

  /** Whether there is an answer to keep: not where annotators differ, and not where a verdict was given. */
  get keeps() {
    return this.card?.counts?.kind === "label" && (this.list === "suspects" || this.list === "flagged");
  }

  keep() {
    if (this.keeps) this.verdict(this.card.counts.text);
  }

  flag() {
    if (!this.card) return;
    const mine = this.card.flags.includes(this.annotator);
    this.card.flags = mine ? this.card.flags.filter((name) => name !== this.annotator) : [...this.card.flags, this.annotator];
    this.outbox.add({ annotator: this.annotator, id: this.card.id, kind: "flag", on: !mine, excerpt: "" });
    this.render();
  }

  step(by) {
    const at = this.at + by;
    if (at < 0 || at >= this.cards.length) return;
    this.at = at;
    this.render();
  }

  choose(name) {
    this.list = name;
    this.at = 0;
    this.render();
  }

  // --- showing ---

  render() {
    const { lists } = this.data;
    fill(
      $("lists"),
      ...Object.entries(LISTS).map(([name, [title]]) =>
        el(
          "button",
          { type: "button", "aria-pressed": String(name === this.list), onclick: () => this.choose(name) },
          `${title} `,
          el("span", { class: "count" }, String(lists[name].count)),
        ),
      ),
    );
    const [, text, none] = LISTS[this.list];
    const { count, cards } = lists[this.list];
    $("list-text").textContent = cards.length < count ? `${text} The first ${cards.length} of ${count} are here; the others follow.` : text;
    show($("list-text"), count > 0);
    show($("work"), this.card !== null);
    show($("empty"), this.card === null);
    $("empty-text").textContent = count ? "Reload the page for the others." : none;
    show($("agreement"), true);
    fill($("agreement-body"), ...agreement(this.data.agreement, this.data.state, (label) => labelName(this.task, label)));
    if (this.card) this.show(this.card);
  }

  show(card) {
    $("place").textContent = `${this.at + 1} of ${this.cards.length}`;
    fill($("fields"), ...fields(card));
    this.doubt(card);
    fill($("said"), ...said(card, (label) => labelName(this.task, label)));
    const badges = {};
    for (const one of card.answers) {
      if (one.kind !== "label") continue;
      for (const label of partsOf(this.task, one.text)) badges[label] = [badges[label], one.annotator].filter(Boolean).join(", ");
    }
    if (!this.task.buttons) {
      const texts = [...new Set([...card.answers.filter((one) => one.kind === "label"), ...(card.verdict ? [card.verdict] : [])].map((one) => one.text))];
      this.answers.build(texts.map((text) => ({ label: text, word: text })), true);
    }
    const marked = this.list === "disagreements" ? card.verdict : card.counts; // nobody's answer is the right one yet
    this.answers.set({ answer: marked, badges, draftKey: null });
    show($("keep"), this.keeps);
    if (this.keeps) fill($("keep"), el("kbd", { "aria-hidden": "true" }, "k"), el("span", { dir: "auto" }, `Keep ${labelName(this.task, card.counts.text)}`));
    const flagged = card.flags.includes(this.annotator);
    $("flag").setAttribute("aria-pressed", String(flagged));
    $("flag-text").textContent = flagged ? "Flagged" : "Flag";
    $("back").disabled = this.at === 0;
    $("forth").disabled = this.at >= this.cards.length - 1;
    if (!dialogOpen()) $("example").focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }

  doubt({ doubt, counts }) {
    const shown = doubt !== null && this.list === "suspects"; // nowhere else does it lead a verdict
    show($("doubt"), shown);
    if (!shown) return;
    const name = (label) => el("strong", { dir: "auto" }, labelName(this.task, label));
    fill(
      $("doubt"), "The model gives ", name(doubt.other), ` ${percent(doubt.p_other)}, and `, name(counts.text), ` ${percent(doubt.p_given)}.`,
    );
  }

  // --- the server ---

  told(results) {
    const last = results.filter((one) => !one.refused).pop();
    if (last) $("status").textContent = last.kind === "verdict" ? `Saved: ${labelName(this.task, last.text)}` : "Saved";
  }

  changed() {
    notices(this.problem, this.outbox, () => location.assign("/"));
  }

  away(text) {
    if (this.problem === text) return;
    this.problem = text;
    this.changed();
  }
}

/** Who said what about an example. */
function said(card, nameOf) {
  const rows = card.answers.map((one) => [one.annotator, one.kind === "label" ? nameOf(one.text) : `skipped${one.text ? `: ${one.text}` : ""}`]);
  if (card.verdict) rows.push([`${card.verdict.annotator}, verdict`, nameOf(card.verdict.text)]);
  for (const note of card.notes) rows.push([`${note.annotator}, note`, note.text]);
  if (card.flags.length) rows.push(["flagged by", card.flags.join(", ")]);
  return rows.map(([who, text]) => el("dl", { class: "said" }, el("dt", { dir: "auto" }, who), el("dd", {}, el("p", { dir: "auto" }, text))));
}

const page = new ReviewPage(await whoever(run));
await page.start();
