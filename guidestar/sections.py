"""The sections of a configuration that say how examples are chosen and models trained; the others are in `schema`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)


class Section(BaseModel):
    """A section, whose keys are described by the texts below them.

    newer: keys that came after the first runs. Left at None they are not written, so that the fingerprints of an
    older configuration stay what they were."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)
    newer: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        for key in cls.model_fields.values():
            key.description = " ".join((key.description or "").split()) or None  # one line each

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in plain(self).items() if value is not None or key not in self.newer}


WarmStart = Literal["random", "herding", "typical", "k_means"]


class QueryConfig(Section):
    """How many labels are asked for, and when."""

    newer = frozenset({"warm_start_by", "hold_out"})

    warm_start: int = Field(100, ge=1)
    """Labels of round 0."""
    batch: int = Field(50, ge=1)
    """Labels asked for in every further round."""
    budget: int = Field(400, ge=1)
    """Labels in all, the warm start included. A run goes on if it is raised (`docs/advice.md`)."""
    candidates: int | None = Field(None, ge=1)
    """Score only a random subset of the pool of this size each round; default: the whole pool."""
    random_share: float | None = Field(None, ge=0, lt=1)
    """Share of the picks after the warm start that is drawn at random from the pool, as an unbiased sample
    (`docs/control.md`). Default: 0.1 where people or an endpoint answer, 0 in a simulation and for `random`."""

    warm_start_by: WarmStart | None = None
    """How round 0 is chosen, for every strategy of a seed the same: at random, or on frozen features, by herding
    (the batch that covers most), typical (of the largest clusters) or k_means. Default: each strategy's own, which
    is random but for `herding` and `lean`."""

    hold_out: float | None = Field(None, ge=0, le=0.5)
    """Where people or an endpoint answer and there is no test set: this share of the labels that are asked for is drawn at
    random, asked first and set aside as the test set. Nothing is trained on it or chosen by it, so it costs these labels
    (`docs/control.md`). Default: none."""

    @property
    def rounds(self) -> int:
        """Points of the learning curve: the warm start and every further batch, the last one maybe smaller."""
        return 1 + max(0, -(-(self.budget - self.held_out() - self.warm_start) // self.batch))

    def held_out(self, given: int = 0) -> int:
        """Labels of the budget that are set aside as the test set. given: labels that nobody has to be asked for."""
        return round((self.hold_out or 0.0) * max(self.budget - given, 0))


class MixConfig(Section):
    """STAR's dynamic uncertainty, μ = λ(t) μ_base + (1 − λ(t)) μ_full (eq. 5)."""

    schedule: Literal["linear", "cosine", "exponential", "constant", "published"] = "linear"
    """How λ falls with the rounds; linear is 1 − (t+1)/T, and `published` the published code's 1 − 0.1 (t+1),
    whatever T is."""
    scale: Literal["raw", "minmax", "rank", "published"] = "raw"
    """What base and full uncertainties are brought to before the mix; raw is the paper's, `published` the published
    code's: the base's min-max scaled, the full model's raw."""
    value: float = Field(0.5, ge=0, le=1)
    """λ of the constant schedule."""
    rate: float = Field(3.0, gt=0)
    """Decay of the exponential schedule: λ = exp(−rate (t+1)/T)."""
    base: Literal["prototypes", "head"] | None = None
    """What the base model says where a classification head answers, which is noise before its training: prototypes
    (the default), the nearest class mean of the base model's embeddings of the labelled examples; head, the trained
    head on the base model without adapter. Where label words answer it changes nothing."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,60}")  # of a strategy: it names folders


class StrategyConfig(Section):
    """A query strategy: a name of `guidestar strategies`, and what differs from it."""

    newer = frozenset({"model", "warm_start"})

    use: str
    """The strategy this one is made from; see `guidestar strategies`."""
    name: str | None = None
    """The name in folders and reports; default: the value of `use`."""
    measure: str | None = None
    """The uncertainty measure; auto is entropy for a choice, else response_entropy."""
    model: Literal["tuned", "frozen", "mixed"] | None = None
    """Whose label probabilities and embeddings are looked at: the tuned model's (default), or those of a classifier
    on frozen features, which costs nothing and knows something after ten labels. mixed: the embeddings of the classifier, and
    both models' probabilities, λ of the classifier's and 1 − λ of the tuned model's; λ is measured on the labels given so
    far, as both models predicted them before they had seen them."""
    warm_start: WarmStart | None = None
    """How this strategy chooses round 0, if `query.warm_start_by` says nothing; default random."""
    passes: int | None = Field(None, ge=0, le=1000)
    """K Monte-Carlo passes with the adapter's dropout on; 0 is one plain pass."""
    committee: int | None = Field(None, ge=2, le=100)
    """The passes are this many adapters, trained on the same labels from different seeds (query by committee). One
    is the round's own, the others cost a training each, in every round that chooses."""
    samples: int | None = Field(None, ge=2, le=1000)
    """Responses to sample of each candidate, for `answer_consistency`; default 10."""
    temperature: float | None = Field(None, gt=0, le=10)
    """What the logits are divided by before a response is sampled; default 1."""
    dropout: Literal["adapter", "model"] | None = None
    """Which dropout is on in the passes: the adapter's own (default, STAR's), or the whole model's as in training,
    which encoders such as BERT have and most causal language models do not."""
    mix: MixConfig | Literal["none"] | None = None
    """Mix base and full uncertainty (STAR); none switches it off."""
    clip_outliers: float | None = Field(None, ge=0, lt=1)
    """Leave out this share of the candidates, those that score highest, as likely noise."""
    near_duplicates: float | None = Field(None, gt=0, le=1)
    """Leave out candidates with a (centred) cosine similarity of at least this to one that scores higher."""
    prefilter: float | None = Field(None, ge=1)
    """Keep the batch size times this many of the highest scores for the selector."""
    racing: bool | None = None
    """Make only as many Monte-Carlo passes over a candidate as it takes to tell whether it is among the batch's
    highest mean scores: about a third of them, nearly all the same picks (`query/racing.py`)."""
    select: str | None = None
    """How the batch is drawn from what is left; a selector of `docs/strategies.md`."""
    balance: bool | None = None
    """Fill the batch by predicted class, rarest labelled class first."""
    options: dict[str, float] | None = None
    """Numbers that the selector is told, by name."""
    subpool: str | None = None
    """Score only the part of the pool that is similar to the labelled examples, for pools with rare classes:
    anchors (AnchorAL) or neighbours (SEALS)."""
    subpool_size: int | None = Field(None, ge=1)
    """Candidates that are scored of a sub-pool, at least the batch; default 1,000."""

    @property
    def title(self) -> str:
        """The name used for folders and legends."""
        return self.name or self.use

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        if value is not None and not NAME.fullmatch(value):
            raise ValueError("must be letters, digits and . _ + - only, at most 61 of them")
        return value


class Problems(ValueError):
    """Several problems of one validation, each with its place."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(f"{where} {what}" for where, what in problems))


WEAK = 0.3  # what an endpoint's answer counts beside a label where `pseudo_labels` does not say
GONE = ("head_first", "average")  # of `train`, in older versions


class TrainConfig(Section):
    """Fine-tuning of one round. The same for every strategy, so that only the picks differ."""

    newer = frozenset({
        "recipe", "min_steps", "pseudo_labels", "weak_labels", "checkpointing", "layers", "layers_share", "activation_density",
    })  # fmt: skip

    recipe: Literal["plain", "lean"] | None = None
    """What is meant where `min_steps` or `learning_rate` is not given. lean: what moves a model with few labels, by
    its kind (`docs/training.md`). plain (the default): no such floor, and the learning rate below."""
    epochs: int = Field(6, ge=1)
    """Passes over the labelled examples."""
    min_steps: int | None = Field(None, ge=0)
    """Optimiser steps at least: the passes are repeated until there are that many."""
    pseudo_labels: float | None = Field(None, ge=0, le=1)
    """What a pseudo-label counts in training, where a label counts 1; 0.3 is a start, 0 makes none. They are
    answers that a classifier on frozen features and the neighbours of an example agree on, about two a label, and
    are left out where they worsen that classifier's log-loss out of fold. For classes alone."""
    weak_labels: int | None = Field(None, ge=1)
    """How many texts of the pool, drawn at random, the model of `endpoint` labels, once for all runs. Its answers take the
    place of pseudo-labels, under the same condition, and each counts `pseudo_labels`, or 0.3; none counts as a label of
    people (`docs/training.md`)."""
    batch_size: int = Field(8, ge=1)
    """Examples of one optimiser step."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Examples of one forward pass; gradients are summed up to batch_size. Default: batch_size."""
    checkpointing: bool | None = None
    """Keep each layer's input alone for the backward pass and compute the rest again: the same training with a third
    more time and a fraction of the activations' memory. Default: off."""
    learning_rate: float | None = Field(5e-4, gt=0)
    """Peak learning rate of AdamW; null: the recipe's own."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps with a rising learning rate; it falls linearly to 0 after."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    b_decay: float = Field(0.5, ge=0)
    """β of STAR's eq. 6: decoupled decay of the tensors that start as constants (LoRA's B) to their start."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of the other adapter tensors (LoRA's A)."""
    b_dropout: float | None = Field(None, gt=0, lt=1)
    """Dropout on the input of LoRA's B, in training and in Monte-Carlo passes; PEFT has none there."""
    layers: Literal["ist", "rst"] | None = None
    """Train only some layers of the adapter in each step, whatever its type. ist: drawn by an estimate of their
    importance (importance-aware sparse tuning); rst: drawn evenly, its control. Default: all, in every step."""
    layers_share: float | None = Field(None, gt=0, le=1)
    """Share of the layers that `layers` draws for a step; default 0.25."""
    activation_density: float | None = Field(None, gt=0)
    """Weight of a term of the loss that makes the activations of feed-forward layers 0 (1 in its paper). It means
    something for models with ReLU or the like: GELU and SiLU are hardly ever 0 (`docs/methods.md`)."""
    schedule_steps: int | None = Field(None, ge=1)
    """Length of the learning-rate schedule in steps; the rate is 0 after. Default: the real number of steps."""
    start: Literal["base", "previous"] = "base"
    """Where each round starts: a fresh adapter, or the last one."""
    patience: int = Field(0, ge=0)
    """Stop after this many epochs without a lower validation loss and keep the best; 0 trains to the end."""
    early_stop: Literal["beast", "smoothest_epoch", "oracle_epoch"] | None = None
    """oracle_epoch: in a simulation, keep each round's epoch with the best accuracy on the *test* set, as the
    published notebook of Jukić and Šnajder does: such a curve is too high, and the report says so. beast: for a
    choice, end the training when the labels have become smoother on the middle third of the layers than on the last
    (BEAST), from the sixth epoch on. smoothest_epoch: for a choice, keep the epoch in which they are smoothest over
    all layers. For these two no validation set is needed, a forest a layer and epoch is."""

    @property
    def pseudo_weight(self) -> float:
        """What an answer counts in training that no person gave; 0 where none is made."""
        if self.pseudo_labels is None:
            return WEAK if self.weak_labels else 0.0
        return self.pseudo_labels

    @model_validator(mode="before")
    @classmethod
    def _rate_of_recipe(cls, given: Any) -> Any:
        """A learning rate that is not given is the recipe's, which depends on the kind of model. Keys that are gone mean nothing
        where an older version wrote them at their defaults."""
        if not isinstance(given, Mapping):
            return given
        if gone := [key for key in GONE if given.get(key)]:
            raise Problems([(f"train.{gone[0]}", "is gone: it brought nothing (docs/training.md); leave it out")])
        rate = {"learning_rate": None} if given.get("recipe") == "lean" else {}
        return rate | {key: value for key, value in given.items() if key not in GONE}


class TrainerConfig(Section):
    """Where a training runs. It changes no result beyond rounding and the dropout masks."""

    use: Literal["here", "ddp", "fsdp2"] = "here"
    """here: one process. ddp: the processes that torchrun starts share every batch, each with a copy of the model.
    fsdp2: the same with the model spread over them, which one GPU then need not hold."""


class TaptConfig(Section):
    """Task-adaptive pretraining: the adapter reads the pool's prompts before any label, once for all runs, and every round
    starts from it. STAR's base uncertainty stays that of the bare base model."""

    epochs: int = Field(3, ge=1)
    """Passes over the pool's prompts."""
    batch_size: int = Field(8, ge=1)
    """Prompts of one optimiser step."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate of AdamW."""
    mask: float = Field(0.15, gt=0, lt=1)
    """Encoders: share of the tokens that are to be predicted."""
    seed: int = Field(0, ge=0)
    """Of the adapter's start, the order and the masks; the same for every run seed."""


class WorkersConfig(Section):
    """Workers of an engine (`docs/scale.md`)."""

    workers: int = Field(1, ge=1)
    """Items at one time."""
    gpus: float = Field(0, ge=0)
    """GPUs of each worker on Ray and Slurm; on this machine they are dealt out."""
    options: dict[str, Any] = Field(default_factory=dict)
    """For the engine itself: arguments of `ray.init` such as address, or submitit's parameters such as timeout_min."""


class CellsConfig(WorkersConfig):
    """Where the cells of a study run. It changes no result."""

    use: Literal["local", "ray", "slurm"] = "local"
    """local: processes on this machine, with one worker the command's own; ray: a Ray cluster, or this machine as one;
    slurm: an array of jobs."""


class ScoreConfig(WorkersConfig):
    """Who asks the models about the pool."""

    use: Literal["here", "local", "ray", "vllm"] = "here"
    """here: the command's own process; local: processes on this machine; ray: workers of a Ray cluster; vllm: vLLM in the
    command's process, for label words and responses under LoRA (`options` are arguments of its `LLM`). Answers that
    are generated for the curve stay here."""
    part: int | None = Field(None, ge=16)
    """Texts of a part, which is the work that a stop loses. Default 16,384. Masks of dropout are drawn by part, so it must
    stay the same while a run lasts."""
    folder: str | None = None
    """Workers that share no file system with the command: where parts and adapters are exchanged, a URL for fsspec such as
    s3://bucket/guidestar (its package, s3fs, must be installed everywhere). Default: the run's own folder."""


class EngineConfig(Section):
    """Where the work is done (`docs/scale.md`); without it, in the command's own process."""

    cells: CellsConfig = Field(default_factory=CellsConfig)
    score: ScoreConfig = Field(default_factory=ScoreConfig)
    train: TrainerConfig = Field(default_factory=TrainerConfig)
    """Several processes for one training."""


# Adapters that read no weight of the base model before it computes; keys of the LoRA that vLLM serves.
SPREADABLE = ("LORA", "IA3", "LOHA", "LOKR")
SERVABLE = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "init_lora_weights")


