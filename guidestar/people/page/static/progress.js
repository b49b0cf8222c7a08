// Where the run stands, and what stands in the way.

import { isAnswer } from "./decisions.js";
import { $, dialogOpen, el, fill, plural, show } from "./dom.js";

/** state: from the server. waiting: decisions that it does not know of yet. */
export function drawProgress(state, waiting) {
  const coming = new Set(waiting.filter(isAnswer).map((one) => one.id)).size;
  const done = Math.min(state.done + coming, state.asked);
  show($("progress"), true);
  $("round-name").textContent = state.round === 0 ? "Round 0, the warm start" : `Round ${state.round} of ${state.last}`;
  $("round-count").textContent = state.asked ? `${done} / ${state.asked}` : "";
  $("round-aside").textContent = state.asked && state.aside ? `${state.aside} set aside to test on` : "";
  $("round-bar").max = Math.max(state.budget, 1);
  $("round-bar").value = state.labels;
  $("labels").textContent = `${state.labels} of ${state.budget} labels`;
  $("pace").textContent = state.pace === null ? "" : `${state.pace.toFixed(state.pace < 10 ? 1 : 0)} a minute`;
  $("accuracy").textContent = state.accuracy;
  show($("training"), state.training !== "");
  $("training-text").textContent = state.training;
  const failed = state.trainer?.kind === "failed";
  show($("failed"), failed && $("idle").hidden);
  if (failed) $("failed-text").textContent = failure(state.trainer);
}

/** Why the training failed, and where its log is. */
function failure(trainer) {
  return trainer ? `${trainer.why || "It ended without a word."}\nLog: ${trainer.log}` : "";
}

/** Why no example is shown. changeable: there are answers that could be changed. */
export function drawIdle({ kind, text, more = [], command }, trainer, changeable) {
  const titles = {
    begin: "Not yet", training: "Training", finished: "Finished", failed: "The training failed", held: "Wait a moment",
    complete: "Round complete", busy: "Round complete", idle: "Round complete",
  };
  const said = { failed: failure(trainer), training: trainer?.line, begin: trainer?.line };
  const detail = command || said[kind] || "";
  const title = titles[kind] || "";
  const lines = [text, ...more].join("\n");
  if ($("idle").dataset.says !== lines || $("idle").hidden) {
    $("idle").dataset.says = lines; // unchanged, it is not read out again
    fill($("idle-lines"), ...more.map((line) => el("p", {}, line)));
    $("idle").classList.toggle("result", more.length > 0);
    $("idle-title").textContent = title;
    show($("idle-title"), title !== "");
    $("idle-text").textContent = text;
    show($("work"), false);
    show($("idle"), true);
    if (kind !== "wait" && !dialogOpen()) $("idle").focus({ preventScroll: true });
  }
  show($("idle-more"), changeable && kind !== "wait");
  $("idle-detail").textContent = detail;
  show($("idle-detail"), detail !== "");
  show($("idle-late"), kind === "finished");
  show($("retry"), kind === "failed");
}

/** What is not saved yet; and, above everything else, what is wrong: no connection, answers that wait or were refused. */
export function notices(problem, outbox, look) {
  const waiting = outbox.waiting().length;
  $("saving").textContent = waiting ? `${waiting} not saved yet` : "";
  const refused = outbox.refused();
  const found = [];
  if (problem !== null) {
    const kept = waiting ? ` ${plural(waiting, "answer is", "answers are")} kept in this browser and will be sent.` : " You can go on.";
    found.push(el("p", { class: "notice" }, el("strong", {}, "Not connected. "), problem, kept));
  }
  if (waiting && !outbox.durable) {
    found.push(el("p", { class: "notice" }, "This browser gives the page no storage. Do not close it before everything is saved."));
  }
  if (refused.length) {
    found.push(
      el(
        "div",
        { class: "notice" },
        el("p", {}, el("strong", {}, `${plural(refused.length, "answer was", "answers were")} refused.`)),
        el(
          "ul",
          {},
          ...refused.map((one) =>
            el("li", {}, `${one.reason} `, el("q", { dir: "auto" }, one.text || one.kind), " ", el("button", { type: "button", class: "quiet", onclick: () => look(one.id) }, "Open the example")),
          ),
        ),
        el("button", { type: "button", class: "quiet", onclick: () => outbox.dismiss() }, "Dismiss"),
      ),
    );
  }
  const text = found.map((one) => one.textContent).join("\n");
  if ($("notices").textContent !== text) fill($("notices"), ...found); // unchanged, it is not read out again
}
