"""vLLM in the place of the own engine where a pool is scored: `engine.score.use: vllm`.

It gets token ids and gives log-probabilities of tokens: exactly those of label words and of known answers, and of each written
token the `TOP` likeliest, between which and the rest of the vocabulary its entropy lies in bounds. It draws no dropout masks, so
passes are adapters of their own, with the masks of one model each in their weights. Tokens, texts and adapters are those of the
own engine, which trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import numpy as np
import torch

from guidestar.asking import Ask, Scorer, silent
from guidestar.asking.wrappers import joined
from guidestar.config import ModelConfig
from guidestar.errors import ConfigError, allowed
from guidestar.model import adapters, predict, words
from guidestar.model.batches import decode, each_label_tokens, encode_answer, encode_prompts
from guidestar.model.consistency import answer_groups
from guidestar.model.load import BaseModel
from guidestar.model.samples import one_sample
from guidestar.model.scorer import SAMPLED, OwnScorer, precision
from guidestar.model.sources import resolve
from guidestar.progress import Tick
from guidestar.records import Array, Example, Predictions
from guidestar.rng import phase_seed
from guidestar.store.files import sha256
from guidestar.tasks import Task

TOP = 20  # likeliest tokens whose log-probabilities come back for each position
AT_ONCE = 128  # of a request's `logprob_token_ids`, vLLM's own limit
HOTTEST = 2.0  # vLLM's own limit of temperatures
ARRAYS = words.LABEL | words.GENERATED | words.GOLD | SAMPLED


def installed() -> str:
    """The version of vLLM, on which values depend. Raises ConfigError where it is not installed."""
    try:
        return version("vllm")
    except PackageNotFoundError as error:
        raise ConfigError("engine.score.use is vllm, which is not installed; pip install 'guidestar[vllm]'") from error


@final
class Served:
    """A base model in vLLM, which is started when it is first asked."""

    def __init__(self, base: BaseModel, model: ModelConfig, rank: int, options: Mapping[str, Any]) -> None:
        """rank: the largest r of an adapter. options: further arguments of `vllm.LLM`, such as gpu_memory_utilization."""
        self.base, self.model, self.rank, self.options = base, model, rank, dict(options)
        self.dtype, self.version = precision(base, model.score_dtype), installed()
        self._numbers: dict[str, int] = {}  # of adapters, by what is in them

    @cached_property
    def _llm(self) -> Any:
        import vllm

        ranks = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM allows
        given = {
            "model": str(resolve(self.model)[0]), "dtype": str(self.dtype).removeprefix("torch."), "seed": 0,
            "enable_lora": True, "max_lora_rank": next((r for r in ranks if r >= self.rank), self.rank),
            "max_model_len": self.base.max_length, "max_logprobs": max(TOP, AT_ONCE),
        }  # fmt: skip
        return vllm.LLM(**{**given, **self.options})

    def ask(
        self, prompts: Sequence[Sequence[int]], adapter: Path | None, settings: Mapping[str, Any],
        each: Sequence[Mapping[str, Any]] = (),
    ) -> list[Any]:  # fmt: skip
        """What vLLM gives for every prompt (`RequestOutput`). settings: arguments of its `SamplingParams`; each: of each prompt."""
        if not prompts:
            return []
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        lora = None
        if adapter is not None:
            name = sha256(adapter)
            lora = LoRARequest(name, self._numbers.setdefault(name, len(self._numbers) + 1), str(adapter))
        own = [SamplingParams(**settings, **more) for more in each] if each else SamplingParams(**settings)
        tokens = [{"prompt_token_ids": list(row)} for row in prompts]
        return list(self._llm.generate(tokens, own, lora_request=lora, use_tqdm=False))


def entropy_between(log_probs: Sequence[float], vocabulary: int) -> tuple[float, float]:
    """The least and the largest entropy, in nats, of a distribution of which the log-probabilities of some tokens are known,
    the likeliest `TOP` of all `vocabulary` tokens among them.

    What is left, t, is on tokens of which none is likelier than the last of those: −t log p_TOP at least; spread evenly over all
    others, t log(others / t), at most.

    >>> entropy_between(np.log([0.5, 0.25]), 4)  # doctest: +ELLIPSIS
    (1.0397..., 1.2130...)
    """
    known = np.sort(np.asarray(log_probs, dtype=np.float64))[::-1]
    p = np.exp(known)
    sum_known, left = -float((p * known).sum()), max(0.0, 1.0 - float(p.sum()))
    others, cap = vocabulary - len(known), float(known[min(TOP, len(known)) - 1])
    if left <= 0.0 or others < 1:
        return sum_known, sum_known
    low, high = -left * cap, left * float(np.log(others / left))
    return sum_known + min(low, high), sum_known + high


@dataclass(frozen=True)
class _Tokens:
    """A response. values: (3, tokens), −log p, the middle between the bounds of the entropy, and how far these are from it."""

    ids: list[int]
    values: Array

    @classmethod
    def of(cls, ids: Sequence[int], said: Sequence[Mapping[int, Any]], vocabulary: int) -> _Tokens:
        """said: of each token the log-probabilities behind what stands before it, by token id."""
        rows = []
        for token, at in zip(ids, said, strict=True):
            low, high = entropy_between([one.logprob for one in at.values()], vocabulary)
            rows.append([-at[token].logprob, (low + high) / 2, (high - low) / 2])
        return cls(list(ids), np.array(rows).reshape(len(ids), 3).T)


@final
class VllmScorer(Scorer):
    """A base model in vLLM, bare or under a saved LoRA adapter. Beside each entropy NAME stands NAME_bound: how far it may be
    off, in nats, because vLLM gives the likeliest tokens alone."""

    def __init__(self, served: Served, task: Task, adapter: Path | None = None, b_dropout: float | None = None) -> None:
        """b_dropout: rate of a dropout before LoRA's B in passes."""
        self.served, self.base, self.adapter, self.b_dropout = served, served.base, adapter, b_dropout
        self.task: Any = task
        self._own = OwnScorer(self.base, task, adapter, dtype=served.model.score_dtype, b_dropout=b_dropout)

    @property
    def labels(self) -> tuple[str, ...]:
        return self._own.labels

    def refusal(self, ask: Ask) -> str | None:
        if unknown := sorted(ask.needs - ARRAYS):
            return f"vLLM gives no {unknown[0]!r}; {allowed(sorted(ARRAYS), unknown[0])}, or engine.score.use: here"
        if self.base.labels:
            return "vLLM scores words, and this model answers with a classification head; use engine.score.use: here"
        if ask.passes and (not ask.one_model or ask.dropout == "model" or self.adapter is None or ask.needs & SAMPLED):
            return (
                "vLLM draws no dropout masks, so its passes are adapters, each with the masks of one model; allowed: passes of one "
                "model for all texts (such as the selector batchbald has) under an adapter, without sampled answers, or "
                "engine.score.use: here"
            )
        if ask.needs & SAMPLED and ask.temperature > HOTTEST:
            return f"temperature is {ask.temperature}; allowed by vLLM: at most {HOTTEST}"
        return self._own.refusal(ask)

    def plain(self) -> dict[str, Any]:
        return {**self._own.plain(), "engine": f"vllm {self.served.version}", "top": TOP}

    def __call__(self, examples: Sequence[Example], ask: Ask, tick: Tick = silent) -> Predictions:
        self.check(ask)
        ids = tuple(e.id for e in examples)
        if ask.passes:
            plain = replace(ask, passes=0, one_model=False)
            said = [VllmScorer(self.served, self.task, folder)(examples, plain) for folder in self._models(ask)]
            tick(len(ids), len(ids))
            return joined(said, "all sampled models are equal: the adapter's dropout does not act on this model")
        arrays: dict[str, Array] = {}
        if ask.needs & words.LABEL:
            arrays["label_log_probs"] = self._labels(examples)
        if ask.needs & words.GENERATED:
            arrays |= self._sums("response", "answer", self._written(examples), ask.needs)
        if ask.needs & words.GOLD:
            arrays |= self._sums("gold", "gold_answer", self._given(examples, ask.gold or {}), ask.needs)
        arrays = {name: array[None] for name, array in arrays.items()}
        if ask.needs & SAMPLED:
            arrays["sampled_answer"] = self._sampled(examples, ask)
        predicted = Predictions(ids, arrays, self.labels)
        predict.refuse_non_finite(predicted, examples)
        tick(len(ids), len(ids))
        return predicted

    def too_long(self, examples: Sequence[Example], answers: Mapping[str, str] | None = None) -> dict[str, str]:
        return self._own.too_long(examples, answers)

    # --- what is asked ---

    def _labels(self, examples: Sequence[Example]) -> Array:
        """Natural log-probabilities over the labels, (n, labels)."""
        of = each_label_tokens(self.base, self.task, examples)
        encoded = encode_prompts(self.base, examples, [one.room for one in of])
        prompts = [row + list(one.prefix) for row, one in zip(encoded, of, strict=True)]
        scores = np.zeros((len(examples), len(self.labels)))
        if self.task.scoring == "sequence":
            pairs = [(row, list(rest)) for row, one in zip(prompts, of, strict=True) for rest in one.rest]
            scores[:] = -np.array([one.values[0].sum() for one in self._known(pairs, top=0)]).reshape(scores.shape)
        else:
            for at in range(0, len(self.labels), AT_ONCE):
                some = [one.first[at : at + AT_ONCE] for one in of]
                each = [{"logprob_token_ids": ids, "allowed_token_ids": ids, "logprobs": len(ids)} for ids in some]
                for i, (ids, out) in enumerate(zip(some, self._ask(prompts, {"max_tokens": 1}, each), strict=True)):
                    said = out.outputs[0].logprobs[0]
                    scores[i, at : at + AT_ONCE] = [said[token].logprob for token in ids]
        return torch.log_softmax(torch.from_numpy(scores), dim=-1).numpy()

    def _written(self, examples: Sequence[Example]) -> list[_Tokens]:
        """Greedy responses up to an end token, which counts."""
        prompts = encode_prompts(self.base, examples, self.task.max_new_tokens)
        said = [out.outputs[0] for out in self._ask(prompts, self._to_an_end | {"logprobs": TOP})]
        return [_Tokens.of(one.token_ids, one.logprobs, self._vocabulary) for one in said]

    def _given(self, examples: Sequence[Example], gold: Mapping[str, str]) -> list[_Tokens]:
        """The gold responses, end token included."""
        answers = [encode_answer(self.base, self.task, e, gold[e.id]) for e in examples]
        prompts = encode_prompts(self.base, examples, [len(row) for row in answers])
        return self._known(list(zip(prompts, answers, strict=True)), TOP)

    def _known(self, pairs: Sequence[tuple[list[int], list[int]]], top: int) -> list[_Tokens]:
        """What is known of given tokens behind prompts, the last of which vLLM is made to write. top: likeliest beside each."""
        settings = {"max_tokens": 1, "prompt_logprobs": top, "logprobs": top}
        last = [{"allowed_token_ids": [row[-1]]} for _, row in pairs]
        responses = []
        for (prompt, row), out in zip(pairs, self._ask([p + r[:-1] for p, r in pairs], settings, last), strict=True):
            said = [*out.prompt_logprobs[len(prompt) :], *out.outputs[0].logprobs]
            responses.append(_Tokens.of(row, said, self._vocabulary))
        return responses

    def _sampled(self, examples: Sequence[Example], ask: Ask) -> Array:
        """As `sampled_answers` gives them, (samples, n); the draws depend on the seed and each example's id."""
        seeds = [phase_seed(ask.seed, 0, f"sampled/{e.id}") >> 32 for e in examples]
        settings = {**self._to_an_end, "temperature": ask.temperature, "n": ask.samples}
        prompts = encode_prompts(self.base, examples, self.task.max_new_tokens)
        said = self._ask(prompts, settings, [{"seed": seed} for seed in seeds])
        texts = [[decode(self.base, self._body(one.token_ids)) for one in out.outputs] for out in said]
        groups = [answer_groups([self.task.parse(text) for text in some], self.task) for some in texts]
        return np.array(groups, dtype=np.float32).reshape(len(examples), ask.samples).T

    @property
    def _to_an_end(self) -> dict[str, Any]:
        ends = list(self.base.eos)  # those that the own engine ends with, no others
        return {"max_tokens": self.task.max_new_tokens, "detokenize": False, "ignore_eos": True, "stop_token_ids": ends}

    def _ask(
        self, prompts: Sequence[list[int]], settings: Mapping[str, Any], each: Sequence[Mapping[str, Any]] = ()
    ) -> list[Any]:
        return self.served.ask(prompts, self.adapter, {"temperature": 0.0, **settings}, each)

    # --- what comes of it ---

    @property
    def _vocabulary(self) -> int:
        return int(self.base.model.get_output_embeddings().weight.shape[0])

    def _body(self, ids: Sequence[int]) -> list[int]:
        """A response's own tokens, without the end token."""
        return list(ids[:-1] if ids and ids[-1] in self.base.eos else ids)

    def _sums(self, whole: str, part: str, responses: Sequence[_Tokens], needs: frozenset[str]) -> dict[str, Array]:
        """Those sums over each response, and over its answer, that are needed (`words.sums`), and the entropies' bounds."""
        rows = []
        for one in responses:
            body, answer = self._body(one.ids), np.zeros(len(one.ids), dtype=bool)
            answer[: len(body)] = words.answer_mask(self.base, self.task, body)
            mine = answer if answer.any() else ~answer
            rows.append([*one.values.sum(1), len(answer), *one.values[:, mine].sum(1), mine.sum()])
        names = [f"{of}_{what}" for of in (whole, part) for what in ("nll", "entropy", "entropy_bound", "length")]
        sums = zip(names, np.array(rows, dtype=np.float64).reshape(len(rows), len(names)).T, strict=True)
        return {name: column for name, column in sums if name.removesuffix("_bound") in needs}

    def _models(self, ask: Ask) -> Iterator[Path]:
        """Folders of adapters, each with the masks of one pass in its weights (`samples.one_sample`)."""
        with TemporaryDirectory() as place, adapters.adapted(self.base, self.adapter) as model:
            for k in range(ask.passes):
                with one_sample(model, ask.seed + k, self.b_dropout):
                    adapters.save(model, folder := Path(place) / str(k))
                yield folder
