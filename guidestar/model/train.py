"""Fine-tuning of one round: a short loop on accelerate.

The loss is the mean −log p over the tokens of the answers (end token included), and the vocabulary's
logits are computed there alone. STAR's regularisation (eq. 6) is `b_decay`: before each step the tensors
that started as constants move towards that start by learning rate × β, in the decoupled form of AdamW; the
dropout on the other path is the adapter's own (`lora_dropout`). `b_dropout` adds one before B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from guidestar.asking import Labelled, Trained
from guidestar.config import TrainConfig
from guidestar.data.pool import Split
from guidestar.errors import ModelError
from guidestar.model import adapters, beast, classify, full, heads, step
from guidestar.model.batches import encode_answer, encode_prompts, epoch_batches, pad_left
from guidestar.model.dynamics import Listener
from guidestar.model.evaluate import evaluate
from guidestar.model.load import BaseModel
from guidestar.model.predict import Tick, last_logits


@dataclass(frozen=True)
class _Row:
    prompt: list[int]
    response: list[int]  # end token included; with a classification head the label's position alone
    place: int = field(default=0, compare=False)  # among the labelled examples

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


def train(
    base: BaseModel,
    peft: dict[str, Any],
    config: TrainConfig,
    labelled: Labelled,
    task: Any,
    folder: Path,
    *,
    seed: int,
    previous: Path | None = None,
    pretrained: Path | None = None,
    validation: Labelled = (),
    oracle: Split | None = None,
    tick: Tick = lambda done, total: None,
) -> Trained:
    """Train an adapter, or a full copy, on `labelled` and write it to `folder`. The base model is left as it was.

    seed: of the adapter's start, the order of examples and the dropout masks.
    previous: an adapter to go on from; None starts afresh. pretrained: where a fresh start is (`model/pretrain.py`); what
        decays goes to the start of an adapter that is not, and a classification head is new either way.
    validation: examples for early stopping (config.patience); never the test set.
    oracle: that test set, for `early_stop: oracle_epoch` alone, which keeps its best epoch.
    tick: called with (steps done, steps in all).

    Raises ModelError when the loss is not finite or the adapter has nothing to train.
    """
    if not labelled:
        raise ModelError("there is no labelled example to train on")
    (rows, cut), (held_out, _) = _rows(base, task, labelled), _rows(base, task, validation)
    model, starts = _begin(base, peft, config, seed, previous, pretrained)
    try:
        listener = Listener(base, task, labelled)
        over = beast.watcher(base, model, task, labelled) if config.early_stop == "beast" else None
        judge = _judge(base, model, config, labelled, held_out, oracle, task)
        result = _fit(base, model, config, rows, judge, starts, seed, tick, listener, over)
        adapters.save(model, folder)
    finally:
        adapters.detach(model)
    return replace(result, cut=cut, dynamics=listener.found())


def _judge(
    base: BaseModel,
    model: Any,
    config: TrainConfig,
    labelled: Labelled,
    held_out: list[_Row],
    oracle: Split | None,
    task: Any,
) -> Callable[[], float] | None:
    """What is asked after each epoch, the lower the better, to keep the best one; None keeps the last."""
    if config.early_stop == "oracle_epoch" and oracle is not None:
        split = oracle

        def wrong() -> float:
            model.eval()
            return 1.0 - evaluate(base, model, split, task)[0]["accuracy"]

        return wrong
    if config.early_stop == "smoothest_epoch":
        return beast.roughness(base, model, task, labelled)
    if not (config.patience and held_out):
        return None
    size, exact = config.micro_batch_size or config.batch_size, adapters.exact_lengths(model)
    return lambda: _mean_loss(base, model, held_out, size, exact)


def _begin(
    base: BaseModel,
    peft: dict[str, Any],
    config: TrainConfig,
    seed: int,
    previous: Path | None,
    pretrained: Path | None,
) -> tuple[Any, dict[str, torch.Tensor]]:
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
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                heads.restart(adapters.inner(model))
    return model, starts


def _fit(
    base: BaseModel,
    model: Any,
    config: TrainConfig,
    rows: list[_Row],
    judge: Callable[[], float] | None,
    starts: dict[str, torch.Tensor],
    seed: int,
    tick: Tick,
    listener: Listener,
    over: Callable[[], bool] | None,
) -> Trained:
    from transformers import get_linear_schedule_with_warmup

    exact = adapters.exact_lengths(model)
    order = np.random.default_rng(seed)
    epochs = [list(epoch_batches(rows, config.batch_size, order, exact)) for _ in range(config.epochs)]
    length = config.schedule_steps or sum(map(len, epochs))
    epochs = _until(length, epochs)
    total = sum(map(len, epochs))
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ModelError("the adapter has no trainable tensor")
    anchored = [(p, starts[n]) for n, p in model.named_parameters() if n in starts]
    free = [p for n, p in model.named_parameters() if p.requires_grad and n not in starts]
    groups = [
        {"params": [p for p, _ in anchored], "weight_decay": 0.0},
        {"params": free, "weight_decay": config.weight_decay},
    ]
    used = [g for g in groups if g["params"]]
    optimizer = torch.optim.AdamW(used, lr=config.learning_rate, **step.optimizer_options(base))
    schedule = get_linear_schedule_with_warmup(optimizer, int(config.warmup * length), length)
    accelerator = accelerator_of(base)
    stepper = accelerator.prepare_optimizer(optimizer)  # unscales half-precision gradients
    micro = config.micro_batch_size or config.batch_size

    losses: list[float] = []
    judged: list[float] = []
    best: dict[str, torch.Tensor] = {}
    done, best_epoch = 0, config.epochs - 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch, batches in enumerate(epochs):
            model.train()
            spent, tokens = torch.zeros((), device=base.device), 0
            with step.cheaper(base, model):
                for batch in batches:
                    count = sum(len(row.response) for row in batch)
                    for start in range(0, len(batch), micro):
                        with accelerator.autocast():
                            loss = _loss(base, model, batch[start : start + micro], listener)
                        accelerator.backward(loss / count)
                        spent += loss.detach()
                    tokens += count
                    accelerator.clip_grad_norm_(trainable, config.clip)
                    decay_towards(anchored, schedule.get_last_lr()[0] * config.b_decay)
                    stepper.step()
                    if not stepper.step_was_skipped:
                        schedule.step()
                    stepper.zero_grad()
                    done += 1
                    tick(done, total)
            listener.epoch()
            losses.append(float(spent) / tokens)
            if not np.isfinite(losses[-1]):
                raise ModelError(
                    f"the training loss is {losses[-1]} in epoch {epoch + 1}; try a lower train.learning_rate "
                    f"(now {config.learning_rate}) or model.dtype: float32"
                )
            if judge is not None:
                with accelerator.autocast():
                    judged.append(judge())
                if not np.isfinite(judged[-1]):
                    raise ModelError(f"the validation loss is {judged[-1]} in epoch {epoch + 1}")
                if judged[-1] == min(judged):
                    best_epoch = epoch
                    best = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
                elif config.patience and epoch - best_epoch >= config.patience:
                    break
            if over is not None:
                with accelerator.autocast():
                    ended = over()
                if ended:
                    break
    if best:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in best:
                    parameter.copy_(best[name])
    return Trained(tuple(losses), tuple(judged), done, min(best_epoch, len(losses) - 1))


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


def _loss(base: BaseModel, model: Any, rows: Sequence[_Row], listener: Listener | None = None) -> torch.Tensor:
    """Sum of −log p over the response tokens of a batch, in nats; with a classification head over its labels.

    listener: hears the scores behind it.
    """
    places = [row.place for row in rows]
    if base.labels:
        hear = None if listener is None else partial(listener.labels, places)
        return classify.loss(base, model, [row.prompt for row in rows], [row.response[0] for row in rows], hear)
    batch = pad_left([row.prompt + row.response for row in rows], base.pad, base.device)
    width = max(len(row.response) for row in rows)
    logits = last_logits(model, batch, width + 1)[:, :-1]
    lengths = torch.tensor([len(row.response) for row in rows], device=base.device)
    real = torch.arange(width, device=base.device) >= (width - lengths)[:, None]
    if listener is not None:
        listener.responses(places, logits, batch.ids[:, -width:], real)
    return F.cross_entropy(logits[real].float(), batch.ids[:, -width:][real], reduction="sum")


@torch.no_grad()
def _mean_loss(base: BaseModel, model: Any, rows: list[_Row], size: int, exact: bool) -> float:
    model.eval()
    spent, tokens = 0.0, 0
    for batch in epoch_batches(rows, size, np.random.default_rng(0), exact):
        spent += float(_loss(base, model, batch))
        tokens += sum(len(row.response) for row in batch)
    return spent / tokens


def _rows(base: BaseModel, task: Any, labelled: Labelled) -> tuple[list[_Row], int]:
    """Rows to train on, and how many responses were cut off at the end of the context: people write what they like."""
    if base.labels:
        positions = classify.positions(base, [answer for _, answer in labelled])
        prompts = encode_prompts(base, [example for example, _ in labelled])
        return [_Row(p, [position], i) for i, (p, position) in enumerate(zip(prompts, positions, strict=True))], 0
    responses = [encode_answer(base, task, example, answer) for example, answer in labelled]
    prompts = encode_prompts(base, [example for example, _ in labelled], room=1)
    both = enumerate(zip(prompts, responses, strict=True))
    rows = [_Row(p, r[: base.max_length - len(p)], i) for i, (p, r) in both]
    return rows, sum(len(row.response) < len(whole) for row, whole in zip(rows, responses, strict=True))


def _until(steps: int, epochs: list[list[list[_Row]]]) -> list[list[list[_Row]]]:
    """The first batches, that many in all. Behind the schedule's end the learning rate is 0, and a step at rate 0
    changes nothing: it is left out, not carried out."""
    kept = []
    for batches in epochs:
        kept.append(batches[:steps])
        steps -= len(batches)
        if steps <= 0:
            break
    return kept
