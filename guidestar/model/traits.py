"""What a base model's own files and modules say about how it must be used, where transformers keeps silent: which modules
were drawn at loading, how many positions there are, which tokens, what the tokenizer puts behind a text."""

from __future__ import annotations

import inspect
import json
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guidestar.errors import ConfigError, ModelError
from guidestar.model import heads

POOLING = "1_Pooling/config.json"  # in the folder of a sentence-transformers model
CONTEXT = 2048  # tokens, where a model names no limit of its own
TEMPLATE_SECONDS = 5.0  # a chat template that takes longer for one short message never ends
_TABLES = {"position_embeddings", "position_embedding", "embed_positions", "wpe"}  # of learned positions


def refuse_adapter(folder: Path) -> None:
    """Raise ModelError if an adapter lies in a model's folder: transformers would put it on the model unseen, and the base
    that rounds are trained from would be another than the base that is scored."""
    place = folder / "adapter_config.json"
    if not place.is_file():
        return
    if not (folder / "config.json").is_file():
        try:
            base = json.loads(place.read_text(encoding="utf-8")).get("base_model_name_or_path")
        except (OSError, ValueError, AttributeError):
            base = None
        raise ModelError(f"{folder}: is an adapter and no model; model.name must name the model it belongs to: {base}")
    raise ModelError(
        f"{folder}: an adapter lies beside the model (adapter_config.json), and transformers would put it on without a word; "
        "merge it into the weights first, or move its files to a folder of their own"
    )


def drawn(model: heads.Model, missing: Collection[str], folder: Path) -> tuple[str, ...]:
    """Modules of the model below a classification head whose weights were not in the files, such as BERT's pooler in a
    masked language model: they were drawn at random, so they belong to the head.

    missing: names of tensors, as transformers' loading info has them. Raises ModelError if a tensor is missing that belongs
    to no such module: the model that was asked for is not in the folder.
    """
    below = model.base_model
    headed = model.get_output_embeddings() is None and below is not model
    own = [f"{name}." for name in heads.names(model)] if headed else []
    lost = sorted(key for key in missing if not key.startswith(tuple(own)))
    modules = {}
    if own:
        prefix = next(name for name, child in model.named_children() if child is below)
        for name, child in below.named_children():
            stack = any(isinstance(m, (nn.Embedding, nn.ModuleList)) for m in child.modules())
            tensors = {f"{prefix}.{name}.{key}" for key in child.state_dict()}
            if tensors and not stack and tensors <= set(missing):
                modules[f"{prefix}.{name}"] = tensors
    if lost := [key for key in lost if not any(key in tensors for tensors in modules.values())]:
        raise ModelError(
            f"{folder}: the weights of {type(model).__name__} are not all there: {len(lost)} tensors are missing, first {lost[0]}; "
            "transformers would draw them at random. Name a folder that holds them all"
        )
    return tuple(modules)


def context(model: heads.Model, wanted: int | None) -> int:
    """The most tokens that a model reads: those wanted, or its own limit, and never more than its table of positions has.
    wanted: `model.max_length`."""
    own = getattr(model.config, "max_position_embeddings", None) or 0
    return min([wanted or (own if own > 0 else CONTEXT), *_positions(model)])  # XLNet names −1


def _positions(model: heads.Model) -> Iterator[int]:
    """Usable rows of each table of learned positions. RoBERTa and its like count from behind the padding's row, OPT and its
    like from a fixed one."""
    for name, module in model.named_modules():
        table = getattr(module, "weight", None)
        if name.rpartition(".")[2] in _TABLES and isinstance(table, torch.Tensor) and table.ndim == 2:
            padding = getattr(module, "padding_idx", None)
            yield len(table) - (getattr(module, "offset", 0) if padding is None else padding + 1)


def vocabulary(model: heads.Model) -> int:
    """Rows of the input embeddings: token ids are below this."""
    return int(model.get_input_embeddings().weight.shape[0])


