// Who labels. A name and no account: it goes with every answer. Each tab has its own; a new tab begins with the last one.

import { $, keep, recall, show } from "./dom.js";

const NAME = /^[\p{L}\p{N}](?:[\p{L}\p{M}\p{N} ._@+-]{0,38}[\p{L}\p{M}\p{N}._@+-])?$/u;

/** The annotator's name: given on the command line, known from before, or asked for. */
export async function whoever(run) {
  const key = `guidestar:${run}:name`;
  const fixed = document.body.dataset.annotator;
  const known = (recall(key, "sessionStorage") || recall(key) || "").normalize("NFC");
  const name = fixed || (NAME.test(known) ? known : await asked());
  if (!fixed) remember(key, name);
  $("who").textContent = name;
  document.querySelector(".who").hidden = false;
  show($("rename"), !fixed);
  $("rename").addEventListener("click", async () => {
    document.body.classList.add("asking");
    remember(key, await asked(name));
    location.reload();
  });
  return name;
}

function remember(key, name) {
  for (const where of ["sessionStorage", "localStorage"]) keep(key, name, where);
}

function asked(before = "") {
  const form = $("ask-name");
  const box = $("name");
  box.value = before;
  show(form, true);
  box.focus();
  box.select();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      const name = box.value.trim().normalize("NFC");
      let problem = "";
      if (!NAME.test(name)) problem = "A name has 1 to 40 letters, digits, spaces or . _ @ + -";
      else if (name.toLowerCase() === "oracle") problem = "This name is taken; choose another one.";
      $("name-error").textContent = problem;
      if (problem) return;
      show(form, false);
      resolve(name);
    };
  });
}
