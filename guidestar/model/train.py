"""Fine-tuning of one round: a short loop on accelerate.

The loss is the mean −log p over the tokens of the answers (end token included), and the vocabulary's
logits are computed there alone. STAR's regularisation (eq. 6) is `b_decay`: before each step the tensors
that started as constants move towards that start by learning rate × β, in the decoupled form of AdamW; the
dropout on the other path is the adapter's own (`lora_dropout`). `b_dropout` adds one before B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from guidestar.asking import HeadStart, Labelled, Trained, Weighted, evaluate, silent
from guidestar.config import TrainConfig
from guidestar.data.pool import Split
from guidestar.errors import ModelError
from guidestar.model import adapters, beast, classify, full, heads, ranks, sparse, step
from guidestar.model.batches import encode_answer, encode_prompts, ends, epoch_batches, pad_left
from guidestar.model.device import moved, seeded
from guidestar.model.dynamics import Listener
from guidestar.model.load import BaseModel, Model
from guidestar.model.recipe import settled
from guidestar.model.scorer import OwnScorer
from guidestar.model.words import last_logits
from guidestar.progress import Tick
from guidestar.records import Array
from guidestar.tasks import Task


@dataclass(frozen=True)
class _Row:
    prompt: list[int]
    response: list[int]  # end token included; with a classification head see `classify.positions`
    place: int = field(default=0, compare=False)  # among the labelled examples, −1 for others
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


def train(
    base: BaseModel, peft: dict[str, Any], config: TrainConfig, labelled: Labelled, task: Task, folder: Path, *, seed: int,
    previous: Path | None = None, pretrained: Path | None = None, validation: Labelled = (),
    extra: Sequence[Weighted] = (), start: HeadStart | None = None, oracle: Split | None = None, tick: Tick = silent,
) -> Trained:  # fmt: skip
    """Train an adapter, or a full copy, on `labelled` and write it to `folder`. The base model is left as it was.

    seed to oracle: as a `Lesson` has them. From a pretrained adapter, too, what decays goes to the start of one that is not, and
    a classification head is new. tick: called with (steps done, steps in all).
    Raises ModelError when the loss is not finite or the adapter has nothing to train.
    """
    if not labelled:
        raise ModelError("there is no labelled example to train on")
    (rows, cut), (held_out, _) = _rows(base, task, labelled), _rows(base, task, validation)
    answers, _ = _rows(base, task, [(example, answer) for example, answer, _ in extra])
    rows += [replace(row, place=-1, weight=weight) for row, (_, _, weight) in zip(answers, extra, strict=True)]
    config = settled(config, heads.kind(base), peft)
    arrays: dict[str, Array] = {}

    @contextmanager
    def begun(peft: dict[str, Any]) -> Iterator[tuple[Model, dict[str, torch.Tensor], sparse.Loss]]:
        """A model to train, what decays, and its loss on some rows without dropout."""
        model, starts = _begin(base, peft, config, seed, previous, pretrained)
        try:
            if start is not None:
                heads.begin(adapters.inner(model), start)
            yield model, starts, partial(_nats, base, model)
        finally:
            adapters.detach(model)

    @contextmanager
    def attempt(peft: Mapping[str, Any], some: Sequence[_Row]) -> Iterator[tuple[Model, sparse.Loss]]:
        with begun(dict(peft)) as (model, starts, loss):
            _Loop(base, model, sparse.brief(config), some, starts, seed, listener=Listener(base, task, labelled)).run()
            model.eval()
            yield model, loss

    if peft.get("layers") == "fisher":
        peft, arrays = sparse.by_fisher(peft, rows, attempt, seed)
    with begun(peft) as (model, starts, loss):
        listener = Listener(base, task, labelled)
        over = beast.watcher(base, model, task, labelled) if config.early_stop == "beast" else None
        judge = _judge(base, model, config, labelled, held_out, oracle, task)
        beside = sparse.Beside(model, config, peft, starts, loss, rows, seed)
        group = ranks.here()
        try:
            if str(peft.get("peft_type")).upper() == "SPEFT" and previous is None:
                beside.place()
            group.tell(
                {
                    "do": "train", "fingerprint": base.fingerprint, "peft": peft, "config": config.model_dump(mode="json"),
                    "seed": seed, "previous": ranks.place(previous), "pretrained": ranks.place(pretrained),
                    "rows": [astuple(row) for row in rows], "judged": judge is not None, "over": over is not None,
                }
            )  # fmt: skip
            loop = _Loop(
                base, model, config, rows, starts, seed, tick, judge=judge, over=over, listener=listener, beside=beside
            )
            result, arrays = loop.run(), arrays | beside.end()
        finally:
            beside.close()
        adapters.save(model, folder)
    dynamics = listener.dynamics() if group.count == 1 else None  # it heard its share alone
    return replace(result, cut=cut, dynamics=dynamics, arrays=arrays)


def follow(base: BaseModel, config: TrainConfig, order: Mapping[str, Any]) -> None:
    """Take part in a training that rank 0 makes (`ranks`): nothing is judged, saved or returned here."""
    places = [None if order[name] is None else Path(order[name]) for name in ("previous", "pretrained")]
    model, starts = _begin(base, order["peft"], config, order["seed"], *places)
    rows = [_Row(*row) for row in order["rows"]]
    judge = (lambda: 0.0) if order["judged"] else None
    over = (lambda: False) if order["over"] else None
    try:
        _Loop(base, model, config, rows, starts, order["seed"], judge=judge, over=over).run()
    finally:
        adapters.detach(model)


def _judge(
    base: BaseModel, model: Model, config: TrainConfig, labelled: Labelled, held_out: list[_Row], oracle: Split | None,
    task: Task,
) -> Callable[[], float] | None:  # fmt: skip
    """What is asked after each epoch, the lower the better, to keep the best one; None keeps the last."""
    if config.early_stop == "oracle_epoch" and oracle is not None:
        split = oracle

        def wrong() -> float:
            model.eval()
            return 1.0 - evaluate(OwnScorer(base, task, live=model), split, task)[0]["accuracy"]

        return wrong
    if config.early_stop == "smoothest_epoch":
        return beast.roughness(base, model, task, labelled)
    if not (config.patience and held_out):
        return None
    size, exact = config.micro_batch_size or config.batch_size, adapters.exact_lengths(model)
    return lambda: _mean_loss(base, model, held_out, size, exact)


def _begin(
    base: BaseModel, peft: dict[str, Any], config: TrainConfig, seed: int, previous: Path | None, pretrained: Path | None,
) -> tuple[Any, dict[str, torch.Tensor]]:  # fmt: skip
    """The model to train, and the starts of what decays. Those are a fresh adapter's: in a trained one nothing is
    constant any more."""
    fresh_head = previous is None and bool(base.labels)
    previous = previous or pretrained
    if previous is not None and full.asked_for(peft) and not fresh_head:  # no copy just to look at
        return adapters.load_adapter(base, previous, trainable=True, b_dropout=config.b_dropout), {}
    model = adapters.attach(base, peft, seed, b_dropout=config.b_dropout)
    starts = adapters.anchors(model)
    if previous is not None:
        adapters.detach(model)
        model = adapters.load_adapter(base, previous, trainable=True, b_dropout=config.b_dropout)
        if fresh_head:
            with seeded(seed, base.device):
                heads.restart(adapters.inner(model))
    return model, starts


class _Loop:
    """The epochs of one training. config: settled. judge: what is asked after each epoch, the lower the better, to keep the best
    one. over: whether to end after an epoch."""

    def __init__(
        self, base: BaseModel, model: Model, config: TrainConfig, rows: Sequence[_Row], starts: Mapping[str, torch.Tensor],
        seed: int, tick: Tick = silent, *, judge: Callable[[], float] | None = None, over: Callable[[], bool] | None = None,
        listener: Listener | None = None, beside: sparse.Beside | None = None,
    ) -> None:  # fmt: skip
        """starts: of the tensors that decay. Raises ModelError if there is nothing to train."""
        self.base, self.model, self.config, self.seed, self.tick = base, model, config, seed, tick
        self.judge, self.over, self.listener, self.beside = judge, over, listener, beside
        self.trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.trainable:
            raise ModelError("the adapter has no trainable tensor")
        self.epochs, length = _plan(rows, config, seed, adapters.exact_lengths(model))
        self.done, self.total = 0, sum(map(len, self.epochs))
        self.anchored = [(p, starts[n]) for n, p in self.trainable.items() if n in starts]
        self.optimizer, self.schedule = _optimizer(base, config, self.trainable, starts, length)
        self.accelerator = accelerator_of(base)
        self.stepper = self.accelerator.prepare_optimizer(self.optimizer)  # unscales half-precision gradients
        self.group = ranks.here()
        self.group.agree(p.data for p in self.trainable.values())

    def run(self) -> Trained:
        """Raises ModelError for a loss that is not finite."""
        losses, judged, best, best_epoch = [], [], dict[str, torch.Tensor](), len(self.epochs) - 1
        with seeded(self.group.seed(self.seed), self.base.device):
            for epoch, batches in enumerate(self.epochs):
                losses.append(self._epoch(batches))
                if not np.isfinite(losses[-1]):
                    raise ModelError(
                        f"the training loss is {losses[-1]} in epoch {epoch + 1}; try a lower train.learning_rate "
                        f"(now {self.config.learning_rate}) or model.dtype: float32"
                    )
                if self.judge is not None:
                    judged.append(self._asked(self.judge))
                    if not np.isfinite(judged[-1]):
                        raise ModelError(f"the validation loss is {judged[-1]} in epoch {epoch + 1}")
                    if judged[-1] == min(judged):
                        best_epoch, best = epoch, {n: p.detach().clone() for n, p in self.trainable.items()}
                    elif self.config.patience and epoch - best_epoch >= self.config.patience:
                        break
                if self.over is not None and self._asked(self.over):
                    break
        with torch.no_grad():
            for name, state in best.items():
                self.trainable[name].copy_(state)
        return Trained(tuple(losses), tuple(judged), self.done, min(best_epoch, len(losses) - 1))

    def _asked(self, question: Callable[[], float]) -> float:
        with self.accelerator.autocast():
            return self.group.asked(question)

    def _epoch(self, batches: Sequence[Sequence[_Row]]) -> float:
        """The mean loss of an epoch, in nats a token."""
        self.model.train()
        spent, tokens = torch.zeros((), device=self.base.device), 0
        again = bool(self.config.checkpointing)
        with self.group.together(), step.cheaper(self.base, self.model), step.checkpointed(self.model, again):
            for batch in batches:
                self._gradients(batch, spent)
                tokens += sum(len(row.response) for row in batch)
                self._step()
        if self.listener is not None:
            self.listener.epoch()
        return self.group.total(spent) / tokens

    def _gradients(self, batch: Sequence[_Row], spent: torch.Tensor) -> None:
        """Those of a batch, a part of it at a time. spent: the loss is added to it."""
        if self.beside is not None:
            self.beside.before(self.done, self.optimizer)
        count = sum(len(row.response) for row in batch)
        mine = self.group.share(batch, lambda row: replace(row, place=-1, weight=0.0))
        micro = self.config.micro_batch_size or self.config.batch_size
        for start in range(0, len(mine), micro):
            with self.accelerator.autocast():
                loss = _loss(self.base, self.model, mine[start : start + micro], self.listener)
            if not loss.requires_grad:  # reversible layers, such as Reformer's
                raise ModelError("no gradient reaches the adapter through this model; choose another model")
            more = 0.0 if self.beside is None else self.beside.term(min(micro, len(mine) - start) / len(batch))
            self.accelerator.backward(loss / count + more)
            spent += loss.detach()
        self.group.sum_gradients(self.trainable.values())

    def _step(self) -> None:
        self.accelerator.clip_grad_norm_(list(self.trainable.values()), self.config.clip)
        anchored = [pair for pair in self.anchored if pair[0].requires_grad]
        decay_towards(anchored, self.schedule.get_last_lr()[0] * self.config.b_decay)
        self.stepper.step()
        if not self.stepper.step_was_skipped:
            self.schedule.step()
        self.stepper.zero_grad()
        self.done += 1
        self.tick(self.done, self.total)


def _plan(rows: Sequence[_Row], config: TrainConfig, seed: int, exact: bool) -> tuple[list[list[list[_Row]]], int]:
    """The batches of every epoch, and the length of the schedule in steps.

    Epochs go on until there are `min_steps` steps. Behind the schedule's end the learning rate is 0, and a step at rate 0
    changes nothing: it is left out, not carried out.
    """
    order = np.random.default_rng(seed)
    epochs: list[list[list[_Row]]] = []
    while len(epochs) < config.epochs or sum(map(len, epochs)) < (config.min_steps or 0):
        epochs.append(list(epoch_batches(rows, config.batch_size, order, exact)))
    length = left = config.schedule_steps or sum(map(len, epochs))
    kept = []
    for batches in epochs:
        if left > 0:
            kept.append(batches[:left])
            left -= len(batches)
    return kept, length


def _optimizer(
    base: BaseModel, config: TrainConfig, trainable: Mapping[str, torch.nn.Parameter], starts: Mapping[str, torch.Tensor],
    length: int,
) -> tuple[torch.optim.Optimizer, Any]:  # fmt: skip
    """AdamW and its schedule of `length` steps. What has a start decays by `decay_towards` alone."""
    from transformers import get_linear_schedule_with_warmup

    groups = [
        {"params": [p for n, p in trainable.items() if n in starts], "weight_decay": 0.0},
        {"params": [p for n, p in trainable.items() if n not in starts], "weight_decay": config.weight_decay},
    ]
    assert config.learning_rate is not None, "settled"
    optimizer = torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=config.learning_rate, **step.optimizer_options(base)
    )
    return optimizer, get_linear_schedule_with_warmup(optimizer, int(config.warmup * length), length)


def accelerator_of(base: BaseModel) -> Any:
    """accelerate for the base's device and precision.

    accelerate keeps one precision for a process; a base of another dtype needs that forgotten first.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(base.dtype, "no")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision, cpu=base.device.type == "cpu")


