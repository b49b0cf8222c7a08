"""What is compared with: one example at a time, in float32, token by token, as STAR's published code scores; and
`generate(output_scores=True)` and `transformers.Trainer` as anybody would use them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset


def teacher_forced(model: Any, prompt: list[int], response: list[int], gradients: bool = False) -> tuple[float, float]:
    """(Σ entropy, Σ −log p) over a response's tokens from one pass over prompt and response, all logits computed.

    gradients: recorded and thrown away, as in the published code's dynamic passes.
    """
    with torch.set_grad_enabled(gradients):
        logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0]
        entropy = nll = 0.0
        for i, token in enumerate(response):
            log_p = torch.log_softmax(logits[len(prompt) + i - 1], dim=-1)
            entropy -= float((log_p.exp() * log_p).sum())
            nll -= float(log_p[token])
    return entropy, nll


def dynamic(model: Any, prompt: list[int], response: list[int], passes: int) -> tuple[float, float]:
    """Means over `passes` passes. They run in eval mode there, so no mask is drawn: less work than ours do."""
    found = [teacher_forced(model, prompt, response, gradients=True) for _ in range(passes)]
    return sum(e for e, _ in found) / passes, sum(n for _, n in found) / passes


def generated(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], eos: Sequence[int], pad: int, limit: int
) -> tuple[list[float], int]:
    """Σ entropies of the greedy responses of one left-padded batch; bytes of the scores that `generate` keeps."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, eos_token_id=list(eos),
            pad_token_id=pad, output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    totals = [0.0] * len(prompts)
    ended = [False] * len(prompts)
    for step, scores in enumerate(out.scores):
        log_p = torch.log_softmax(scores.float(), dim=-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        for row in range(len(prompts)):
            if not ended[row]:
                totals[row] += float(entropy[row])
                ended[row] = int(out.sequences[row, width + step]) in eos
    return totals, sum(s.nbytes for s in out.scores)


class Rows(Dataset):  # type: ignore[type-arg]
    """Prompts and responses as `Trainer` wants them: the loss on the response alone."""

    def __init__(self, rows: Sequence[tuple[list[int], list[int]]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, list[int]]:
        prompt, response = self.rows[i]
        return {
            "input_ids": prompt + response, "attention_mask": [1] * (len(prompt) + len(response)),
            "labels": [-100] * len(prompt) + response,
        }  # fmt: skip


def by_trainer(
    model: Any, tokenizer: Any, rows: Sequence[tuple[list[int], list[int]]], folder: Path, *, batch: int, epochs: int,
    rate: float, bf16: bool,
) -> list[float]:  # fmt: skip
    """Train with `transformers.Trainer` and dynamic padding. Returns the loss of every step."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    options = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=batch, num_train_epochs=epochs, learning_rate=rate,
        lr_scheduler_type="linear", warmup_steps=math.ceil(0.1 * epochs * len(rows) / batch), bf16=bf16,
        use_cpu=not torch.cuda.is_available(), logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
        seed=0, dataloader_pin_memory=False,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    trainer = Trainer(model=model, args=options, train_dataset=Rows(rows), data_collator=collator)
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(type(callback))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
