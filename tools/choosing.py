"""docs/how-to-choose.md: which strategy to take, in one screen; what is measured is filled in from `evidence.json`."""

from __future__ import annotations

from guidestar.query.standing import evidence, measured
from guidestar.query.strategies import STRATEGIES
from guidestar.words import count

_PAGE = """# Which one do I take?

**{answer}**

Always run `random` beside it, over five seeds or more if you want to claim anything: without the control nobody knows
whether choosing paid, and fewer seeds show no direction ([statistics.md](statistics.md)).

| your case | take | evidence |
|---|---|---|
{rows}

What matters more than the strategy, in this order:

1. **Train long enough.** A head or an adapter that has hardly moved doubts everything alike, and every strategy is then as
   good as random. `train: {{recipe: lean}}` sets a floor of steps; `plan` and `run` warn of too few ([training.md](training.md)).
2. **The model.** For classes on a CPU an encoder with a head (`all-minilm-l6-v2`, [encoders.md](encoders.md)) is trained and
   asked many times faster than a causal model, so that a round takes seconds.
3. **The label words**, for a causal model: words that say what a label means.
4. **Seeds.** Two trainings on the same labels lie points apart; `guidestar probe RUN noise` measures how far.

Then: `guidestar plan` says what it costs, `guidestar status` whether more labels pay ([advice.md](advice.md)),
`guidestar compare` whether choosing paid. All strategies, with their papers: [strategies.md](strategies.md).

Studied so far: {studied}.
"""

_CASES = (
    ("classes, a pool of any size, 10 to 200 labels", "lean"),
    ("the adapter you tune should choose, not a separate classifier", "star"),
    ("classes so rare that random does not meet them", "anchor_entropy"),
    ("many copies or near-duplicates in the pool", "uncertain_k_center"),
    ("a pool too large to score every round", "seals_entropy"),
)


def page() -> str:
    """The page as Markdown; the same results give the same bytes."""
    best = [name for name, recipe in STRATEGIES.items() if recipe.role == "recommended"]
    proven = [name for name in best if any(o["strategy"] == name and o["verdict"] == "gain" for o in measured())]
    if proven:
        answer = f"`{proven[0]}`: it beat its control in the studies of `results/`."
    elif best:
        answer = f"`{best[0]}` for classes; it is what we would take, but no study in `results/` shows that it beats random yet."
    else:
        answer = "`random`: no strategy has beaten it in the studies of `results/` yet."
    rows = []
    for case, name in _CASES:
        shown = name if name in STRATEGIES else "random"
        rows.append(f"| {case} | `{shown}` | {evidence(shown)} |")
    rows.append(
        "| free text or worked numbers | `random`; `lean` (covers what the adapter doubts) or `star` to try choosing | none yet: no "
        "finished study has such a task |"
    )
    rows.append("| to repeat a paper | the strategy with its key in [strategies.md](strategies.md) | – |")
    names = sorted({one["strategy"] for one in measured()})
    settings = {tuple(one[key] for key in ("study", "dataset", "model", "peft")) for one in measured()}
    studied = f"{', '.join(f'`{name}`' for name in names)} in {count(len(settings), 'setting')}"
    return _PAGE.format(answer=answer, rows="\n".join(rows), studied=studied)
