"""What a training chooses or adds beside its plain steps: sampled layers, the layers and the rank by Fisher information and
search, SPEFT's entries, the density of activations. `train` calls it; models and losses come as callables."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import nn

from guidestar.config import RunConfig, TrainConfig
from guidestar.errors import ConfigError, needed
from guidestar.model import adapters, layers
from guidestar.model.dropout import own_parts
from guidestar.model.heads import Model
from guidestar.model.peft import speft
from guidestar.records import Array

BRIEF = 20  # steps of a training before layers are chosen, and of each rank that is tried
TRIALS = 6  # of the search of the rank
FOLDS = 4  # each rank is judged on every fourth example
EPSILON = 1e-7  # of the density of activations

Loss = Callable[[Sequence[Any]], torch.Tensor]  # the sum of −log p over some rows, in nats, without dropout
Attempt = Callable[[Mapping[str, Any], Sequence[Any]], AbstractContextManager[tuple[Model, Loss]]]


def check(config: RunConfig, model: Model) -> None:
    """Raise ConfigError for settings that cannot work together, or not with this model and its adapter."""
    train, own = config.train, layers.split(config.peft)[1]
    if own.get("layers") == "fisher" and (train.start == "previous" or config.tapt is not None):
        other = "tapt" if config.tapt is not None else "train.start: previous"
        raise ConfigError(f"peft.layers: fisher chooses the layers of every round anew; leave {other} out")
    if config.peft.get("renew") and (train.patience or train.early_stop):
        raise ConfigError("peft.renew changes what a weight stands for; leave out train.patience and early_stop")
    if "rank" in own:
        optuna_of("peft.rank: search")
    if train.layers:
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        layers.Sampled(train.layers, 1.0, trainable, {}, lambda rows: 0.0, (), 0)
    if train.activation_density:
        activations(model)


def brief(config: TrainConfig) -> TrainConfig:
    """The same training, short and plain."""
    none = dict.fromkeys(("early_stop", "schedule_steps", "layers", "activation_density"))
    return config.model_copy(update={**none, "patience": 0, "epochs": 1, "min_steps": BRIEF})


class Beside:
    """What one training does beside its plain steps."""

    def __init__(
        self, model: Model, config: TrainConfig, peft: Mapping[str, Any], starts: Mapping[str, torch.Tensor], loss: Loss,
        rows: Sequence[Any], seed: int,
    ) -> None:  # fmt: skip
        self._rows, self._loss, self._model, self._peft, self._size = rows, loss, model, peft, config.batch_size
        self._density = ActivationDensity(model, config.activation_density) if config.activation_density else None
        self._first = self._measured()
        self._sampled: layers.Sampled | None = None
        if config.layers:
            trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
            share = config.layers_share or layers.SHARE
            self._sampled = layers.Sampled(config.layers, share, trainable, starts, self._mean, rows, seed)

    def _mean(self, rows: Sequence[Any]) -> float:
        self._model.eval()
        value = float(self._loss(rows)) / sum(len(row.response) for row in rows)
        self._model.train()
        return value

    def before(self, done: int, optimizer: Any) -> None:
        """Before every step. done: steps that have been made."""
        if self._sampled is not None:
            self._sampled.before(done)
        renew = int(self._peft.get("renew") or 0)
        if renew and done and done % renew == 0:
            self.place(optimizer)

    def place(self, optimizer: Any = None) -> None:
        """Choose SPEFT's entries by their salience on the rows of the training."""
        how = str(self._peft.get("salience", "gradient"))
        self._model.eval()
        speft.place(self._model, lambda w: speft.salience(how, w, self._loss, self._rows, self._size), optimizer)
        self._model.train()

    def term(self, share: float) -> torch.Tensor | float:
        """What is added to the loss of a share of a batch."""
        return 0.0 if self._density is None else share * self._density.term()

    def _measured(self) -> Array | None:
        return None if self._density is None else self._density.measured(lambda row: self._loss([row]), self._rows)

    def end(self) -> dict[str, Array]:
        """What was estimated and measured, by layer: `importance` (`layers.Sampled`), and the `density` of activations of
        this training's rows, before and after it, (2, layers)."""
        arrays = {} if self._sampled is None else self._sampled.end()
        if self._first is not None and (after := self._measured()) is not None:
            arrays["density"] = np.stack([self._first, after])
        self.close()
        return arrays

    def close(self) -> None:
        """Listen to the model no longer."""
        if self._density is not None:
            self._density.end()


# --- the density of activations ---------------------------------------------------------------------


def activations(model: Model) -> list[nn.Module]:
    """The activation functions of the blocks of the model below an adapter, in order. Raises ConfigError if there are none
    that are modules."""
    from transformers.activations import ACT2FN

    names = ("relu", "relu2", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "quick_gelu", "mish")
    kinds = {type(ACT2FN[name]) for name in names}
    added = {id(child) for _, _, child in own_parts(model)}
    every = adapters.inner(model).named_modules()
    modules = [m for name, m in every if type(m) in kinds and id(m) not in added and layers.block_of(name)]
    if not modules:
        raise ConfigError("train.activation_density finds no activation function in this model's layers; leave it out")
    return modules


