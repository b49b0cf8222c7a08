// What buttons and keys of the labelling page do.

import { $, dialogOpen, helpDialog, keep, typing } from "./dom.js";
import { labelsDialog } from "./labels.js";

/** The buttons of the labelling page and its keys. */
export function controls(page) {
  labelsDialog(page.annotator, () => page.fetch());
  const help = helpDialog();
  $("undo").onclick = () => page.undo();
  $("skip").onclick = (event) => page.skip(event);
  $("flag").onclick = () => page.flag();
  $("note").onclick = () => page.note();
  $("model").onclick = () => page.model();
  $("find").onclick = () => page.finder.open(null);
  $("like").onclick = () => page.finder.open(page.current);
  $("back").onclick = () => page.step(1);
  $("forth").onclick = () => page.step(-1);
  $("at-once").checked = page.answers.atOnce;
  $("at-once").onchange = () => {
    page.answers.atOnce = $("at-once").checked;
    keep("guidestar:at-once", page.answers.atOnce ? "yes" : "no");
  };
  $("note-close").onclick = () => $("note-dialog").close();
  $("note-form").onsubmit = () => page.noted();
  $("note-box").onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("note-form").requestSubmit();
  };
  $("failed-retry").onclick = () => page.retry();
  document.addEventListener("keydown", (event) => key(page, event, help));
  for (const sign of ["keydown", "pointerdown", "pointermove", "wheel", "focus"]) {
    window.addEventListener(sign, () => (page.moved = performance.now()), { capture: true, passive: true });
  }
}

function key(page, event, help) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || dialogOpen() || typing(event.target)) return;
  const keys = {
    u: () => page.undo(),
    Backspace: () => page.undo(),
    s: () => page.skip(),
    f: () => page.flag(),
    n: () => page.note(),
    m: () => page.model(),
    d: () => page.draft(),
    g: () => page.finder.open(null),
    l: () => page.finder.open(page.current),
    p: () => $("whole").toggleAttribute("open"),
    "/": () => page.answers.focusSearch() || page.answers.focusBox(),
    0: () => page.answers.none(),
    "?": help,
    ArrowLeft: () => page.step(1),
    ArrowRight: () => page.step(-1),
  };
  const digit = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
  if (event.key === "Enter") {
    const chosen = page.answers.chosen && event.target.closest?.(".answer");
    if (!chosen && event.target.closest?.("button, a, summary")) return; // it presses that
    if (event.repeat || !page.current || !page.answers.confirm()) return;
  } else if (digit) {
    if (event.repeat || !page.current || !page.answers.press(digit)) return;
  } else {
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!Object.hasOwn(keys, name) || (event.repeat && !name.startsWith("Arrow"))) return;
    keys[name]();
  }
  event.preventDefault();
}
