// The labelling page: one example at a time, the next ones already here.

import { Answers, DRAFTS, labelName } from "./answers.js";
import { notBegun, setup } from "./begin.js";
import { controls } from "./controls.js";
import { isAnswer, lay, savedText } from "./decisions.js";
import { $, dialogOpen, keep, recall, show } from "./dom.js";
import { drawExample, drawMarks, drawSuggestion } from "./example.js";
import { Finder } from "./find.js";
import { History } from "./history.js";
import { Outbox } from "./outbox.js";
import { drawIdle, drawProgress, notices } from "./progress.js";
import { Away, post } from "./server.js";
import { whoever } from "./who.js";

const AHEAD = 4; // examples that the page holds, the one shown included
const BUSY = 15000; // milliseconds between two looks at the run while there is something to do
const IDLE = 500; // and while there is nothing
const SOON = 300; // and while the run begins
const AWAY = 120000; // without a key, a touch or a move of the mouse: nobody is there
const TWICE = 400; // milliseconds in which a second click is half of a double click

const run = document.body.dataset.run;

class LabelPage {
  constructor(annotator) {
    this.annotator = annotator;
    this.state = null; // what the server said last
    this.next = []; // examples to come
    this.current = null; // the one shown
    this.past = false; // whether it was opened from the history
    this.cache = new Map();
    this.seen = new Set(); // examples whose suggestion was shown
    this.showModel = false;
    this.shownAt = 0;
    this.moved = performance.now(); // when somebody last did something here
    this.asking = false;
    this.timer = null;
    this.tabs = "BroadcastChannel" in window ? new BroadcastChannel(`guidestar:${run}:${annotator}`) : null;
    if (this.tabs) this.tabs.onmessage = ({ data }) => this.elsewhere(data);
    this.outbox = new Outbox(run, {
      told: (results, state) => this.told(results, state),
      changed: () => this.changed(),
      away: (text) => this.away(text),
    });
  }

  // --- beginning ---

  /** Wait for the run, then go to work. */
  async start() {
    $("retry").onclick = () => this.retry();
    for (;;) {
      try {
        const state = await post("state", { annotator: this.annotator });
        this.away(null);
        if (state.ready) {
          this.begin(state);
          return;
        }
        if (state.setup) await setup(state.setup, this.annotator);
        else this.idle({ kind: state.trainer?.kind === "failed" ? "failed" : "begin", text: notBegun(state) }, state.trainer);
      } catch (error) {
        this.away(error.message);
      }
      await new Promise((resolve) => setTimeout(resolve, SOON));
    }
  }

  async retry() {
    try {
      await post("retry", { annotator: this.annotator });
      this.fetch();
    } catch (error) {
      this.away(error.message);
    }
  }

  begin(state) {
    this.setTask(state.task);
    this.showModel = state.suggestions === "shown";
    this.history = new History(this.annotator, {
      open: (id) => this.look(id),
      nameOf: (label) => labelName(this.task, label),
      waiting: () => this.mine(),
    });
    this.history.load().catch(() => {});
    this.finder = new Finder(this.annotator, this.task, (ids) => this.grouped(ids));
    this.take(state);
    controls(this);
    this.outbox.flush();
    this.fetch();
  }

  setTask(task) {
    this.task = task;
    this.answers = new Answers($("answers"), task, (text, event) => this.answer({ kind: "label", text }, event));
    this.answers.atOnce = recall("guidestar:at-once") !== "no";
    this.finder?.setTask(task);
    show($("labels-open"), task.kind === "choice");
  }

  // --- what the annotator does ---

  skip(event) {
    this.answer({ kind: "skip", text: "" }, event);
  }

  /** Record an answer to the example shown, and go on at once. */
  answer(given, event) {
    if (!this.current || this.doubled(event)) return;
    const example = this.current;
    example.answer = given;
    keep(this.draftKey(example), null, DRAFTS);
    this.decide(example, { ...given, seen: this.seen.has(example.id) });
    this.tabs?.postMessage({ answered: example.id });
    this.advance();
  }