@torch.no_grad()
def decay_towards(anchored: Sequence[tuple[torch.Tensor, torch.Tensor]], amount: float) -> None:
    """θ ← θ − amount (θ − θ0), with amount = learning rate × β. For θ0 = 0 this is AdamW's own decay.

    STAR eq. 6 with the sign it means: as printed, B would grow. An amount above 1 goes to the start and not beyond.
    """
    if amount:
        for parameter, start in anchored:
            parameter.lerp_(start, min(amount, 1.0))


def _loss(base: BaseModel, model: Model, rows: Sequence[_Row], listener: Listener | None = None) -> torch.Tensor:
    """Sum of −log p over the response tokens of a batch, in nats, times each row's weight; with a classification head
    over its labels.

    listener: hears the scores behind it.
    """
    places = [row.place for row in rows]
    weights = None
    if any(row.weight != 1.0 for row in rows):
        weights = moved(torch.tensor([row.weight for row in rows]), base.device)
    if base.labels:
        hear = None if listener is None else partial(listener.labels, places)
        prompts, labels = [row.prompt for row in rows], [row.response for row in rows]
        return classify.loss(base, model, prompts, labels, hear, weights)
    batch = pad_left([row.prompt + row.response for row in rows], base.pad, base.device)
    width = max(len(row.response) for row in rows)
    logits = last_logits(model, batch, width + 1)[:, :-1]
    lengths = [len(row.response) for row in rows]
    real, targets = ends(lengths, width, base.device), batch.ids[:, -width:]
    if listener is not None:
        listener.responses(places, logits, targets, lengths)
    if weights is None:
        return F.cross_entropy(logits[real].float(), targets[real], reduction="sum")
    return (weights[real[0]] * F.cross_entropy(logits[real].float(), targets[real], reduction="none")).sum()