def impossible(
    train: TrainConfig, peft: Mapping[str, Any], model: Any, engine: EngineConfig
) -> Iterator[tuple[str, str]]:
    """What of a training, its adapter, the base model and the processes cannot be together: (key, why)."""
    kind, use, micro = str(peft.get("peft_type", "")).upper(), engine.train.use, train.micro_batch_size
    measured = [f"train.{key}" for key in ("layers", "activation_density") if getattr(train, key)]
    measured += [f"peft.{key}" for key in ("layers", "rank") if peft.get(key) in ("fisher", "search")]
    measured += ["peft_type SPEFT"] if kind == "SPEFT" else []
    on_head = re.search("lm_head|embed", str(peft.get("target_modules")))  # lost in prompt_logprobs, vLLM's issue 51594
    pinned = re.fullmatch(r"[0-9a-f]{40}", model.revision or "")
    rules = [
        (train.learning_rate is None and train.recipe != "lean", "train.learning_rate",
         "is empty; give a number, or train.recipe: lean"),
        (train.patience and train.early_stop, "train.early_stop",
         "is set together with train.patience; leave one of them out"),
        (use == "fsdp2" and (kind not in SPREADABLE or peft.get("use_dora")), "engine.train.use",
         f"is fsdp2, which has the base model whole nowhere, as {'DoRA' if peft.get('use_dora') else kind} needs it; allowed "
         f"adapters: {', '.join(SPREADABLE)}"),
        (use == "fsdp2" and (model.quantize or model.score_dtype), "engine.train.use",
         "is fsdp2, together with model.quantize or model.score_dtype, which change the base model's weights; leave one out"),
        (train.checkpointing and train.activation_density, "train.checkpointing",
         "is set together with train.activation_density, which must see each layer once; leave one of them out"),
        (engine.score.folder and engine.score.use not in ("local", "ray"), "engine.score.folder",
         f"is set and engine.score.use is {engine.score.use}, which has no workers that could write there; allowed: local, ray"),
        ((engine.score.folder or "").startswith("memory:"), "engine.score.folder",
         "is in the memory of one process, which workers do not share; give a folder or a bucket, file://… or s3://…"),
        (engine.score.use == "vllm" and (kind != "LORA" or peft.keys() - SERVABLE or on_head), "engine.score.use",
         f"is vllm, which serves plain LoRA below the vocabulary's projection; allowed keys of peft: {', '.join(SERVABLE)}"),
        (engine.score.use == "vllm" and (model.quantize or model.remote_code or use != "here"), "engine.score.use",
         "is vllm, together with model.quantize, model.remote_code or engine.train.use, which it does not go with; leave one out"),
        (use != "here" and measured, "engine.train.use",
         f"is {use}, and {', '.join(measured)} would be measured by one process alone; leave one out"),
        (use != "here" and model.device_map, "model.device_map",
         f"is set together with engine.train.use: {use}, where each process has one GPU; leave one out"),
        (model.quantize and model.score_dtype, "model.score_dtype",
         "is set together with model.quantize, whose weights have no other precision; leave one of them out"),
        (model.quantize and kind == "FULL", "model.quantize",
         "is set together with peft_type FULL, which cannot train quantised weights; use an adapter, or leave it out"),
        (model.remote_code and not pinned, "model.remote_code",
         "needs model.revision pinned to a commit of 40 hex digits"),
        (micro and train.batch_size % micro, "train.micro_batch_size",
         f"is {micro}, which does not divide batch_size {train.batch_size}"),
    ]  # fmt: skip
    return ((key, why) for wrong, key, why in rules if wrong)
