"""STAR's tables, figures and open questions as experiments: which methods, on which data, and what is asked.

A variant says what differs from the scale's plain configuration (see `scales`): the strategy, and flat configuration
keys. Values that begin with @ stand for what a dataset and a scale decide (`scales.resolve`):

    @ME           the measure of maximum entropy            @test_steps   a schedule as long as the test set's epochs
    @one_prompt   GSM8K's prompt around any question        @full_rate    the learning rate of full fine-tuning
    @published    the published files' template, response   @rank, @targets   r and target modules of the scale's LoRA

As in the paper, regularisation is part of a method: β is 0 but where it is named. Dropout is on in all trainings.
Source: Zhang, Wu, Zhou, Xu 2024, arXiv 2403.01165; the deviations of the code published with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

STAR_DATA = ("gsm8k", "boolq", "openbookqa")
CHOICES = frozenset({"choice"})
ANY = frozenset({"choice", "number", "text"})

DECAY = {"train.b_decay": 0.5}
PE, ME = "oracle_predictive_entropy", "@ME"


@dataclass(frozen=True)
class Variant:
    """One row of a table, one line of a figure.

    name: unique among all experiments but for equal configurations. label: for people. strategy: keys of a strategy.
    overrides: flat configuration keys -> values. control: the variant that RIPL is measured against, one of the same
    experiment. kinds: the tasks it exists for. doc: what a reader must know about it.
    """

    name: str
    label: str
    strategy: Mapping[str, Any]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    control: str = "random"
    kinds: frozenset[str] = ANY
    doc: str = ""


@dataclass(frozen=True)
class Experiment:
    """A table, a figure or a question.

    datasets: those it runs on unless others are named. probe: what is run on one seed of the variant `probed`
    afterwards. adapters: whether the adapters of all rounds are read then. panels: which variants share a pair of axes.
    """

    title: str
    doc: str
    variants: tuple[Variant, ...]
    datasets: tuple[str, ...] = STAR_DATA
    probe: Literal["confidence", "entropy", "unchanged"] | None = None
    probed: str = ""
    adapters: Literal["all", "last"] = "last"
    panels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _star(measure: str, **changes: Any) -> dict[str, Any]:
    return {"use": "star", "measure": measure, **changes}


def _plain(measure: str) -> dict[str, Any]:
    return {"use": "response_entropy", "measure": measure}


RANDOM = Variant("random", "random", {"use": "random"})
ME_STAR = Variant("me-star", "ME with STAR", _star(ME), DECAY)
METHODS: dict[str, Variant] = {
    v.name: v
    for v in (
        RANDOM,
        Variant("pe", "PE", _plain(PE)),
        Variant("pe-dynamic", "PE + dynamic", _star(PE, passes=0)),
        Variant("pe-dynamic-mc", "PE + dynamic + MC dropout", _star(PE)),
        Variant("pe-dynamic-l2", "PE + dynamic + L2", _star(PE, passes=0), DECAY),
        Variant("pe-star", "PE with STAR", _star(PE), DECAY),
        Variant("me", "ME", _plain(ME)),
        Variant("me-dynamic", "ME + dynamic", _star(ME, passes=0)),
        Variant("me-dynamic-mc", "ME + dynamic + MC dropout", _star(ME)),
        Variant("me-dynamic-l2", "ME + dynamic + L2", _star(ME, passes=0), DECAY),
        ME_STAR,
    )
}


def _methods(*names: str) -> tuple[Variant, ...]:
    return tuple(METHODS[name] for name in names)


def _asked(prefix: str, label: str, values: Mapping[str, Mapping[str, Any]]) -> tuple[Variant, ...]:
    """ME with STAR once for each value; a value's keys are flat configuration keys, or `strategy.…`."""
    found = []
    for value, keys in values.items():
        strategy = _star(ME) | {k.removeprefix("strategy."): v for k, v in keys.items() if k.startswith("strategy.")}
        overrides = DECAY | {k: v for k, v in keys.items() if not k.startswith("strategy.")}
        found.append(Variant(f"{prefix}-{value}", label.format(value), strategy, overrides))
    return tuple(found)


