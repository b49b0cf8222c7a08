"""docs/methods.md: every way to tune that there is, from the tables of PEFT and of this project, the rows of
`results/studies/methods/study.yaml`, `results/methods/step.json` (`python -m benchmarks.methods`), the studies' results, and one
training with 50 labels of TREC-6 for each (`python -m tools.methods DATA FILE 20,21`, DATA the folder of the files, which adds what
FILE lacks)."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from guidestar.config import RunConfig, read_file
from guidestar.study.compose import load_study
from guidestar.study.results import Result, read_results
from guidestar.words import count
from tools.ablation import ROUNDS, ROWS, bench_of, in_a_process, keep, kept, picked, trained

STUDY = "methods"
ACCURACIES = Path(STUDY) / "accuracies.json"  # below `results`
CHOSEN = ("r1", "lean")  # rows of the ablation: at random and by `lean`, with the same training

# PEFT's own types: who proposed them. A type that is not here is PEFT's of a later release.
SOURCES = {
    "ADALORA": "Zhang et al. 2023", "ADAMSS": "PEFT's documentation", "ADAPTION_PROMPT": "Zhang et al. 2023 (LLaMA-Adapter)", "BEFT": "arXiv 2509.15974",
    "BOFT": "Liu et al. 2024", "C3A": "Chen et al. 2025", "CARTRIDGE": "Eyuboglu et al. 2025", "CPT": "Blau et al. 2024",
    "DEFT": "PEFT's documentation (decompositional)", "DELORA": "Bini et al. 2025", "FOURIERFT": "Gao et al. 2024", "FROD": "PEFT's documentation",
    "GLORA": "Chavan et al. 2023", "GRALORA": "Jung et al. 2025", "HIRA": "Huang et al. 2025", "HRA": "Yuan et al. 2024", "IA3": "Liu et al. 2022",
    "LILY": "arXiv 2407.09946", "LN_TUNING": "Zhao et al. 2024", "LOHA": "Hyeon-Woo et al. 2022", "LOKR": "Yeh et al. 2024", "LORA": "Hu et al. 2022",
    "MISS": "Kang and Yin 2025", "MULTITASK_PROMPT_TUNING": "Wang et al. 2023", "OFT": "Qiu et al. 2023", "OSF": "Nayak et al. 2025",
    "PEANUT": "arXiv 2410.01870", "POLY": "Ponti et al. 2023", "PREFIX_TUNING": "Li and Liang 2021", "PROMPT_TUNING": "Lester et al. 2021",
    "PSOFT": "openreview FSHrinMArK", "PVERA": "arXiv 2512.07703", "P_TUNING": "Liu et al. 2021", "RANDLORA": "Albert et al. 2025", "ROAD": "Liao et al. 2024",
    "SHADOW": "PEFT's documentation", "SHIRA": "Bhardwaj et al. 2024", "SUPERTUNING": "arXiv 2607.09287", "TINYLORA": "arXiv 2602.04118",
    "TRAINABLE_TOKENS": "PEFT's documentation", "UNILORA": "arXiv 2506.00799", "VBLORA": "Li et al. 2024", "VERA": "Kopiczko et al. 2024", "WAVEFT": "Bilican et al. 2025",
    "XLORA": "Buehler and Buehler 2024", "FULL": "every weight",
}  # fmt: skip

# A row of the study that is no type of its own -> how it is written, and its source.
OPTIONS = {
    "dora": ("`peft.use_dora: true`", "Liu et al. 2024"),
    "ist": ("`train.layers: ist`", "Yao et al. 2024, IST (Findings of EMNLP)"),
    "rst": ("`train.layers: rst`", "the control of IST"),
    "floe": ("`peft.layers: fisher`", "FLoE, arXiv 2506.00495"),
    "floe-rank": ("`peft: {layers: fisher, rank: search}`", "FLoE, arXiv 2506.00495"),
    "density": ("`train.activation_density`", "From PEFT to DEFT, arXiv 2402.01911"),
    "parallel": ("`BOTTLENECK`, `placement: parallel`", "He et al. 2022"),
}

LEFT_OUT = {
    "BIPEFT": "a differentiable search written for T5 whose reusable part, pruning to a budget by sensitivity, is `ADALORA`.",
    "ALoRE": "low-rank experts merged into vision transformers; its algebra, Kronecker products, is `LOKR`.",
    "DAS": "skips modules of vision-language models by reinforcement learning; its idea, not all layers are needed, is in `layers`.",
    "LFP": "trains without gradients, by relevance propagation, on vision models and under a patent note: another way to train, "
    "no adapter.",
}

_INTRO = """# Every way to tune

