// How far annotators agree, in numbers and in words.

import { el, percent, plural } from "./dom.js";

const number = (value) => (value === null ? "–" : value.toFixed(2));

function table(head, rows) {
  return el(
    "div",
    { class: "wide" },
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, ...head.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell, i) => (i ? el("td", {}, String(cell)) : el("th", { scope: "row", dir: "auto" }, String(cell))))))),
    ),
  );
}

/** The elements of the panel. found: from the server, null while no example has two labels. */
export function agreement(found, state, nameOf) {
  if (found === null) {
    const why = state.several
      ? "No example has the labels of two annotators yet."
      : "Nobody is asked for second opinions: people.overlap is 0 in the configuration.";
    return [el("p", { class: "small" }, why)];
  }
  const interval = found.low === null ? "" : `, between ${number(found.low)} and ${number(found.high)} with 95\u00a0% confidence`;
  const parts = [
    el(
      "div",
      {},
      el("p", { class: "alpha" }, `α = ${number(found.alpha)}`),
      el("p", { class: "small" }, `Krippendorff’s alpha over ${plural(found.compared, "example", "examples")} with two labels or more${interval}. 1 is full agreement, 0 what chance gives. ${percent(found.observed)} of the pairs of labels agree.`),
      found.compared < 30 ? el("p", { class: "small" }, "With fewer than about 30 examples the interval is rough.") : null,
    ),
  ];
  const classes = Object.entries(found.classes);
  if (classes.length) {
    parts.push(el("div", {}, el("h3", {}, "By label"), table(["label", "agree", "examples"], classes.map(([label, one]) => [nameOf(label), percent(one.agreement), one.n]))));
  }
  if (found.pairs.length) {
    parts.push(el("div", {}, el("h3", {}, "By pair"), table(["annotators", "agree", "kappa", "examples"], found.pairs.map((one) => [one.annotators.join(", "), percent(one.observed), number(one.kappa), one.n]))));
  }
  if (found.confused.length) {
    parts.push(el("div", {}, el("h3", {}, "Confused most"), table(["labels", "times"], found.confused.slice(0, 10).map((one) => [one.labels.map(nameOf).join(", "), one.count]))));
  }
  return parts;
}
