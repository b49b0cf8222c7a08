// The example that is shown: its texts, what the model says of it, its marks.

import { labelName } from "./answers.js";
import { $, el, fields, fill, percent, show } from "./dom.js";

/** past: it was opened from the history. */
export function drawExample(example, past, task) {
  const given = example.answer?.kind === "skip" ? "skipped this" : `answered ${example.answer ? labelName(task, example.answer.text) : ""}`;
  const before = example.answer ? `You ${given}. Another answer replaces it.` : "From your history";
  const place = past ? before : example.second ? "A second opinion" : "Example";
  $("place").textContent = place;
  $("place").classList.toggle("hidden", place === "Example");
  $("example").classList.toggle("past", past);
  fill($("fields"), ...fields(example));
  $("prompt").textContent = example.prompt;
  $("whole").open = false;
  show($("whole"), example.fields.map(({ text }) => text.trim()).join("\n") !== example.prompt.trim()); // a bare template adds nothing
}

/** said: the model's answer, null where there is none to show. draft(): puts it into the box. */
export function drawSuggestion(said, shown, task, draft) {
  show($("model"), Boolean(said));
  $("model").setAttribute("aria-pressed", String(Boolean(said) && shown));
  show($("suggestion"), Boolean(said) && shown);
  if (!said || !shown) return;
  const choice = task.buttons;
  fill(
    $("suggestion"),
    el("span", { class: "small" }, said.guess ? `A guess of ${said.guess}: ` : choice ? "The model says " : "The model’s draft: "),
    el("strong", { dir: "auto" }, choice ? labelName(task, said.text) : said.text),
    said.probability === null ? null : el("span", { class: "small" }, ` ${percent(said.probability)} sure`),
    choice ? null : el("button", { type: "button", class: "quiet", "aria-keyshortcuts": "d", onclick: draft }, el("kbd", { "aria-hidden": "true" }, "d"), " Put it into the box"),
  );
}

export function drawMarks(example) {
  $("flag").setAttribute("aria-pressed", String(example.flagged));
  $("flag-text").textContent = example.flagged ? "Flagged" : "Flag";
  $("note").classList.toggle("on", Boolean(example.note));
  $("note-text").textContent = example.note ? "Note (1)" : "Note";
}
