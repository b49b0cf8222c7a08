"""Results of an experiment as a table: areas beside the control's and the paper's, and what may be said about them."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from guidestar.config import fingerprint
from guidestar.metrics.curve import ripl
from guidestar.study.experiments import Experiment, Variant
from guidestar.study.published import SLIP, SLIPPED, TABLES, paper_auc, paper_ripl
from guidestar.study.results import Result, mean_sd
from guidestar.words import hundredths, number, plural, spread

LOPSIDED = 0.2  # how much more of a batch than of the control's the largest class may have before it is told
FEW_SHOT = "few-shot"  # the method's name of the base model with demonstrations

Table = dict[str, Any]
Row = dict[str, Any]


def dataset_table(
    dataset: str, variants: Sequence[Variant], methods: Mapping[str, str], results: Sequence[Result]
) -> Table:
    """One dataset's rows and what stands beside them. Areas, accuracies and RIPL are fractions, the paper's numbers
    per cent.

    methods: variant's name -> the method's name in the results. results: of any datasets and methods; those that
    belong here are taken. RIPL is that of the mean areas over the seeds that a row and its control both have.
    """
    here: dict[str, dict[int, Result]] = {}
    for result in results:
        if result["tags"]["dataset"] == dataset:
            here.setdefault(result["tags"]["method"], {})[int(result["tags"]["seed"])] = result
    named = {v.name: here.get(methods[v.name], {}) for v in variants}
    rows: list[Row] = []
    same: list[list[str]] = []
    for v in variants:
        twin = next((row for row in rows if row["method"] == methods[v.name]), None)
        if twin is None:
            rows.append(_row(v, methods[v.name], dataset, named))
        elif v.name != v.control:  # nobody misses a second control
            same.append([v.label, twin["label"]])
    few = [one["final"] for one in here.get(FEW_SHOT, {}).values()]
    known = next((one for seeds in named.values() for one in seeds.values()), None)
    majority = known and known["data"].get("majority")
    bases = [one["base"]["accuracy"] for seeds in named.values() for one in seeds.values() if one["base"]]
    return {
        "dataset": dataset,
        "rows": rows,
        "same": same,
        "majority": majority,
        "base": bases[0] if bases else None,
        "few_shot": mean_sd(few) if few else None,
        "test": known and known["data"].get("test"),
        "model": known and known["model"]["name"],
        "notes": _notes([one for seeds in named.values() for one in seeds.values()]),
    }


def _row(v: Variant, method: str, dataset: str, named: Mapping[str, Mapping[int, Result]]) -> Row:
    own = {seed: one for seed, one in sorted(named[v.name].items()) if one["auc"] is not None}
    control = {seed: one for seed, one in named.get(v.control, {}).items() if one["auc"] is not None}
    areas, others = ({seed: one["auc"] for seed, one in some.items()} for some in (own, control))
    row: Row = {
        "variant": v.name, "label": v.label, "doc": v.doc, "method": method, "control": v.control, "seeds": list(own),
        "areas": list(areas.values()), "largest_class": _largest_class(list(own.values())),
        "auc": mean_sd([one["auc"] for one in own.values()]) if own else None,
        "final": mean_sd([one["final"] for one in own.values()]) if own else None,
        "ripl": None, "difference": None, "spread": None, "verdict": None,
        "paper_auc": paper_auc(v.name, dataset), "paper_ripl": paper_ripl(v.name, dataset),
    }  # fmt: skip
    if v.name != v.control:
        difference, row["spread"], seeds = _beside(areas, others)
        if difference is not None:
            random = statistics.fmean(others[seed] for seed in seeds)
            row["ripl"] = ripl(random + difference, random) if random < 1 else None
            row["difference"], row["verdict"] = difference, verdict(difference, row["spread"])
    return row


def _largest_class(results: Sequence[Result]) -> float | None:
    """Share of a chosen batch that its most frequent class has, the mean over rounds and seeds; None without classes."""
    batches = [p["picked"].values() for one in results for p in one["rounds"] if p["round"] and p.get("picked")]
    shares = [max(counts) / sum(counts) for counts in batches if sum(counts)]
    return statistics.fmean(shares) if shares else None


def verdict(difference: float, spread: float | None) -> str:
    """What may be said of a difference between two means: only one that exceeds the larger standard deviation over
    the seeds has a direction.

    >>> verdict(0.01, 0.02), verdict(-0.03, 0.02), verdict(0.5, None)
    ('within the spread', 'below', 'one seed')
    """
    if spread is None:
        return "one seed"
    if abs(difference) <= spread:
        return "within the spread"
    return "above" if difference > 0 else "below"


def _notes(results: Sequence[Result]) -> list[str]:
    """What would make rows incomparable."""
    notes = []
    for key, what in (("fingerprint", "models"), ("dtype", "precisions"), ("device", "kinds of processor")):
        if len({one["model"][key] for one in results}) > 1:
            notes.append(f"The rows were made with different {what}, so they cannot be compared as they stand.")
    if len({(one["warm_start"] or {}).get("pool") for one in results}) > 1:
        notes.append("The rows were made with different pools, so they cannot be compared as they stand.")
    differing = {text for one in results for text in one["data"].get("form_differences", [])}
    return notes + _trained_apart(results) + sorted(differing)


def _trained_apart(results: Sequence[Result]) -> list[str]:
    """Where rows that begin with the same examples and the same training do not begin with the same adapter."""
    firsts: dict[str, set[float]] = {}
    seeds = set()
    for one in results:
        if one["curve"] and one["warm_start"]:
            parts = [one["config"].get(key) or {} for key in ("train", "peft", "tapt")]
            same = [{key: value for key, value in part.items() if value is not None} for part in parts]  # newer keys
            before = firsts.setdefault(fingerprint([same, one["warm_start"]]), set())
            if before and one["curve"][0][1] not in before:
                seeds.add(int(one["tags"]["seed"]))
            before.add(one["curve"][0][1])
    if not seeds:
        return []
    gap = max(max(values) - min(values) for values in firsts.values())
    return [
        f"Not all rows share one warm start's adapter: of {_listed_seeds(sorted(seeds))} it was trained again from the same "
        f"examples, by another state of the code or on another machine, and its accuracies lie up to {100 * gap:.2f} points "
        "apart. So much can training alone change."
    ]


# --- words --------------------------------------------------------------------------------------


def reading(experiment: Experiment, tables: Sequence[Table]) -> list[str]:
    """What the tables show, in sentences, with no claim beyond them."""
    measured = [(t, row) for t in tables for row in t["rows"] if row["verdict"]]
    if all(row["variant"] == row["control"] for t in tables for row in t["rows"]):
        return []  # there is nothing that could be compared
    if not measured:
        return ["Nothing can be compared yet: no method and its control have a seed in common."]
    return [
        *_about_claims(measured),
        *_about_spread(measured),
        *_about_steps(tables),
        *_about_batches(tables),
        *_about_majority(tables),
    ]


def _about_claims(measured: Sequence[tuple[Table, Row]]) -> Iterator[str]:
    claims = [row for _, row in measured if row["paper_ripl"] is not None and row["ripl"] is not None]
    if not claims:
        return
    same = [row for row in claims if (row["paper_ripl"] > 0) == (row["ripl"] > 0) and row["ripl"]]
    text = f"Rows that the paper puts above or below random: {len(claims)}; with the same sign here: {len(same)}"
    if any(row["spread"] is not None for row in claims):
        firm = [row for row in claims if row["verdict"] in ("above", "below")]
        other = sum(row not in same for row in firm)
        text += (
            f". By more than the spread over the seeds, {len(firm) - other} have the paper's sign and {other} the other"
        )
    yield f"{text}."


def _about_spread(measured: Sequence[tuple[Table, Row]]) -> Iterator[str]:
    if all(row["verdict"] == "one seed" for _, row in measured):
        yield "There is one seed, so no spread is known and no difference is called a gain or a loss."
        return
    if (seeds := min(len(row["seeds"]) for _, row in measured)) < 3:
        yield (
            "Some rows have one seed and no spread."
            if seeds == 1
            else "With two seeds the spread itself is hardly known."
        )
    firm = [
        f"{row['label']} on {t['dataset']} ({100 * row['difference']:+.2f} points)"
        for t, row in measured
        if row["verdict"] in ("above", "below")
    ]
    if firm:
        yield f"Apart from their control by more than the spread over the seeds: {'; '.join(firm)}."
    within = sum(row["verdict"] == "within the spread" for _, row in measured)
    if within:
        yield (
            f"{within} of {len(measured)} differences lie within the spread over the seeds and are called neither gain "
            "nor loss."
        )


# What STAR is made of, as the paper adds it: from one row to another.
_STEPS = [
    (f"{measure}{before}", f"{measure}-{after}")
    for measure in ("pe", "me")
    for before, after in (("", "star"), ("", "dynamic"), ("-dynamic", "dynamic-mc"), ("-dynamic", "dynamic-l2"))
]


def _about_steps(tables: Sequence[Table]) -> Iterator[str]:
    """What STAR and each of its parts adds to the same measure without it, here and in the paper: its other claim."""
    for t in tables:
        rows = {row["variant"]: row for row in t["rows"]}
        for before, after in _STEPS:
            if before not in rows or after not in rows:
                continue
            areas = [dict(zip(rows[name]["seeds"], rows[name]["areas"], strict=True)) for name in (after, before)]
            difference, spread, seeds = _beside(*areas)
            if difference is not None:
                yield (
                    f"{t['dataset']}, {_listed_seeds(seeds)}: {rows[after]['label']} is {100 * difference:+.2f} points of AUC "
                    f"from {rows[before]['label']}: {verdict(difference, spread)}; in the paper {_paper_step(before, after, t['dataset'])}."
                )


def _beside(mine: Mapping[int, float], theirs: Mapping[int, float]) -> tuple[float | None, float | None, list[int]]:
    """Of the seeds that both have: the difference of the mean areas, the larger standard deviation, and which they are."""
    seeds = [seed for seed in mine if seed in theirs]
    if not seeds:
        return None, None, []
    a, b = (mean_sd([some[seed] for seed in seeds]) for some in (mine, theirs))
    assert a["mean"] is not None and b["mean"] is not None  # noqa: PT018
    spread = max(a["sd"], b["sd"]) if a["sd"] is not None and b["sd"] is not None else None
    return a["mean"] - b["mean"], spread, seeds


def _paper_step(before: str, after: str, dataset: str) -> str:
    """The paper's difference of the two AUCs, of all its datasets where it does not have this one."""
    names = [dataset] if paper_auc(after, dataset) is not None else list(TABLES[after])
    steps = {name: (paper_auc(after, name) or 0.0) - (paper_auc(before, name) or 0.0) for name in names}
    return ", ".join(f"{step:+.2f}{'' if names == [dataset] else f' ({name})'}" for name, step in steps.items())