class ActivationDensity:
    """How many activations are not zero, as a term of the loss (`train.activation_density`), and measured. Padding counts as
    tokens do.

        L = L_task + w · mean over layers of mean(a² / (a² + ε)),  a: what the activation function of a block gives out

    a²/(a² + ε) is 1 for all but the smallest a, so the term falls as activations become 0. That happens in models with ReLU or
    a function that is 0 for much of its input. GELU and SiLU are almost never 0: there the density stays near 1, and the
    term says nothing of the work that could be left out.
    Source: "From PEFT to DEFT" (arXiv 2402.01911; ε = 1e-7, w = 1). Neither PEFT's own DEFT nor STAR's, which are other things.
    """

    def __init__(self, model: Model, weight: float) -> None:
        """Listens to the model from now on, until `end`. Only what it says in train mode is in the term."""
        self._model, self._weight = model, weight
        self._terms: list[torch.Tensor] = []
        self._shares: list[float] | None = None
        self._hooks = [m.register_forward_hook(self._hear) for m in activations(model)]

    def _hear(self, module: nn.Module, args: Any, out: torch.Tensor) -> None:
        if self._shares is not None:
            self._shares.append(float((out != 0).float().mean()))
        elif module.training:
            squares = out.float().square()
            self._terms.append((squares / (squares + EPSILON)).mean())

    def term(self) -> torch.Tensor:
        """The term of what the model has said since the last call: a number from 0 to w."""
        mean = torch.stack(self._terms).mean()
        self._terms.clear()
        return self._weight * mean

    @torch.no_grad()
    def measured(self, say: Callable[[Any], object], rows: Sequence[Any]) -> Array:
        """The share of activations that are not zero, (layers,), the mean over rows. say: one row through the model."""
        self._model.eval()
        shares = []
        for row in rows:
            self._shares = []
            say(row)
            shares.append(self._shares)
        self._shares = None
        return np.asarray(shares, dtype=np.float64).mean(axis=0)

    def end(self) -> None:
        """Listen no longer."""
        while self._hooks:
            self._hooks.pop().remove()


# --- layers and rank ----------------------------------------------------------------------------------


def by_fisher(
    peft: Mapping[str, Any], rows: Sequence[Any], attempt: Attempt, seed: int
) -> tuple[dict[str, Any], dict[str, Array]]:
    """The settings of an adapter whose layers, and maybe rank, are to be chosen, with what was chosen in their place.

    attempt: a short training of an adapter on some rows. Returns also `fisher` (layers,), `layers` that were chosen, and,
    where ranks were tried, `ranks` (tried, 2): each with the nats of an answer's token on examples it was not trained on.
    Source: FLoE (arXiv 2506.00495); its mixture of experts is left out.
    """
    options, own = layers.split(peft)
    with attempt(options, rows) as (model, loss):
        parts = layers.by_block({n: p for n, p in model.named_parameters() if p.requires_grad})
        if len(parts) < 2:
            raise ConfigError(f"peft.layers: fisher needs an adapter on several layers; this one is on {len(parts)}")
        information = layers.fisher(lambda row: loss([row]), parts, rows)
    chosen = layers.largest(information, own.get("layers_share", layers.SHARE))
    arrays = {"fisher": information, "layers": np.asarray(chosen)}
    options["layers"] = chosen
    if "rank" in own:
        held, rest = rows[::FOLDS], [row for i, row in enumerate(rows) if i % FOLDS]

        def nats(r: int) -> float:
            with attempt(_of_rank(options, r), rest or rows) as (_, loss), torch.no_grad():
                return float(loss(held)) / sum(len(row.response) for row in held)

        tried = search_rank(int(options["r"]), nats, seed)
        arrays["ranks"] = np.array(sorted(tried.items()), dtype=np.float64)
        options = _of_rank(options, min(tried, key=lambda r: (tried[r], r)))
    return options, arrays


def _of_rank(options: Mapping[str, Any], r: int) -> dict[str, Any]:
    """The same adapter with another rank and the same factor alpha / r."""
    alpha = {"lora_alpha": options["lora_alpha"] * r / options["r"]} if "lora_alpha" in options else {}
    return {**options, "r": r, **alpha}


def search_rank(r: int, nats: Callable[[int], float], seed: int) -> dict[int, float]:
    """Powers of two up to 2 r that were tried -> nats, by Bayesian optimisation of six trials; one that comes again is not
    trained again."""
    optuna = optuna_of("peft.rank: search")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sampler is called experimental
        sampler = optuna.samplers.GPSampler(seed=seed % 2**32, n_startup_trials=3, deterministic_objective=True)
    study = optuna.create_study(sampler=sampler)
    tried: dict[int, float] = {}
    for _ in range(TRIALS):
        trial = study.ask()
        rank = 2 ** trial.suggest_int("log2 r", 0, (2 * r).bit_length() - 1)
        if rank not in tried:
            tried[rank] = nats(rank)
        study.tell(trial, tried[rank])
    return tried


def optuna_of(what: str) -> Any:
    """The module optuna. Raises ConfigError naming what needs it where it is not installed."""
    optuna = needed("optuna", what, "search")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
