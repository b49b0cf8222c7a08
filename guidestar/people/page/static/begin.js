// Before the first question: why there is none yet, and what only a person knows.

import { $, el, fill, show } from "./dom.js";
import { post } from "./server.js";

export function notBegun(state) {
  return state.trainer ? state.text : `${state.text} guidestar run begins it and chooses what to ask; this page then goes on by itself.`;
}

/** Ask for what only a person knows before a run can begin; done when the server has it. */
export function setup({ notes, config, several }, annotator) {
  fill($("setup-notes"), ...notes.map((note) => el("li", { dir: "auto" }, note)));
  $("setup-config").textContent = config;
  $("labels-several").checked = several;
  show($("idle"), false);
  show($("ask-labels"), true);
  $("labels-box").focus();
  return new Promise((resolve) => {
    $("ask-labels").onsubmit = async (event) => {
      event.preventDefault();
      const labels = $("labels-box").value.split(/[=][^]*[\n;]/.test($("labels-box").value) ? /[\n;]/ : /[\n;,]/).map((label) => label.trim()).filter(Boolean);
      try {
        if (labels.length < 2) throw new Error("Give at least two labels.");
        await post("labels", { annotator, labels, several: $("labels-several").checked });
        show($("ask-labels"), false);
        resolve();
      } catch (error) {
        $("labels-error").textContent = error.message;
      }
    };
  });
}
