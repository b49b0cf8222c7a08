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
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F

from guidestar.asking import Labelled, Lesson, Trained, Trainer, evaluate, label_places, silent
from guidestar.config import TrainConfig
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
    response: list[int]  # end token included; with a classification head the targets of `classify.loss`
    place: int = field(default=0, compare=False)  # among the labelled examples, −1 for others
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@final
@dataclass(frozen=True)
class OwnTrainer(Trainer):
    """Fine-tunes an adapter, or a full copy, on a base model in this process.

    peft: the adapter's settings. data_hash: of data and template; ids stand for examples in `question`.
    """

    base: BaseModel
    task: Task
    peft: dict[str, Any]
    config: TrainConfig
    data_hash: str = ""

    def __call__(self, lesson: Lesson, folder: Path, tick: Tick = silent) -> Trained:
        base, task, known, seed, peft = self.base, self.task, lesson.labelled, lesson.seed, self.peft
        if not known:
            raise ModelError("there is no labelled example to train on")
        (rows, cut), (held_out, _) = _rows(base, task, known), _rows(base, task, lesson.validation)
        answers, _ = _rows(base, task, [(example, answer) for example, answer, _ in lesson.extra])
        rows += [replace(row, place=-1, weight=w) for row, (_, _, w) in zip(answers, lesson.extra, strict=True)]
        config = settled(self.config, heads.kind(base), peft)
        arrays: dict[str, Array] = {}

        @contextmanager
        def attempt(peft: Mapping[str, Any], some: Sequence[_Row]) -> Iterator[tuple[Model, sparse.Loss]]:
            with _begun(base, dict(peft), config, lesson) as (model, starts):
                _Loop(base, model, sparse.brief(config), some, starts, seed, listener=Listener(base, task, known)).run()
                model.eval()
                yield model, partial(_nats, base, model)

        if peft.get("layers") == "fisher":
            peft, arrays = sparse.by_fisher(peft, rows, attempt, seed)
        with _begun(base, peft, config, lesson) as (model, starts):
            listener = Listener(base, task, known)
            over = beast.watcher(base, model, task, known) if config.early_stop == "beast" else None
            judge = _judge(base, model, config, task, lesson, held_out)
            beside = sparse.Beside(model, config, peft, starts, partial(_nats, base, model), rows, seed)
            group = ranks.here()
            try:
                if str(peft.get("peft_type")).upper() == "SPEFT" and lesson.previous is None:
                    beside.place()
                group.tell(
                    {
                        "do": "train", "fingerprint": base.fingerprint, "peft": peft,
                        "config": config.model_dump(mode="json"), "seed": seed, "previous": ranks.place(lesson.previous),
                        "pretrained": ranks.place(lesson.pretrained), "rows": [astuple(row) for row in rows],
                        "judged": judge is not None, "over": over is not None,
                    }
                )  # fmt: skip
                loop = _Loop(base, model, config, rows, starts, seed, tick, judge, over, listener, beside)
                result, arrays = loop.run(), arrays | beside.end()
            finally:
                beside.close()
            adapters.save(model, folder)
        dynamics = listener.dynamics() if group.count == 1 else None  # it heard its share alone
        return replace(result, cut=cut, dynamics=dynamics, arrays=arrays)

    def plain(self) -> dict[str, Any]:
        settings = self.config.model_dump(mode="json")
        for memory_alone in ("micro_batch_size", "checkpointing"):
            settings.pop(memory_alone, None)
        return {
            **facts(self.base), "peft": self.peft, "train": settings, "data": self.data_hash, "task": repr(self.task),
            **({"ranks": count} if (count := ranks.here().count) > 1 else {}),  # each draws masks of its own
        }  # fmt: skip


def facts(base: BaseModel) -> dict[str, Any]:
    """What any training depends on in a base model."""
    known = {"model": base.fingerprint, "dtype": str(base.dtype), "chat": base.chat, "max_length": base.max_length}
    reads = heads.reads(base.model)
    return known | ({"closing": list(base.closing)} if base.closing else {}) | ({"head": reads} if reads else {})


def follow(base: BaseModel, config: TrainConfig, order: Mapping[str, Any]) -> None:
    """Take part in a training that rank 0 makes (`ranks`): nothing is judged, saved or returned here."""
    previous, pretrained = (order[name] and Path(order[name]) for name in ("previous", "pretrained"))
    lesson = Lesson(labelled=(), seed=order["seed"], previous=previous, pretrained=pretrained)
    rows = [_Row(*row) for row in order["rows"]]
    judge = (lambda: 0.0) if order["judged"] else None
    over = (lambda: False) if order["over"] else None
    with _begun(base, order["peft"], config, lesson) as (model, starts):
        _Loop(base, model, config, rows, starts, lesson.seed, judge=judge, over=over).run()