def _nats(base: BaseModel, model: Model, rows: Sequence[_Row]) -> torch.Tensor:
    with accelerator_of(base).autocast():
        return _loss(base, model, rows)


@torch.no_grad()
def _mean_loss(base: BaseModel, model: Model, rows: list[_Row], size: int, exact: bool) -> float:
    model.eval()
    spent, tokens = 0.0, 0
    for batch in epoch_batches(rows, size, np.random.default_rng(0), exact):
        spent += float(_loss(base, model, batch))
        tokens += sum(len(row.response) for row in batch)
    return spent / tokens


def _rows(base: BaseModel, task: Task, labelled: Labelled) -> tuple[list[_Row], int]:
    """Rows to train on, and how many responses were cut off at the end of the context: people write what they like."""
    if base.labels:
        positions = classify.positions(base, task, [answer for _, answer in labelled])
        prompts = encode_prompts(base, [example for example, _ in labelled])
        return [_Row(p, own, i) for i, (p, own) in enumerate(zip(prompts, positions, strict=True))], 0
    responses = [encode_answer(base, task, example, answer) for example, answer in labelled]
    prompts = encode_prompts(base, [example for example, _ in labelled], room=1)
    both = enumerate(zip(prompts, responses, strict=True))
    rows = [_Row(p, r[: base.max_length - len(p)], i) for i, (p, r) in both]
    return rows, sum(len(row.response) < len(whole) for row, whole in zip(rows, responses, strict=True))
