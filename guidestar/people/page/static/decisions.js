// What was decided about an example, and what becomes of it.

import { labelName } from "./answers.js";

export const isAnswer = (decision) => decision.kind === "label" || decision.kind === "skip";

/** Lay a decision that is on its way over what the server says. */
export function lay(decision, example) {
  if (isAnswer(decision)) example.answer = { kind: decision.kind, text: decision.text || "" };
  if (decision.kind === "undo") example.answer = null;
  if (decision.kind === "flag") example.flagged = decision.on;
  if (decision.kind === "note") example.note = decision.text;
}

export function savedText(decision, task) {
  const what = {
    label: () => `Saved: ${labelName(task, decision.text)}`,
    skip: () => "Saved: skipped",
    undo: () => "Saved: taken back",
    flag: () => (decision.on ? "Saved: flagged" : "Saved: flag removed"),
    note: () => "Saved: note",
  }[decision.kind];
  return what ? what() : "Saved";
}