def _judge(
    base: BaseModel, model: Model, config: TrainConfig, task: Task, lesson: Lesson, held_out: list[_Row]
) -> Callable[[], float] | None:
    """What is asked after each epoch, the lower the better, to keep the best one; None keeps the last."""
    if config.early_stop == "oracle_epoch" and (split := lesson.oracle) is not None:

        def wrong() -> float:
            model.eval()
            return 1.0 - evaluate(OwnScorer(base, task, live=model), split, task)[0]["accuracy"]

        return wrong
    if config.early_stop == "smoothest_epoch":
        return beast.roughness(base, model, task, lesson.labelled)
    if not (config.patience and held_out):
        return None
    size, exact = config.micro_batch_size or config.batch_size, adapters.exact_lengths(model)
    return lambda: _mean_loss(base, model, held_out, size, exact)


@contextmanager
def _begun(
    base: BaseModel, peft: dict[str, Any], config: TrainConfig, lesson: Lesson
) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
    """The model to train while the block lasts, and the starts of what decays. Those are a fresh adapter's, from a pretrained
    one, too: in a trained one nothing is constant any more. A head is new unless a training goes on."""
    previous, fresh_head = lesson.previous or lesson.pretrained, lesson.previous is None and bool(base.labels)
    starts: dict[str, torch.Tensor] = {}
    if previous is None or fresh_head or not full.asked_for(peft):  # else no copy just to look at
        model = adapters.attach(base, peft, lesson.seed, b_dropout=config.b_dropout)
        starts = adapters.anchors(model)
        if previous is not None:
            adapters.detach(model)
    if previous is not None:
        model = adapters.load_adapter(base, previous, trainable=True, b_dropout=config.b_dropout)
    try:
        if previous is not None and fresh_head:
            with seeded(lesson.seed, base.device):
                heads.restart(adapters.inner(model))
        if lesson.start is not None:
            heads.begin(adapters.inner(model), lesson.start)
        yield model, starts
    finally:
        adapters.detach(model)


class _Loop:
    """The epochs of one training. config: settled. judge: what is asked after each epoch, the lower the better, to keep the best
    one. over: whether to end after an epoch."""

    def __init__(
        self, base: BaseModel, model: Model, config: TrainConfig, rows: Sequence[_Row], starts: Mapping[str, torch.Tensor],
        seed: int, tick: Tick = silent, judge: Callable[[], float] | None = None, over: Callable[[], bool] | None = None,
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
        groups = [  # what has a start decays by `decay_towards` alone
            {"params": [p for n, p in self.trainable.items() if n in starts], "weight_decay": 0.0},
            {"params": [p for n, p in self.trainable.items() if n not in starts], "weight_decay": config.weight_decay},
        ]
        assert config.learning_rate is not None, "settled"
        warmup, how = int(config.warmup * length), step.optimizer_options(base)
        self.steps = step.Steps(base, [g for g in groups if g["params"]], config.learning_rate, warmup, length, **how)
        self.accelerator, self.group = self.steps.accelerator, ranks.here()
        own = [b for m in heads.trained(adapters.inner(model)).values() for b in m.buffers()] if base.labels else []
        self.group.agree([*(p.data for p in self.trainable.values()), *own])  # a head's centres are no parameters

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
            self.beside.before(self.done, self.steps.optimizer)
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
        anchored = [pair for pair in self.anchored if pair[0].requires_grad]
        decay_towards(anchored, self.steps.rate * self.config.b_decay)
        self.steps.step(list(self.trainable.values()), self.config.clip)
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
    with step.accelerator_of(base).autocast():
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
        places = label_places(task, [answer for _, answer in labelled])
        targets = [np.atleast_1d(place).tolist() for place in places]
        prompts = encode_prompts(base, [example for example, _ in labelled])
        return [_Row(p, own, i) for i, (p, own) in enumerate(zip(prompts, targets, strict=True))], 0
    responses = [encode_answer(base, task, example, answer) for example, answer in labelled]
    prompts = encode_prompts(base, [example for example, _ in labelled], room=1)
    both = enumerate(zip(prompts, responses, strict=True))
    rows = [_Row(p, r[: base.max_length - len(p)], i) for i, (p, r) in both]
    return rows, sum(len(row.response) < len(whole) for row, whole in zip(rows, responses, strict=True))