def padding(tokenizer: Any, eos: Sequence[int], known: int) -> int:
    """An id for padding that is in the embeddings; it is always masked, so any one will do. A pad token that was added to the
    tokenizer alone is not in them. known: rows of the embeddings."""
    return next((i for i in (tokenizer.pad_token_id, *eos) if i is not None and i < known), 0)


def unpadded(model: heads.Model, pad: int, known: int, right: bool) -> bool:
    """Whether a text beside a longer one must not be padded: tried with two rows, one of them padded, and the states below the
    head or the vocabulary. Decoders such as BART's count the padding; RWKV, ConvBERT and RecurrentGemma read it. Attention that is
    told where its tokens stand need not be tried.

    pad, known: the padding's id and the rows of the embeddings. right: where the padding is, as a classification head has it.
    """
    told = not right and "position_ids" in inspect.signature(model.forward).parameters
    if told and not any(isinstance(module, nn.Conv1d) for module in model.modules()):  # recurrent layers begin with one
        return False

    def states(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        more = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0), "use_cache": False} if told else {}
        return model.base_model(input_ids=ids, attention_mask=mask, **more)[0].float()

    weight = model.get_input_embeddings().weight
    ids = torch.tensor([[(7 * i + 3) % known for i in range(8)]], device=weight.device)
    own = slice(0, 5) if right else slice(3, 8)
    rows, mask = torch.cat([ids, torch.full_like(ids, pad)]), torch.ones(2, 8, dtype=torch.long, device=weight.device)
    rows[1, own], mask[1], mask[1, own] = ids[0, :5], 0, 1
    with torch.inference_mode():
        alone, beside = states(ids[:, :5], mask[:1, :5])[0], states(rows, mask)[1, own]
    if len(alone) != 5:
        raise ModelError("it shortens a text on its way (as Funnel does), so that no state belongs to one token")
    near = (1e-4 if weight.dtype == torch.float32 else 0.1) * alone.abs().max()
    return not bool((alone - beside).abs().max() <= near)  # nan is no agreement


def closing(tokenizer: Any, eos: Collection[int]) -> tuple[int, ...]:
    """The tokens that a tokenizer puts behind every text, from the first end token or other control token on, such as BERT's
    [SEP]; usually none."""
    ends = {*eos, *tokenizer.all_special_ids}
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    for start in range(len(whole) - len(bare), -1, -1):
        if whole[start : start + len(bare)] == bare:
            behind = whole[start + len(bare) :]
            return tuple(next((behind[i:] for i, token in enumerate(behind) if token in ends), []))
    return ()


def pooling(folder: Path, encoder: bool) -> str:
    """How a model's own files say that its token states become one: sentence-transformers keep that beside the weights."""
    own = _json(folder / POOLING)
    if isinstance(own, Mapping) and own.get("pooling_mode_mean_tokens"):
        return "mean"
    return "first" if encoder else "last"


def normalized(folder: Path) -> bool:
    """Whether a sentence-transformers model ends by giving its embeddings length 1."""
    modules = _json(folder / "modules.json")
    parts = modules if isinstance(modules, list) else []
    return any(isinstance(part, Mapping) and str(part.get("type")).endswith(".Normalize") for part in parts)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """Messages, {"role", "content"}, in the tokenizer's chat template, up to the next answer.

    Raises ConfigError if the tokenizer has no chat template, or one that fails.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError("model.chat is true, but the tokenizer has no chat template; allowed: false")
    turns = [dict(one) for one in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # a template is a program of somebody's, and may raise anything
        raise ConfigError(
            f"model.chat: the tokenizer's chat template fails: {type(error).__name__}: {str(error)[:200]}; allowed: false"
        ) from error


def check_template(tokenizer: Any) -> None:
    """Raise ConfigError for a chat template that fails on one short message, or does not end on it."""
    with _deadline(TEMPLATE_SECONDS):
        rendered(tokenizer, [{"role": "user", "content": "a"}])


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside Python code that is still running in the block after so long."""
    end, before = time.monotonic() + seconds, sys.gettrace()

    def watch(frame: Any, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise TimeoutError(f"it was still running after {seconds:g} s")
        return watch

    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)