def _listed_seeds(seeds: Sequence[int]) -> str:
    return f"{plural('seed') if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"


def _about_batches(tables: Sequence[Table]) -> Iterator[str]:
    """Methods that ask for one class: what is rare under the untuned model is a label word as often as a hard example."""
    for t in tables:
        rows = {row["variant"]: row for row in t["rows"]}
        found = []
        for row in t["rows"]:
            control = rows.get(row["control"], {}).get("largest_class")
            if control is not None and row["largest_class"] is not None and row["largest_class"] > control + LOPSIDED:
                found.append(f"{row['label']} {100 * row['largest_class']:.0f} % (control {100 * control:.0f} %)")
        if found:
            yield f"{t['dataset']}: batches that are mostly of one class, by the mean share of the largest: {', '.join(found)}."


def _about_majority(tables: Sequence[Table]) -> Iterator[str]:
    for t in tables:
        if t["majority"]:
            share = t["majority"]["share"]
            above = [row["label"] for row in t["rows"] if row["auc"] and row["auc"]["mean"] > share]
            counted = sum(row["auc"] is not None for row in t["rows"])
            what = (
                f"all {counted} AUCs are above that" if len(above) == counted
                else "no AUC is above that" if not above
                else f"{len(above)} of {counted} AUCs are above that"
            )  # fmt: skip
            yield f"{t['dataset']}: always answering {t['majority']['label']!r} gives {100 * share:.2f}; {what}."