  undo() {
    const id = this.past && this.current?.answer ? this.current.id : this.history.newest();
    if (id === null) {
      this.say("There is nothing to take back.");
      return;
    }
    const line = this.history.lines.find((one) => one.id === id);
    if (line?.group && !this.past) {
      this.finder.undo(line.group).then(() => this.say("Taken back: the whole group."), (error) => this.say(error.message));
      return;
    }
    const known = this.cache.get(id);
    this.setAside();
    if (known) {
      known.answer = null;
      this.decide(known, { kind: "undo" });
      this.display(known, false);
      this.say("Taken back. Answer it again.");
    } else {
      this.decide({ id, answer: null, flagged: line?.flagged, note: "", excerpt: line?.text || "" }, { kind: "undo" });
      this.say("Taken back.");
      this.get(id).then((example) => {
        if (!example) return;
        example.answer = null;
        this.setAside();
        this.display(example, false);
      });
    }
  }

  flag() {
    if (!this.current) return;
    this.current.flagged = !this.current.flagged;
    this.decide(this.current, { kind: "flag", on: this.current.flagged });
    drawMarks(this.current);
  }

  note() {
    if (!this.current) return;
    $("note-box").value = this.current.note;
    $("note-dialog").showModal();
    $("note-box").focus();
  }

  noted() {
    const text = $("note-box").value.trim();
    if (!this.current || text === this.current.note) return;
    this.current.note = text;
    this.decide(this.current, { kind: "note", text });
    drawMarks(this.current);
  }

  /** Show or hide what the model says. Blind by default: it then hides again with the next example. */
  model() {
    if (!this.state || this.state.suggestions === "off" || !this.current?.suggestion) return;
    this.showModel = !this.showModel;
    this.suggestion();
  }

  draft() {
    if (!this.current?.suggestion || this.task.buttons) return;
    this.showModel = true;
    this.suggestion();
    this.answers.insert(this.current.suggestion.text);
  }

  decide(example, what) {
    this.history.put(example);
    this.outbox.add({ annotator: this.annotator, id: example.id, excerpt: example.excerpt, ...what });
  }

  /** Whether a click is the second half of a double click, which met the next example in the same place. */
  doubled(event) {
    return Boolean(event && event.detail > 1 && performance.now() - this.shownAt < TWICE);
  }

  // --- moving ---

  step(into) {
    const id = this.history.neighbour(this.past ? this.current?.id : null, into);
    if (id !== null) this.look(id);
    else if (this.past) this.advance();
  }

  /** Open an example from the history. */
  async look(id) {
    const example = this.cache.get(id) || (await this.get(id));
    if (!example) return;
    this.setAside();
    const at = this.next.findIndex((one) => one.id === id);
    if (at >= 0) this.next.splice(at, 1); // flagged or noted, and still to be answered
    this.display(example, example.answer !== null || at < 0);
  }

  /** The example shown goes back to the front of those to come, if it still wants an answer. */
  setAside() {
    if (this.current && !this.past && this.current.answer === null) this.next.unshift(this.current);
    this.current = null;
  }

  async get(id) {
    try {
      const example = await post("example", { annotator: this.annotator, id });
      for (const one of this.mine().filter((waiting) => waiting.id === id)) lay(one, example);
      this.cache.set(id, example);
      return example;
    } catch (error) {
      this.say(error instanceof Away ? "This example comes when the server is back." : "This example is not there any more.");
      return null;
    }
  }

  /** Show the next example. */
  advance() {
    this.current = null;
    this.past = false;
    const example = this.next.shift();
    if (example) this.display(example, false);
    else {
      show($("work"), false);
      this.idle({ kind: "wait", text: "Looking for the next example …" }, this.state?.trainer);
    }
    this.fetch();
  }

  display(example, past) {
    this.current = example;
    this.past = past;
    this.cache.set(example.id, example);
    const guess = Boolean(example.suggestion?.guess); // of a model that has learned nothing yet
    if (guess || this.state.suggestions === "hidden") this.showModel = false;
    else if (this.guessed) this.showModel = true;
    this.guessed = guess;
    drawExample(example, past, this.task);
    this.answers.set({ answer: example.answer, draftKey: this.draftKey(example) });
    this.suggestion();
    drawMarks(this.current);
    show($("idle"), false);
    show($("work"), true);
    this.history.mark(past ? example.id : null);
    this.shownAt = performance.now();
    if (!dialogOpen()) {
      if (this.task.buttons || past) $("example").focus({ preventScroll: true });
      else this.answers.focusBox();
    }
    window.scrollTo(0, 0);
  }

  suggestion() {
    const said = this.state.suggestions === "off" ? null : this.current?.suggestion;
    if (said && this.showModel) this.seen.add(this.current.id);
    drawSuggestion(said, this.showModel, this.task, () => this.draft());
  }

