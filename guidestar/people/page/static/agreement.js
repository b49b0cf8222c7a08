// How far annotators agree, in numbers and in words.

import { el, percent, plural } from "./dom.js";

const number = (value) => (value === null ? "–" : value.toFixed(2).replace("-", "−"));

function table(title, head, rows) {
  if (!rows.length) return null;
  const first = (cell) => el("th", { scope: "row", dir: "auto" }, cell);
  const lines = rows.map(([name, ...cells]) => el("tr", {}, first(name), ...cells.map((cell) => el("td", {}, String(cell)))));
  const header = el("tr", {}, ...head.map((name) => el("th", { scope: "col" }, name)));
  const whole = el("table", {}, el("thead", {}, header), el("tbody", {}, ...lines));
  return el("div", {}, el("h3", {}, title), el("div", { class: "wide" }, whole));
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
  const summary = el(
    "div",
    {},
    el("p", { class: "alpha" }, `α = ${number(found.alpha)}`),
    el("p", { class: "small" }, `Krippendorff’s alpha over ${plural(found.compared, "example", "examples")} with two labels or more${interval}. 1 is full agreement, 0 what chance gives. ${percent(found.observed)} of the pairs of labels agree.`),
    found.compared < 30 ? el("p", { class: "small" }, "With fewer than about 30 examples the interval is rough.") : null,
  );
  const classes = Object.entries(found.classes).map(([label, one]) => [nameOf(label), percent(one.agreement), one.n]);
  const pairs = found.pairs.map((one) => [one.annotators.join(", "), percent(one.observed), number(one.kappa), one.n]);
  const confused = found.confused.slice(0, 10).map((one) => [one.labels.map(nameOf).join(", "), one.count]);
  return [
    summary,
    table("By label", ["label", "agree", "examples"], classes),
    table("By pair", ["annotators", "agree", "kappa", "examples"], pairs),
    table("Confused most", ["labels", "times"], confused),
  ];
}