Generated from the tables of PEFT and of `guidestar/model/peft`, the rows of `results/studies/methods/study.yaml`, and what was
measured. The word in the first column is what a configuration says: a `peft_type`, or the key of an option. What a type
asks of a model: [adapters.md](adapters.md); the settings that were counted and timed are the study's.
"""


def registered() -> list[str]:
    """Every peft_type that a configuration may name."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    from guidestar.model.full import FULL
    from guidestar.model.peft import register

    register()
    return sorted({str(getattr(t, "value", t)) for t in PEFT_TYPE_TO_CONFIG_MAPPING} | {FULL})


def source_of(name: str) -> str:
    """Who proposed a type: of this project's own, what its file says."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    config = next((c for t, c in PEFT_TYPE_TO_CONFIG_MAPPING.items() if str(getattr(t, "value", t)) == name), None)
    if config is None or not config.__module__.startswith("guidestar"):
        return SOURCES.get(name, "PEFT's documentation")
    text = " ".join((inspect.getdoc(importlib.import_module(config.__module__)) or "").split())
    found = re.search(r"Source: (.*?)[.;]?$", text)
    return found[1].partition(";")[0] if found else "this project"


def page(results: Path) -> str:
    """The page as Markdown; the same files give the same bytes. results: the folder `results`."""
    study = results / "studies" / STUDY
    trainings = kept(results / ACCURACIES)
    rows: dict[str, Mapping[str, Any]] = {one["name"]: one for one in read_file(study / "study.yaml")[0]["rows"]}
    place = results / STUDY / "step.json"
    steps = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {"methods": {}}
    older = results / "studies" / "adapters" / "results"
    before = read_results(older) if older.is_dir() else []
    names = list(
        dict.fromkeys([*rows, *(name for name in registered() if not any(type_of(rows[r]) == name for r in rows))])
    )
    lines = [_line(name, rows.get(name), steps["methods"].get(name, {}), trainings, before) for name in names]
    machine = f"{steps['hardware']['name']}, one thread" if "hardware" in steps else "not measured yet"
    parts = [
        _INTRO,
        f"- **numbers** are trained beside the head, in {steps.get('model', 'all-minilm-l6-v2')}; **MB** is what a training step of "
        f"{steps.get('batch', 8)} short texts keeps for its backward pass, **ms** what it takes ({machine}; the model on synthetic texts). – is not measured yet.",
        "- **moves**: whether two dropout passes of the trained adapter differ, so that its uncertainty can be sampled. Where they do "
        "not, set `passes: 0`, or take a committee.",
        f"- **random** and **lean**: accuracy in per cent of one training with 50 labels of TREC-6, mean of {_seeds(trainings)}, the same labels "
        "for every method (`python -m tools.methods`); rates were not tuned. "
        "**entropy** and **STAR**: after 150 labels, other settings, three seeds in `results/studies/adapters`, random there in brackets.",
        "- **IST** and **RST** train a quarter of the layers in a step, so they keep less. **Activation density** means something for models "
        "with ReLU or the like only: GELU and SiLU, which most models have, are hardly ever 0, and the density stays near 100 %.",
        "",
        "| method | source | numbers | MB | ms | moves | random | lean | entropy | STAR |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *lines, "", "## Left out", "", *(f"- **{name}**: {why}" for name, why in LEFT_OUT.items()), "",
    ]  # fmt: skip
    return "\n".join(parts)


def type_of(row: Mapping[str, Any]) -> str | None:
    """The type that a row of the study is about; None for an option."""
    return None if row["name"] in OPTIONS else row.get("peft", {}).get("peft_type")


def _line(
    name: str,
    row: Mapping[str, Any] | None,
    step: Mapping[str, Any],
    trainings: Sequence[Mapping[str, Any]],
    before: Sequence[Result],
) -> str:
    kind = type_of(row) if row else name
    keys = [f"`{k}: {row['peft'][k]}`" for k in ("salience", "renew", "mode") if row and k in row.get("peft", {})]
    method, source = OPTIONS.get(name) or (", ".join([f"`{kind}`", *keys]), source_of(str(kind)))
    if "error" in step:
        step = {}
    shown = [
        f"{step['numbers']:,}" if step else "–", f"{step['bytes'] / 1e6:.1f}" if step else "–", f"{1000 * step['seconds']:.0f}" if step else "–",
        ("no" if step["still"] else "yes") if step else "–",
    ]  # fmt: skip
    accuracies = [
        _percent([t["accuracy"] for t in trainings if (t["method"], t["chosen"]) == (name, chosen)])
        for chosen in CHOSEN
    ]
    peft = {
        "lora": "lora",
        "bottleneck": "adapter",
        "prefix-tuning": "prefix",
        "unipelt": "unipelt",
        "full": "full",
    }.get(name)
    for method_there in ("entropy", "star"):
        mine = [one for one in before if peft and one.tag("peft") == peft]
        value, beside = _mean(mine, "method", method_there), _mean(mine, "method", "random")
        accuracies.append(f"{value} ({beside})" if value else "")
    return "| " + " | ".join([method, source, *shown, *(one or "not run" for one in accuracies)]) + " |"


def _mean(results: Sequence[Result], tag: str, value: str) -> str:
    return _percent([one.curve[-1][1] for one in results if one.tag(tag) == value and one.curve])


def _percent(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.1f}" if values else ""


def _seeds(trainings: Sequence[Mapping[str, Any]]) -> str:
    """How many seeds there are of a method: '1 seed', '2 to 5 seeds'."""
    many = Counter(t["method"] for t in trainings if t["chosen"] == CHOSEN[0]).values() or [0]
    return f"{min(many)} to {max(many)} seeds" if min(many) < max(many) else count(max(many), "seed")


# --- one training of each with 50 labels ----------------------------------------------------------


def _configs() -> dict[str, RunConfig]:
    """Method -> its configuration in the study, on data that need no files."""
    file = Path("results") / "studies" / STUDY / "study.yaml"
    cells = load_study(str(file), ["folder=null", "datasets=[{name: demo}]"]).cells
    return {name: cell.config for cell in cells if not (name := str(cell.tags["method"])).startswith("random-")}


def cell(data: Path, name: str, seed: int, place: Path) -> list[dict[str, Any]]:
    """The lines of one method. The labels of a seed are the same for every method, since `lean` asks the frozen model."""
    plain = _configs()[name].plain()
    rows = {chosen: replace(ROWS[chosen], train=plain["train"], peft=plain["peft"]) for chosen in CHOSEN}
    bench = bench_of(rows[CHOSEN[0]], data, place)  # they differ in what is picked alone
    told = []
    for chosen, row in rows.items():
        line = trained(bench, row, picked(bench, row, seed), seed, len(ROUNDS) - 1, place)
        told.append({"method": name, "chosen": chosen, "seed": seed, **line})
    return told


def main(data: Path, path: Path, seeds: Sequence[int]) -> None:
    """Add what is missing to the file, seed by seed; each method has a process of its own, since some change the model's classes."""
    rows = kept(path)
    done = {(line["method"], line["seed"]) for line in rows}
    failed: list[str] = []
    for seed, name in product(seeds, _configs()):
        if (name, seed) in done:
            continue
        try:
            rows += in_a_process("methods", data, name, seed, path.with_suffix(""))
        except subprocess.CalledProcessError:
            failed.append(name)
            continue
        keep(path, rows)
        print(name, seed, *(f"{line['chosen']} {line['accuracy']:.3f}" for line in rows[-2:]), flush=True)
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    if sys.argv[1] == "cell":
        print(json.dumps(cell(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), [*map(int, sys.argv[3].split(","))])
