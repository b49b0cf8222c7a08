// Change one's mind about the labels: add, rename, merge or split one while the run lasts.

import { $, el, fill, plural } from "./dom.js";
import { post } from "./server.js";

const PATIENCE = 300000; // milliseconds: the model is loaded to see whether it can tell the new labels apart
const KINDS = [
  // kind, what its button says, how many labels it takes: at least and at most
  ["add", "Add", 0, 0],
  ["rename", "Rename", 1, 1],
  ["merge", "Merge into it", 2, Infinity],
  ["split", "Split into these", 1, 1],
];

/** The dialog. changed(): the labels are others now. */
export function labelsDialog(annotator, changed) {
  const boxes = new Map(); // label -> its checkbox
  let busy = false;
  const ticked = () => [...boxes].filter(([, box]) => box.checked).map(([label]) => label);

  const buttons = KINDS.map(([kind, text, least, most]) => {
    const button = el("button", { type: "button", onclick: () => change(kind) }, text);
    button.fits = () => least <= ticked().length && ticked().length <= most && $("labels-new").value.trim() !== "";
    return button;
  });

  function update() {
    for (const button of buttons) button.disabled = busy || !button.fits();
  }

  function draw({ labels, again }) {
    boxes.clear();
    const lines = labels.map(({ label, count }) => {
      const box = el("input", { type: "checkbox", onchange: update });
      boxes.set(label, box);
      return el("li", {}, el("label", { dir: "auto" }, box, label, el("span", { class: "small" }, ` ${plural(count, "example", "examples")}`)));
    });
    fill($("labels-list"), ...lines);
    $("labels-new").value = "";
    say(again ? `${plural(again, "example", "examples")} will be asked again.` : "");
    update();
  }

  async function change(kind) {
    busy = true;
    update();
    say("Changing the labels …");
    try {
      draw(await post("relabel", { annotator, kind, old: ticked(), new: $("labels-new").value.trim() }, PATIENCE));
      changed();
    } catch (error) {
      say(error.message);
    } finally {
      busy = false;
      update();
    }
  }

  function say(text) {
    $("labels-said").textContent = text;
  }

  fill($("labels-kinds"), ...buttons);
  $("labels-new").oninput = update;
  $("labels-form").onsubmit = (event) => event.preventDefault();
  $("labels-close").onclick = () => $("labels-dialog").close();
  $("labels-open").onclick = async () => {
    $("labels-dialog").showModal();
    try {
      draw(await post("classes", { annotator }));
    } catch (error) {
      say(error.message);
    }
  };
}
