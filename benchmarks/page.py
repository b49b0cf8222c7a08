"""docs/performance.md from the results: `python -m benchmarks.page docs`."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from guidestar.store.files import write_bytes

RESULTS = Path(__file__).parent / "results"
GOALS = {
    "plain": {"boolq": 5.0, "openbookqa": 5.0, "gsm8k": 2.5},
    "dynamic": {"boolq": 6.0, "openbookqa": 6.0, "gsm8k": 3.5},
    "generation": 3.0, "training": 2.0, "share": 0.6,
}  # fmt: skip


def page(results: Path) -> str:
    """The page of every results file, in the order of their names."""
    parts = [
        "# Performance",
        "",
        "Generated from `benchmarks/results/` by `python -m benchmarks.page docs`; `make bench SIZE=small DATA=DIR` measures",
        "anew. Compared are the literal versions of `benchmarks/literal.py`, in turn, in one process, on the same examples.",
        "A ratio is the median of the turns, with least and most; goals are in brackets. One turn has no spread.",
    ]
    for file in sorted(results.glob("*.json")):
        parts += ["", *_one(file.stem, json.loads(file.read_text(encoding="utf-8")))]
    return "\n".join([*parts, ""])


def _one(name: str, found: dict[str, Any]) -> list[str]:
    hardware, versions = found["hardware"], found["versions"]
    speeds = ", ".join(f"{speed:.0f} GFLOP/s in {dtype}" for dtype, speed in sorted(found["matmul_gigaflops"].items()))
    clock = "CPU seconds of one thread" if found["clock"] == "cpu" else "seconds by the wall clock"
    parts = [
        f"## {name}",
        "",
        f"{found['model']}, LoRA r {found['r']} on all linear layers, {found['dtype']}; {hardware['name']}, "
        f"{hardware['threads']} thread(s) of {hardware['cores']} cores ({hardware['capability']}); {clock}, "
        f"{found['turns']} turn(s). Matrix products measured in the same run: {speeds}. torch {versions['torch']}, "
        f"transformers {versions['transformers']}, peft {versions['peft']}.",
    ]
    parts += [line for note in found.get("notes", []) for line in ("", note)]
    if "scoring" in found:
        parts += _scoring(found)
    if "precision" in found:
        parts += [
            "",
            f"### {found['dtype']} against float32",
            "",
            "| data | examples | value | rank correlation | same in the top tenth |",
        ]
        parts.append("|---|---|---|---|---|")
        for data, row in sorted(found["precision"].items()):
            for value in sorted(set(row) - {"examples"}):
                parts.append(
                    f"| {data} | {row['examples']} | {value} | {row[value]['rank_correlation']:.4f} | "
                    f"{100 * row[value]['top_tenth_overlap']:.0f} % |"
                )  # fmt: skip
    if "generation" in found:
        parts += _generation(found["generation"])
    if "training" in found:
        parts += _training(found["training"])
    if "racing" in found:
        parts += _racing(found["racing"])
    if "pool" in found:
        parts += _pool(found["pool"])
    if "large" in found:
        parts += _large(found["large"])
    return parts


def _scoring(found: dict[str, Any]) -> list[str]:
    parts = [
        "", "### Scoring", "",
        "Entropy and −log p over the gold response, milliseconds an example. Floor: the products that a pass needs at least,",
        "at the measured speed; reading a common prefix once goes below what it counts.",
        "", "| data | tokens | passes | literal | ours | ratio | floor of a pass | share of the matrix speed |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for data, row in sorted(found["scoring"].items()):
        tokens = f"{row['prompt_tokens']:.0f} + {row['response_tokens']:.0f}"
        for kind, passes in (("plain", "1"), ("dynamic", "3, dropout on")):
            one = row[kind]
            goal = GOALS[kind].get(data)  # type: ignore[attr-defined]
            ends = (
                f"{row['floor_milliseconds']:.0f} | {100 * row['share_of_matmul_speed']:.0f} % [{100 * GOALS['share']:.0f} %] |"  # type: ignore[operator]
                if kind == "plain"
                else "| |"
            )
            parts.append(
                f"| {data} ({row['examples']}) | {tokens} | {passes} | {one['milliseconds']['literal']:.0f} | "
                f"{one['milliseconds']['ours']:.0f} | {_ratio(one['ratio'], goal)} | {ends}"
            )
    worst = max(row["largest_relative_difference_float32"] for row in found["scoring"].values())
    return [*parts, "", f"In float32 the largest relative difference from the literal scorer is {worst:.1e}."]


def _generation(found: dict[str, Any]) -> list[str]:
    parts = [
        "", "### Entropy of generated responses", "",
        "Against `generate(output_scores=True)` in the same precision, milliseconds a response: with as many responses in one call as",
        "the column says. One at a time, of a few of them, is how the published code generates; ours takes the batches that it takes in a run.",
        "", "| data | responses | new tokens | mean length | in one call of generate | its scores kept | generate | ours | ours keeps | ratio |", "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for data, row in sorted(found.items()):
        kept, times = row["bytes_of_scores_kept"], row["milliseconds"]
        for name in sorted(row["ratio"], key=int):
            parts.append(
                f"| {data} | {row['responses']} | {row['new_tokens']} | {row['mean_length']:.1f} | {name} | {kept[name] / 1e6:.1f} MB | "
                f"{times[name]:.0f} | {times['ours']:.0f} | {kept['ours'] / 1e6:.3f} MB | {_ratio(row['ratio'][name], GOALS['generation'])} |"
            )  # fmt: skip
    return parts


def _training(found: dict[str, Any]) -> list[str]:
    parts = [
        "", "### LoRA training", "",
        "Against `transformers.Trainer` with dynamic padding, the same adapter, batch and learning rate; tokens of text a second.",
        "", "| data | examples | epochs | Trainer | ours | ratio | loss of each epoch, Trainer | ours |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for data, row in sorted(found.items()):
        losses = [", ".join(f"{x:.2f}" for x in row["losses"][name]) for name in ("trainer", "ours")]
        parts.append(
            f"| {data} | {row['examples']} | {row['epochs']} | {row['tokens_a_second']['trainer']:.0f} | "
            f"{row['tokens_a_second']['ours']:.0f} | {_ratio(row['ratio'], GOALS['training'])} | {losses[0]} | {losses[1]} |"
        )  # fmt: skip
    return parts


def _racing(found: dict[str, Any]) -> list[str]:
    parts = [
        "", "### Racing", "",
        "The 500 highest means over 10 passes of 5,000 simulated examples; noise: a pass's standard deviation in those of the",
        "examples' own means. An example that all passes would pick is lost with probability at most 0.1 (see `query/racing.py`).",
        "", "| noise | same picks, mean | least of 20 seeds | passes: all / made, mean | least |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in sorted(found.items()):
        parts.append(
            f"| {name.removeprefix('noise ')} | {100 * row['same']:.1f} % | {100 * row['same_least']:.1f} % | "
            f"{row['saved']:.2f} × | {row['saved_least']:.2f} × |"
        )
    return parts


def _pool(found: list[dict[str, Any]]) -> list[str]:
    parts = [
        "", "### A large pool", "",
        "Peak memory of a process that scores a file of short texts with a tiny model (`guidestar score --keep DIR --top 10`), "
        "before (model, and two parts of 1,024) and in all; texts a CPU second of one thread.",
        "", "| texts | before | peak | more, a text | texts a second |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in found:
        more = (row["peak"] - row["before"]) / row["examples"]
        parts.append(
            f"| {row['examples']:,} | {row['before'] / 1e6:.0f} MB | {row['peak'] / 1e6:.0f} MB | {more:.0f} bytes | "
            f"{row['examples'] / row['seconds']:.0f} |"
        )
    return parts


def _large(found: list[dict[str, Any]]) -> list[str]:
    """Growth: the exponent of n between the first and the last size."""
    load = f"{min(row['load'] for row in found):.0f} to {max(row['load'] for row in found):.0f}"
    parts = [
        "", "### From a file to a question, from a file to a finished run", "",
        "`python -m benchmarks.large`: made-up messages of about ten words, a random encoder of two layers. label: until the first questions",
        "are ready, page and trainer together; run: 40 labels with random and with lean, the report included; again: the same command when all "
        f"is finished. Peak memory with the libraries', which take about 500 MB of a run; the load of the two cores was {load}, and these commands had priority, but for "
        "what has no seconds (–): it was measured again beside other work.",
        "", "| command | texts | seconds | seconds of the processor | peak |", "|---|---|---|---|---|",
    ]  # fmt: skip
    names = {"label": "label", "run": "run", "run again": "again"}
    for name, title in names.items():
        for row in found:
            one = row[name]
            parts.append(
                f"| {title} | {row['texts']:,} | {'–' if one['seconds'] is None else round(one['seconds'])} | "
                f"{one['processor']:.1f} | {one['peak'] / 1e6:.0f} MB |"
            )
    first, last = found[0], found[-1]
    grown = [
        f"{title} {math.log(last[n]['processor'] / first[n]['processor']) / math.log(last['texts'] / first['texts']):.2f}"
        for n, title in names.items()
    ]
    return [
        *parts,
        "",
        f"The processor's seconds grow from the first size to the last as n to the power of: {', '.join(grown)}.",
    ]


def _ratio(found: dict[str, float], goal: Any = None) -> str:
    text = f"{found['median']:.1f} × ({found['least']:.1f}–{found['most']:.1f})"
    return text if goal is None else f"{text} [{goal:g} ×]"


if __name__ == "__main__":
    write_bytes(Path(sys.argv[1]) / "performance.md", page(RESULTS).encode())
