"""The few calls of vLLM that this package makes, on transformers and PEFT, one request at a time and without any trick.

Written after vLLM's documentation (0.20 and later) and not after this package: arguments that it does not have are refused, and
its limits hold. What comes back has vLLM's names.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch

VERSION = "0.99.double"


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    max_tokens: int = 16
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    allowed_token_ids: list[int] | None = None
    detokenize: bool = True

    def __post_init__(self) -> None:
        assert 0 <= self.temperature <= 2
        assert self.n == 1 or self.temperature > 0, "n must be 1 when using greedy sampling"
        assert self.max_tokens >= 1
        assert self.detokenize or not self.stop, "stop strings are only supported when detokenize is True"
        assert len(self.logprob_token_ids or ()) <= 128


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    logprobs: list[dict[int, Logprob]] | None


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[dict[int, Logprob] | None] | None


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class LLM:
    """started: what the last one was started with, for tests."""

    started: Mapping[str, Any] = {}

    def __init__(
        self, model: str, *, dtype: str = "auto", seed: int = 0, enable_lora: bool = False, max_lora_rank: int = 16,
        max_model_len: int | None = None, max_logprobs: int = 20, gpu_memory_utilization: float = 0.9,
    ) -> None:  # fmt: skip
        from transformers import AutoModelForCausalLM, AutoTokenizer

        LLM.started = {"model": model, "dtype": dtype, "max_lora_rank": max_lora_rank, "memory": gpu_memory_utilization}
        self.folder, self.dtype, self.rank, self.lora = model, getattr(torch, dtype), max_lora_rank, enable_lora
        self.most, self.longest = max_logprobs, max_model_len or 10**9
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.bare = AutoModelForCausalLM.from_pretrained(model, dtype=self.dtype).eval()
        self.adapted: dict[int, tuple[str, Any]] = {}

    def generate(
        self, prompts: Sequence[Mapping[str, list[int]]], sampling_params: Any, *, use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[RequestOutput]:  # fmt: skip
        each = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        model = self.bare if lora_request is None else self._adapted(lora_request)
        return [self._one(model, p["prompt_token_ids"], own) for p, own in zip(prompts, each, strict=True)]

    def _adapted(self, request: LoRARequest) -> Any:
        from peft import PeftConfig, PeftModel
        from transformers import AutoModelForCausalLM

        assert self.lora
        assert request.lora_int_id > 0
        name, model = self.adapted.get(request.lora_int_id, (request.lora_name, None))
        assert name == request.lora_name, "two adapters of one number"
        if model is None:
            config = PeftConfig.from_pretrained(request.lora_path)
            assert config.r <= self.rank
            base = AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype)
            model = PeftModel.from_pretrained(base, request.lora_path, autocast_adapter_dtype=False).eval()
            self.adapted[request.lora_int_id] = name, model
        return model

    @torch.inference_mode()
    def _one(self, model: Any, prompt: list[int], own: SamplingParams) -> RequestOutput:
        assert prompt
        assert len(prompt) < self.longest, "the prompt leaves no room for a token"
        assert (own.logprobs or 0) <= self.most
        assert (own.prompt_logprobs or 0) <= self.most
        of_prompt: list[dict[int, Logprob] | None] | None = None
        if own.prompt_logprobs is not None:
            log_p = model(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
            of_prompt = [None]
            of_prompt += [self._top(row, own.prompt_logprobs, t) for row, t in zip(log_p[:-1], prompt[1:], strict=True)]
        outputs = [self._written(model, prompt, own, i) for i in range(own.n)]
        return RequestOutput(list(prompt), outputs, of_prompt)

    def _top(self, log_p: torch.Tensor, k: int, token: int, ids: Sequence[int] | None = None) -> dict[int, Logprob]:
        chosen = [token, *(ids if ids is not None else log_p.topk(k).indices.tolist())]
        return {int(i): Logprob(float(log_p[i])) for i in dict.fromkeys(chosen)}

    def _written(self, model: Any, prompt: list[int], own: SamplingParams, i: int) -> CompletionOutput:
        rng = torch.Generator().manual_seed((own.seed or 0) + i)
        ids: list[int] = []
        said: list[dict[int, Logprob]] = []
        ends = {*own.stop_token_ids} | (set() if own.ignore_eos else {self.tokenizer.eos_token_id})
        while len(ids) < own.max_tokens and len(prompt) + len(ids) < self.longest:
            logits = model(torch.tensor([prompt + ids])).logits[0, -1].float()
            log_p = logits.log_softmax(-1)
            if own.allowed_token_ids is not None:
                barred = torch.ones_like(logits, dtype=torch.bool)
                barred[own.allowed_token_ids] = False
                logits = logits.masked_fill(barred, -torch.inf)
            token = int(logits.argmax())
            if own.temperature:
                token = int(torch.multinomial((logits / own.temperature).softmax(-1), 1, generator=rng))
            if own.logprobs is not None:
                said.append(self._top(log_p, own.logprobs, token, own.logprob_token_ids))
            ids.append(token)
            text = self.tokenizer.decode(ids) if own.detokenize else ""
            if token in ends or any(stop in text for stop in own.stop):
                break
        return CompletionOutput(i, text, tuple(ids), said if own.logprobs is not None else None)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `import vllm` find this."""
    vllm, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    vllm.LLM, vllm.SamplingParams, request.LoRARequest = LLM, SamplingParams, LoRARequest  # type: ignore[attr-defined]
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("guidestar.model.vllm.installed", lambda: VERSION)