def _with_control(
    name: str, label: str, strategy: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[Variant, Variant]:
    """A variant behind a random row with the same training but β, so that RIPL compares queries alone."""
    training = {key: value for key, value in overrides.items() if key != "train.b_decay"}
    control = f"random-{name}"
    return (
        Variant(control, f"random, {label}", RANDOM.strategy, training, control),
        Variant(name, label, strategy, overrides, control),
    )


def _paired(variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """Each variant behind a control of its own."""
    found = []
    for v in variants:
        control, _ = _with_control(v.name, v.label, v.strategy, v.overrides)
        found += [control, replace(v, control=control.name)]
    return tuple(found)


_NEEDS_GOLD = "needs the gold answer"

# --- the questions ------------------------------------------------------------------------------

_SCHEDULES = _asked(
    "schedule",
    "ME with STAR, λ {}",
    {
        "linear": {"strategy.mix": {"schedule": "linear"}},
        "cosine": {"strategy.mix": {"schedule": "cosine"}},
        "exponential": {"strategy.mix": {"schedule": "exponential"}},
        "half": {"strategy.mix": {"schedule": "constant", "value": 0.5}},
        "base-alone": {"strategy.mix": {"schedule": "constant", "value": 1.0}},
        "tuned-alone": {"strategy.mix": "none"},
    },
)
_PASSES = _asked("passes", "ME with STAR, K {}", {str(k): {"strategy.passes": k} for k in (0, 1, 3, 10)})
_DECAY = _asked("decay", "ME with STAR, β {}", {f"{b:g}": {"train.b_decay": b} for b in (0.0, 0.5, 5.0, 50.0, 500.0)})
_DROPOUT = _asked(
    "dropout", "ME with STAR, dropout {}", {str(p): {"peft.lora_dropout": p} for p in (0.05, 0.1, 0.2, 0.5)}
)
_RANKS = _asked(
    "lora",
    "ME with STAR, LoRA {}",
    {f"r{r}-a{a}": {"peft.r": r, "peft.lora_alpha": a} for r in (4, 16, 64) for a in (8, 16, 32)},
)
_REGULARISERS = (
    ME_STAR,
    Variant(
        "swapped",
        "decay on A, dropout on B",
        _star(ME),
        {"train.weight_decay": 0.5, "train.b_dropout": 0.1, "peft.lora_dropout": 0.0},
    ),
    Variant(
        "both-on-both",
        "decay and dropout on A and B",
        _star(ME),
        DECAY | {"train.weight_decay": 0.5, "train.b_dropout": 0.1},
    ),
    Variant("dropout-on-both", "dropout on A and B, no decay", _star(ME), {"train.b_dropout": 0.1}),
    Variant(
        "decay-on-both",
        "decay on A and B, no dropout",
        _star(ME, passes=0),
        DECAY | {"train.weight_decay": 0.5, "peft.lora_dropout": 0.0},
        doc="one plain pass, since nothing is stochastic",
    ),
    Variant(
        "unregularised",
        "neither",
        _star(ME, passes=0),
        {"peft.lora_dropout": 0.0},
        doc="one plain pass, since nothing is stochastic",
    ),
)
_SCALES = _asked(
    "scale",
    "ME with STAR, {} values mixed",
    {s: {"strategy.mix": {"scale": s}} for s in ("raw", "minmax", "rank", "published")},
)
_LENGTH = (
    Variant("response-sum", "summed over the response", _star("response_entropy"), DECAY),
    Variant("response-mean", "mean per token of the response", _star("response_entropy_mean"), DECAY),
    Variant("labels", "over the labels, no response", _star("entropy"), DECAY, kinds=CHOICES),
)
_ANSWER = (
    Variant("response-sum", "whole response, summed", _star("response_entropy"), DECAY),
    Variant("answer-sum", "answer tokens, summed", _star("answer_entropy"), DECAY),
    Variant("response-mean", "whole response, per token", _star("response_entropy_mean"), DECAY),
    Variant("answer-mean", "answer tokens, per token", _star("answer_entropy_mean"), DECAY),
    Variant("pe-star", "gold response, −ln p", _star(PE), DECAY, doc=_NEEDS_GOLD),
    Variant("gold-answer", "gold answer tokens, −ln p", _star("oracle_answer_nll"), DECAY, doc=_NEEDS_GOLD),
)
_START = _asked("start", "ME with STAR, from the {} adapter", {s: {"train.start": s} for s in ("base", "previous")})
_PEFT = (
    ME_STAR,
    Variant("dora", "DoRA", _star(ME), DECAY | {"peft.use_dora": True}),
    Variant(
        "loha",
        "LoHa",
        _star(ME),
        DECAY | {"peft": {"peft_type": "LOHA", "r": "@rank", "alpha": "@rank", "module_dropout": 0.1, "target_modules": "@targets"}},
        doc="its dropout leaves out whole layers",
    ),
    Variant(
        "lokr",
        "LoKr",
        _star(ME),
        DECAY | {"peft": {"peft_type": "LOKR", "r": "@rank", "alpha": "@rank", "module_dropout": 0.1, "target_modules": "@targets"}},
        doc="its dropout leaves out whole layers",
    ),
    Variant(
        "ia3",
        "IA3",
        _star(ME, passes=0),
        DECAY | {"peft": {"peft_type": "IA3", "target_modules": "@targets", "feedforward_modules": []}},
        doc="it has no dropout, so one plain pass stands for the K passes; its scales decay towards 1",
    ),
)  # fmt: skip

# One for each deviation of the published code that decides results; their numbers are those of the specification.
# Where the paper's own measure has a deviation too, a variant takes it away instead.
_NO_PASSES = {"passes": 0}  # K equal passes are one plain pass
_MIXED_SCALES = {"scale": "published"}
_FIXED_SCHEDULE = {"schedule": "published"}
_SHORT = {"train.schedule_steps": "@test_steps"}
_PROMPT = {"data.template": "@one_prompt"}
_FORMAT = {"data.template": "@published", "data.response": "@published"}
_AS_PUBLISHED = DECAY | _SHORT | _FORMAT | _PROMPT
_PUBLISHED = (
    RANDOM,
    ME_STAR,
    Variant("published-1-gold", "1: entropy along the gold answer", _star("oracle_entropy"), DECAY, doc=_NEEDS_GOLD),
    Variant("published-2-passes", "2: passes without dropout", _star(ME, **_NO_PASSES), DECAY),
    Variant("published-3-scales", "3: base values scaled, current ones raw", _star(ME, mix=_MIXED_SCALES), DECAY),
    Variant("published-4-lambda", "4: λ tied to ten rounds", _star(ME, mix=_FIXED_SCHEDULE), DECAY),
    Variant("response-sum", "5: summed over the response", _star("response_entropy"), DECAY),
    Variant("response-mean", "5 taken away: mean per token", _star("response_entropy_mean"), DECAY),
    Variant("random-decay", "6: decay in the control too", RANDOM.strategy, DECAY),
    Variant("me-dynamic-mc", "6: the decay that hardly acts taken away", _star(ME)),
    *_with_control("published-7-schedule", "7: schedule of the test set's length", _star(ME), DECAY | _SHORT),
    *_with_control("published-8-prompt", "8: GSM8K's prompt", _star(ME), DECAY | _PROMPT),
    *_with_control("published-9-format", "9: the answer in a sentence of format", _star(ME), DECAY | _FORMAT),
    Variant("answer-sum", "9 taken away: answer tokens alone", _star("answer_entropy"), DECAY),
    Variant("random-as-published", "random, all of 1 to 9", RANDOM.strategy, _AS_PUBLISHED, "random-as-published"),
    Variant(
        "published-all",
        "1 to 9 together",
        _star("oracle_entropy", **_NO_PASSES, mix=_MIXED_SCALES | _FIXED_SCHEDULE),
        _AS_PUBLISHED,
        "random-as-published",
        doc=_NEEDS_GOLD,
    ),
)


# --- the table ----------------------------------------------------------------------------------

_TABLE1 = _methods("random", "pe", "me", "pe-star", "me-star")
_FIG5 = {"PE": ("random", "pe", "pe-star"), "ME": ("random", "me", "me-star")}
_PE_ROWS = ("pe", "pe-dynamic", "pe-dynamic-mc", "pe-dynamic-l2")
_ME_ROWS = ("me", "me-dynamic", "me-dynamic-mc", "me-dynamic-l2")
_FULL = {"peft": {"peft_type": "FULL"}, "train.learning_rate": "@full_rate"}

EXPERIMENTS: dict[str, Experiment] = {
    "table1": Experiment(
        "Table 1: random, PE and ME, each with STAR",
        "AUC and RIPL of the paper's five methods.",
        _TABLE1,
        panels=_FIG5,
    ),
    "table2": Experiment(
        "Table 2: the ablation",
        "What the dynamic mix, Monte-Carlo dropout and decay of B add, one by one.",
        _methods("random", *_PE_ROWS, *_ME_ROWS),
        panels={"PE": ("random", *_PE_ROWS), "ME": ("random", *_ME_ROWS)},
    ),
    "fig1": Experiment(
        "Figure 1: active learning under LoRA and under full fine-tuning",
        "Does uncertainty help full fine-tuning where it fails LoRA?",
        (
            RANDOM,
            METHODS["me"],
            Variant("random-full", "random, full fine-tuning", RANDOM.strategy, _FULL, "random-full"),
            Variant("me-full", "ME, full fine-tuning", _plain(ME), _FULL, "random-full"),
        ),
        datasets=("openbookqa",),
        panels={"LoRA": ("random", "me"), "full fine-tuning": ("random-full", "me-full")},
    ),
    "fig2": Experiment(
        "Figure 2: confidence of wrong predictions",
        "Is the tuned model surer of its mistakes than the few-shot base?",
        (RANDOM,),
        datasets=("boolq",),
        probe="confidence",
        probed="random",
    ),
    "fig3": Experiment(
        "Figure 3: entropies across rounds",
        "Do the examples most uncertain at the start stay so?",
        (RANDOM, METHODS["me"]),
        datasets=("boolq",),
        probe="entropy",
        probed="me",
        adapters="all",
    ),
    "fig5": Experiment(
        "Figure 5: the learning curves of Table 1", "The curves behind the areas.", _TABLE1, panels=_FIG5
    ),
    "unchanged": Experiment(
        "Examples whose prediction did not change",
        "How do confidence and entropy move where the answer stays the same?",
        (RANDOM, METHODS["me"]),
        datasets=("boolq",),
        probe="unchanged",
        probed="me",
        adapters="all",
    ),
    "schedules": Experiment("λ schedules", "How should the base model's weight fall?", (RANDOM, *_SCHEDULES)),
    "passes": Experiment("Monte-Carlo passes", "How many passes K are worth their time?", (RANDOM, *_PASSES)),
    "decay": Experiment("Decay of B", "From which β on does it act?", (RANDOM, *_DECAY)),
    "dropout": Experiment("Dropout rate", "How much dropout do training and passes need?", _paired(_DROPOUT)),
    "rank-alpha": Experiment("LoRA's rank and alpha", "How much hangs on them?", _paired(_RANKS)),
    "regularisers": Experiment(
        "Other pairings of regularisers",
        "Is decay on B with dropout on A the right way round?",
        (RANDOM, *_REGULARISERS),
    ),
    "scale": Experiment("Scale of the mix", "Raw values, min-max, ranks, or the published code's?", (RANDOM, *_SCALES)),
    "length": Experiment("Sum or mean", "Does the sum select by length?", (RANDOM, *_LENGTH)),
    "start": Experiment("Where a round starts", "A fresh adapter or the last one?", _paired(_START)),
    "peft": Experiment("Other adapters", "Does STAR carry over?", _paired(_PEFT)),
    "answer-tokens": Experiment(
        "Answer tokens or the whole response", "How much of the score is format?", (RANDOM, *_ANSWER)
    ),
    "published-code": Experiment(
        "The published code's deviations, one by one", "What does each of them do to the curve?", _PUBLISHED
    ),
}