  draftKey(example) {
    return `guidestar:${run}:draft:${this.annotator}:${example.id}`;
  }

  // --- the server ---

  /** Keep some examples ahead, and learn how the run stands. */
  async fetch() {
    clearTimeout(this.timer);
    if (this.asking) {
      this.again = true;
      return;
    }
    this.asking = true;
    try {
      const held = [...(this.current && !this.past ? [this.current] : []), ...this.next].map((one) => one.id);
      const have = [...new Set(this.mine().filter(isAnswer).map((one) => one.id))].slice(-500);
      const want = Math.max(AHEAD - held.length, 0);
      const reply = await post("next", { annotator: this.annotator, want, hold: held.slice(0, 20), have, active: performance.now() - this.moved < AWAY });
      this.away(null);
      if (reply.state.ready) this.take(reply.state);
      this.arrive(reply);
    } catch (error) {
      this.away(error.message);
    } finally {
      this.asking = false;
    }
    if (this.again) {
      this.again = false;
      this.fetch();
      return;
    }
    this.timer = setTimeout(() => this.fetch(), this.current ? BUSY : IDLE);
  }

  arrive({ examples, lost, suggested, idle, state }) {
    this.next = this.next.filter((one) => !lost.includes(one.id));
    for (const one of this.next) one.suggestion ??= suggested[one.id] || null; // not under the eyes of who reads the current one
    const answered = new Set(this.mine().filter(isAnswer).map((one) => one.id));
    const known = new Set([this.current?.id, ...this.next.map((one) => one.id)]);
    for (const found of examples) {
      if (known.has(found.id) || answered.has(found.id)) continue;
      this.next.push(found);
    }
    if (this.current) return;
    if (this.next.length) this.advance();
    else if (idle) this.idle(idle, state.trainer);
  }

  /** What the server said about the run; what does not change it says once. */
  take(state) {
    if (state.task) this.version = state.version;
    else if (state.version !== this.version) this.renew();
    this.state = { ...this.state, ...state };
    drawProgress(this.state, this.mine());
  }

  /** The labels have changed: show the new ones, and what was said in them. */
  async renew() {
    if (this.renewing) return;
    this.renewing = true;
    try {
      const state = await post("state", { annotator: this.annotator });
      if (!state.ready) return;
      this.setTask(state.task);
      this.take(state);
      this.cache.clear();
      this.history.load().catch(() => {});
      const { current, past } = this;
      const one = current && (await this.get(current.id));
      if (one && this.current === current) this.display(one, past);
      this.say("The labels have changed.");
    } catch (error) {
      this.away(error.message);
    } finally {
      this.renewing = false;
    }
  }

  /** Decisions are on the disk of the server, or refused. */
  told(results, state) {
    const mine = results.filter((one) => one.annotator === this.annotator && !one.refused);
    if (state?.ready) this.take(state);
    const last = mine[mine.length - 1];
    if (last) this.say(savedText(last, this.task));
  }

  changed() {
    this.history?.render();
    if (this.state) drawProgress(this.state, this.mine());
    this.warn();
  }

  away(text) {
    if (this.problem === text) return;
    const back = this.problem && text === null;
    this.problem = text;
    this.warn();
    if (back) {
      this.outbox.flush();
      this.fetch();
    }
  }

  warn() {
    notices(this.problem, this.outbox, (id) => this.look(id));
  }

  /** Another tab of this annotator has answered an example. */
  elsewhere({ answered }) {
    this.cache.delete(answered);
    this.next = this.next.filter((one) => one.id !== answered);
    if (this.current?.id === answered && !this.past && !this.answers.dirty) this.advance();
    if (this.history?.only === "all") this.history.load().catch(() => {});
  }

  /** A group of examples was answered, or its answer was taken back. */
  grouped(ids) {
    for (const id of ids) this.cache.delete(id);
    this.next = this.next.filter((one) => !ids.includes(one.id));
    this.history.load().catch(() => {});
    if (ids.includes(this.current?.id)) this.advance();
    else this.fetch();
  }

  mine() {
    return this.outbox.waiting().filter((one) => one.annotator === this.annotator);
  }

  idle(why, trainer) {
    drawIdle(why, trainer, Boolean(this.history) && this.history.newest() !== null);
  }

  say(text) {
    $("status").textContent = text;
  }
}

const page = new LabelPage(await whoever(run));
await page.start();
