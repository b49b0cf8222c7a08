// What was decided and is not yet known to be on the disk of the server.
//
// A decision gets an id and goes into the browser's own storage before it is sent. It leaves that storage only when
// the server has answered for it, and the server answers after it has flushed its disk. Whatever happens between,
// it is sent again, with growing pauses, also after a reload and by whichever tab is open. The id makes that
// harmless: the server keeps one decision of an id.

import { keep } from "./dom.js";
import { Away, Refused, post } from "./server.js";

const FIRST = 400; // milliseconds until the second try
const LAST = 10000; // and between the later ones
const MANY = 50; // decisions of one request
const LARGE = 40000; // bytes of one request, below the server's limit
const LOCAL = ["seq", "key", "excerpt", "annotator", "reason"]; // kept here, not sent

const size = (value) => new TextEncoder().encode(JSON.stringify(value)).length;

/** A random id, also where the page is not a "secure context" and has no crypto.randomUUID. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Outbox {
  /**
   * run: the run's identity. told(results, state): after every answer of the server. changed(): whenever something
   * was added or left. away(text or null): whether the server answers.
   */
  constructor(run, { told, changed, away }) {
    this.prefix = `guidestar:${run}:`;
    this.told = told;
    this.changed = changed;
    this.away = away;
    this.memory = new Map(); // where the browser gives us no storage
    this.pause = FIRST;
    this.timer = null;
    this.sending = false;
    this.last = 0;
    window.addEventListener("storage", (event) => {
      if (event.key === null || event.key.startsWith(this.prefix)) this.changed();
    });
    const again = () => {
      this.pause = FIRST;
      this.flush();
    };
    window.addEventListener("online", again);
    document.addEventListener("visibilitychange", () => document.hidden || again());
  }

  /** Keep a decision and send it. Returns it with its id. */
  add(decision) {
    const waiting = this.waiting();
    const newest = waiting.length ? waiting[waiting.length - 1].seq : 0;
    this.last = Math.max(Date.now(), this.last + 1, newest + 1); // in order, whatever the clock does
    const kept = { ...decision, decision: newId(), seq: this.last };
    if (kept.text !== undefined) kept.text = wellFormed(kept.text);
    kept.key = this._key(kept.annotator, "out", kept);
    this._put(kept.key, kept);
    this.changed();
    this.flush();
    return kept;
  }

  /** All that waits, of every annotator of this run in this browser, in the order of deciding. */
  waiting() {
    return this._all("out");
  }

  /** What the server would not have. It stays until it is dismissed. */
  refused() {
    return this._all("refused");
  }

  dismiss() {
    for (const decision of this.refused()) this._drop(decision.key);
    this.changed();
  }

  /** False where decisions live only as long as this page. */
  get durable() {
    return this.memory.size === 0;
  }

  /** Send all that waits, one request after the other; one tab at a time. */
  async flush() {
    if (this.sending) return;
    this.sending = true;
    clearTimeout(this.timer);
    try {
      const work = () => this._send();
      await (navigator.locks ? navigator.locks.request(`${this.prefix}send`, work) : work());
      this.pause = FIRST;
      this.away(null);
    } catch (error) {
      this.away(error.message);
      this.timer = setTimeout(() => this.flush(), this.pause * (0.75 + Math.random() / 2));
      this.pause = Math.min(this.pause * 2, LAST);
    } finally {
      this.sending = false;
    }
    if (this.timer === null && this.waiting().length) this.flush();
  }

  async _send() {
    this.timer = null;
    let alone = false; // after a refusal of several at once, to find the one that is at fault
    for (;;) {
      const batch = this._batch(alone ? 1 : MANY);
      if (!batch.length) return;
      const body = {
        annotator: batch[0].annotator,
        decisions: batch.map((one) => Object.fromEntries(Object.entries(one).filter(([name]) => !LOCAL.includes(name)))),
      };
      let reply;
      try {
        reply = await post("save", body);
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        if (error.status !== 422 && error.status !== 413) throw new Away(error.message); // the link, not the decision
        if (batch.length > 1) {
          alone = true;
          continue;
        }
        reply = { results: [{ decision: batch[0].decision, refused: error.message }], state: null };
      }
      const results = new Map(reply.results.map((result) => [result.decision, result]));
      for (const one of batch) {
        const result = results.get(one.decision);
        if (!result) throw new Away("The server's answer is incomplete.");
        if (result.refused) {
          const key = this._key(one.annotator, "refused", one);
          this._put(key, { ...one, key, reason: result.refused });
        }
        this._drop(one.key);
      }
      this.told(batch.map((one) => ({ ...one, refused: results.get(one.decision).refused || "" })), reply.state);
      this.changed();
    }
  }

  /** The oldest ones that fit one request: of one annotator, not too many, not too large. */
  _batch(most) {
    const batch = [];
    let bytes = 0;
    for (const one of this.waiting()) {
      bytes += size(one);
      if (batch.length && (one.annotator !== batch[0].annotator || bytes > LARGE || batch.length >= most)) break;
      batch.push(one);
    }
    return batch;
  }

  _key(annotator, kind, one) {
    const place = String(one.seq).padStart(16, "0");
    return `${this.prefix}${encodeURIComponent(annotator)}:${kind}:${place}:${one.decision}`;
  }

  _all(kind) {
    const found = [...this.memory.entries()];
    try {
      for (let i = 0; i < localStorage.length; i++) {
        const key = localStorage.key(i);
        if (key.startsWith(this.prefix)) found.push([key, parsed(localStorage.getItem(key))]);
      }
    } catch {
      // no storage: what there is lies in memory
    }
    return found
      .filter(([key, one]) => key.slice(this.prefix.length).split(":")[1] === kind && one && one.decision)
      .map(([, one]) => one)
      .sort((a, b) => a.seq - b.seq || (a.decision < b.decision ? -1 : 1));
  }

  _put(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
    } catch {
      this.memory.set(key, value);
    }
  }

  _drop(key) {
    this.memory.delete(key);
    keep(key, null);
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Without halves of characters, which no server can store. */
function wellFormed(text) {
  if (text.toWellFormed) return text.toWellFormed();
  return text.replace(/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/g, "\uFFFD");
}