# --- forms --------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """One dataset as a Markdown table with its baselines, per cent."""
    paper = any(row["paper_auc"] is not None for row in table["rows"])
    head = ["method", "seeds", "AUC", "RIPL", "final", "AUC − control's", "verdict"]
    head += ["paper: AUC", "paper: RIPL"] if paper else []
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in table["rows"]:
        cells = [
            row["label"] + (f" ({row['doc']})" if row["doc"] else ""),
            ", ".join(map(str, row["seeds"])) or "–",
            spread(row["auc"]) if row["auc"] else "not run",
            hundredths(row["ripl"]),
            spread(row["final"]),
            hundredths(row["difference"], sign=True) + (f" (spread {hundredths(row['spread'])})" if row["spread"] is not None else ""),
            row["verdict"] or ("control" if row["variant"] == row["control"] else "–"),
        ]  # fmt: skip
        if paper:
            cells += [number(row["paper_auc"], 2), number(row["paper_ripl"], 2)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *beside(table)]
    return "\n".join(lines)


def beside(table: Table) -> Iterator[str]:
    """What a reader must see beside the rows: baselines, rows that are one run, slips, and what forbids comparing."""
    known = []
    if table["majority"]:
        known.append(f"majority class {table['majority']['label']!r} {100 * table['majority']['share']:.2f}")
    if table["base"] is not None:
        known.append(f"untuned model {100 * table['base']:.2f}")
    if table["few_shot"]:
        known.append(f"untuned model with demonstrations (few-shot) {spread(table['few_shot'])}")
    if known:
        test = f" on {table['test']} test examples" if table["test"] else ""
        yield f"Accuracies without training{test}: {', '.join(known)}."
    if table["same"]:
        yield "The same run as another row here: " + "; ".join(f"{a} = {b}" for a, b in table["same"]) + "."
    if any(row["variant"] in SLIPPED and row["paper_auc"] for row in table["rows"]) and table["dataset"] == "gsm8k":
        yield SLIP
    yield from table["notes"]


HEADER = (
    "dataset", "variant", "label", "method", "control", "seeds", "auc_mean", "auc_sd", "final_mean", "final_sd", "ripl",
    "difference", "spread", "verdict", "paper_auc", "paper_ripl",
)  # fmt: skip


def as_csv(tables: Sequence[Table]) -> str:
    """The rows of all datasets as CSV; fractions in full precision, the paper's numbers per cent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for table in tables:
        for row in table["rows"]:
            flat = row | {"dataset": table["dataset"], "seeds": " ".join(map(str, row["seeds"]))}
            for name in ("auc", "final"):
                flat |= {f"{name}_{key}": value for key, value in (row[name] or {}).items()}
            writer.writerow(["" if flat.get(key) is None else flat[key] for key in HEADER])
    return text.getvalue()
