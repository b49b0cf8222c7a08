"""`python -m tools.scale_picks COMMIT RUN … > picks.json`: what a STAR run's first query would have picked at each scale of the mix.

A run stores the base model's and the tuned model's value of every candidate, so no model is needed: the values are mixed
again by the product's own function. COMMIT: of the code that made the runs. Picks of the run's own scale must be those that
it made, or nothing is written.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from guidestar import config as configs
from guidestar.data.pool import load_dataset
from guidestar.query.mixing import SCALES, mix, rank
from guidestar.store import Store
from guidestar.study.results import portable, short
from tools.pages import table


def scale_picks(run: Path) -> dict[str, Any]:
    """A run's candidates, values and picks of round 1, by scale. Raises ValueError if its own picks are not repeated."""
    place = configs.kept_in(run)
    if place is None:
        raise ValueError(f"{run}: no configuration in it or above it")
    with Store.open(run) as store:
        facts, picks, values = store.facts, store.query(1).picks, store.arrays(1, "scores")
    with safe_open(run / "arrays" / "round-001-scores.safetensors", "np") as scores:
        ids = json.loads(scores.metadata()["guidestar"])["ids"].split("\n")
    base, full, lam = values["base"], values["full"], picks[0].details["lambda"]
    dataset = load_dataset(configs.load(place))
    classes = np.asarray([dataset.gold[i] for i in ids])
    words = dict(zip(facts["task"]["labels"], facts["task"]["words"], strict=True))

    def counted(rows: Any) -> dict[str, int]:
        found = Counter(words[label] for label in classes[rows].tolist())
        return {word: found[word] for word in words.values()}

    def best(score: Any) -> list[int]:
        return np.argsort(-score, kind="stable")[: len(picks)].tolist()

    alone = {"the tuned model alone": best(full), "the base model alone": best(base)}
    chosen = {name: best(mix(base, full, lam, name)) for name in SCALES} | alone
    own = facts["recipe"]["mix"]["scale"]
    if {ids[i] for i in chosen[own]} != {pick.id for pick in picks}:
        raise ValueError(f"{run}: the picks of its own scale, {own}, are not repeated")
    return {
        "strategy": facts["strategy"], "seed": facts["seed"], "measure": facts["recipe"]["measure"], "lambda": lam,
        "model": facts["model"], "versions": facts["versions"], "hardware": facts["hardware"],
        "config": portable(configs.load(place)), "candidates": counted(slice(None)),
        "quartiles": {k: np.percentile(v, [0, 25, 50, 75, 100]).round(3).tolist() for k, v in (("base", base), ("tuned", full))},
        "base_mean": {word: round(float(base[classes == label].mean()), 3) for label, word in words.items()},
        "rank_correlation": round(float(np.corrcoef(rank(base), rank(full))[0, 1]), 3),
        "picks": {
            name: {"classes": counted(rows)} | {f"with {other}": len({*rows} & {*theirs}) for other, theirs in alone.items()}
            for name, rows in chosen.items()
        },
    }  # fmt: skip


def section(picks: Path) -> list[str]:
    """The file's part of docs/reproduction.md as Markdown lines; none without the file."""
    if not picks.is_file():
        return []
    runs = json.loads(picks.read_text(encoding="utf-8"))["runs"]
    one = runs[0]
    ranked = []
    for run in runs:
        total = sum(next(iter(run["picks"].values()))["classes"].values())
        for name, found in run["picks"].items():
            word, most = max(found["classes"].items(), key=lambda item: item[1])
            alone = (found[f"with the {which} model alone"] for which in ("tuned", "base"))
            ranked.append([run["seed"], name, f"{word}, {most} of {total}", *alone])
    lines = [
        "", "## The scale of the mix", "",
        f"What the first query of {one['strategy'].removesuffix('-raw')} picks on {one['config']['data']['preset']} at each `mix.scale`, "
        f"from the values that the runs stored in `results/studies/star-scale/picks.json` (λ {one['lambda']:g}; "
        f"{short(one['model']['name'])} in {one['model']['dtype']}). What a training on such a first batch reaches: [questions.md](questions.md), "
        "question 2, and the study `star-first-choice` in [comparisons.md](comparisons.md).",
        "",
        *table(
            ["seed", "what ranks the candidates", "largest class among the picks", "also picked by the tuned model alone", "by the base alone"],
            ranked,
        ),
    ]  # fmt: skip
    for run in runs:
        low, high = min(run["base_mean"].values()), max(run["base_mean"].items(), key=lambda item: item[1])
        lines += ["", f"- Seed {run['seed']}: the base model's values have a median of {run['quartiles']['base'][2]:.1f} nats and the tuned model's of "
                  f"{run['quartiles']['tuned'][2]:.2f}. By class the base's mean goes from {low:.1f} to {high[1]:.1f} ({high[0]}). "
                  f"Rank correlation of the two: {run['rank_correlation']:.2f}."]  # fmt: skip
    return lines


if __name__ == "__main__":
    commit, *runs = sys.argv[1:]
    print(
        json.dumps({"commit": commit, "runs": [scale_picks(Path(run)) for run in runs]}, indent=1, ensure_ascii=False)
    )
