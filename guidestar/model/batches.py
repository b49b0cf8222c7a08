"""From prompts to padded tensors. Padding is on the left, so that responses end together and the model can be asked
for the logits of the last few positions alone; for a classification head it is on the right."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from guidestar.data.messages import MARK, turns_in
from guidestar.errors import ConfigError, DataError, ModelError
from guidestar.model.device import moved
from guidestar.model.load import BaseModel
from guidestar.model.traits import rendered
from guidestar.progress import Tick
from guidestar.records import Example

Row = TypeVar("Row", bound=Sized)


@dataclass(frozen=True)
class Batch:
    """Padded token ids and what belongs to them, on the model's device.

    ids, positions: (rows, tokens) int64; positions count the real tokens from 0.
    mask: (rows, tokens before + tokens) int64, 1 for real tokens.
    past: a cache with the tokens before, None when there are none.
    from_left: padded on the right, so that the model can count positions itself, as encoders do in their own ways.
    bare: no row is padded and nothing is before them, on a GPU, whose flash kernels take no mask: the model is given none.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    past: Any = None
    from_left: bool = False
    bare: bool = False

    def inputs(self, prompt_learning: bool = False) -> dict[str, Any]:
        """Arguments of a forward pass; PEFT's prompt learning makes its own positions."""
        if self.bare and not prompt_learning:
            return {"input_ids": self.ids, "use_cache": False}
        if self.from_left:
            return {"input_ids": self.ids, "attention_mask": self.mask}
        arguments = {"input_ids": self.ids, "attention_mask": self.mask, "use_cache": self.past is not None}
        if self.past is not None:
            arguments["past_key_values"] = self.past
        return arguments if prompt_learning else {**arguments, "position_ids": self.positions}


def pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device, *, past: Any = None, before: int = 0
) -> Batch:
    """Stack token lists of different length, behind the `before` tokens of `past` that all rows share."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(width) >= (width - lengths)[:, None]).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0) + before
    mask = torch.cat([mask.new_ones(len(rows), before), mask], dim=1)
    bare = device.type == "cuda" and past is None and not before and len(set(map(len, rows))) == 1
    return Batch(moved(ids, device), moved(mask, device), moved(positions, device), past, bare=bare)


def pad_right(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Batch:
    """Stack token lists of different length that begin together, as a classification head reads them."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([list(row) + [pad] * (width - len(row)) for row in rows])
    mask = (torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]).long()
    positions = torch.arange(width).expand(len(rows), -1)
    # Never without a mask: heads read it.
    return Batch(moved(ids, device), moved(mask, device), moved(positions, device), from_left=True)


def ends(lengths: Sequence[int], width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, places) of the last `lengths` of `width` places of each row, in order: an index that a GPU need not be waited
    for, as a mask's would.

    >>> ends([2, 1], 3, torch.device("cpu"))
    (tensor([0, 0, 1]), tensor([1, 2, 2]))
    """
    rows = [row for row, length in enumerate(lengths) for _ in range(length)]
    places = [place for length in lengths for place in range(width - length, width)]
    return moved(torch.tensor(rows, dtype=torch.long), device), moved(torch.tensor(places, dtype=torch.long), device)


def prompt_batch(base: BaseModel, rows: Sequence[Sequence[int]]) -> Batch:
    """Encoded prompts on the side that the model reads them from."""
    return (pad_right if base.labels else pad_left)(rows, base.pad, base.device)


def token_state(base: BaseModel, batch: Batch, states: torch.Tensor) -> torch.Tensor:
    """The state that stands for each text, (rows, width), of (rows, tokens, width), by the base model's pooling."""
    own = states[:, -batch.ids.shape[1] :]  # prompt tuning puts tokens of its own before them
    steps = torch.arange(own.shape[1], device=own.device)
    mask = batch.mask[:, -own.shape[1] :]
    if base.pooling == "mean":
        weights = mask[..., None].float()
        return (own.float() * weights).sum(1) / weights.sum(1)
    place = torch.zeros_like(mask[:, 0]) if base.pooling == "first" else (mask * steps).argmax(1)
    return own[torch.arange(len(own), device=own.device), place]


def followed(batch: Batch, ids: torch.Tensor) -> Batch:
    """The batch of the tokens `ids`, (rows, new), behind those of `batch`, which its cache has read."""
    ahead = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    mask = torch.cat([batch.mask, torch.ones_like(ids)], dim=1)
    return Batch(ids, mask, batch.positions[:, -1:] + ahead, batch.past)


# Padded tokens that a batch costs besides its own, by device; on others a batch costs more than any padding.
_OVERHEAD = {"cpu": 64}
_AROUND = 16  # tokens, at most, that a tokenizer puts around a text
_ENCODED = 1024  # texts that a tokenizer reads at one time; what it says of each takes kilobytes


def read_batches(base: BaseModel, lengths: Sequence[int], exact: bool = False) -> list[list[int]]:
    """`token_batches` for a pass that reads, with the base model's budget and its device's overhead."""
    return token_batches(lengths, base.batch_tokens, exact, _OVERHEAD.get(base.device.type))


def token_batches(
    lengths: Sequence[int], budget: int, exact: bool = False, overhead: int | None = None
) -> list[list[int]]:
    """Positions grouped into batches of similar length, each of at most `budget` padded tokens.

    A single row longer than the budget is a batch of its own. With `exact`, all rows of a batch have the
    same length. Longest first: when memory is short, the first batch says so. overhead: a new batch is begun where that
    saves more padded tokens than this; without it where the last one is full.

    >>> token_batches([2, 9, 3, 3], budget=9)
    [[1], [2, 3, 0]]
    >>> token_batches([9, 2, 2, 2], budget=99), token_batches([9, 2, 2, 2], budget=99, overhead=5)
    ([[0, 1, 2, 3]], [[0], [1, 2, 3]])
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if overhead is not None and not exact:
        ends = _least_padding([lengths[i] for i in order], budget, overhead)
        return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    batches: list[list[int]] = []
    for i in order:
        last = batches[-1] if batches else None
        if last and (len(last) + 1) * lengths[last[0]] <= budget and not (exact and lengths[last[0]] != lengths[i]):
            last.append(i)
        else:
            batches.append([i])
    return batches


def walk(batches: Iterable[list[int]], total: int, tick: Tick) -> Iterator[list[int]]:
    """The batches one after the other; tick hears how many of all examples are done."""
    done = 0
    for rows in batches:
        yield rows
        done += len(rows)
        tick(done, total)


def _least_padding(lengths: Sequence[int], budget: int, overhead: int) -> list[int]:
    """Where batches of falling lengths end, so that padded tokens and `overhead` for each batch are fewest in all."""
    n, first = len(lengths), 0
    sizes, cost = np.asarray(lengths, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
    begin = np.zeros(n + 1, dtype=np.int64)  # of the batch that ends before each place
    for end in range(1, n + 1):
        while first < end - 1 and (end - first) * lengths[first] > budget:
            first += 1
        starts = np.arange(first, end)
        costs = cost[starts] + (end - starts) * sizes[starts]
        at = int(costs.argmin())
        cost[end], begin[end] = costs[at] + overhead, starts[at]
    ends = []
    while n:
        ends.append(n)
        n = int(begin[n])
    return ends[::-1]


def epoch_batches(rows: Sequence[Row], size: int, rng: np.random.Generator, exact: bool) -> Iterator[list[Row]]:
    """Batches of one epoch: shuffled, then sorted by length inside windows of eight batches, so that rows
    of similar length meet and the order still changes every epoch. `exact` allows one length a batch."""
    order = rng.permutation(len(rows))
    batches: list[list[Row]] = []
    window = 8 * size
    for start in range(0, len(order), window):
        part = sorted((rows[i] for i in order[start : start + window]), key=len)
        for row in part:
            last = batches[-1] if batches else None
            if last is None or len(last) == size or (exact and len(last[0]) != len(row)):
                batches.append([row])
            else:
                last.append(row)
    for i in rng.permutation(len(batches)):
        yield batches[i]


def prompt_text(base: BaseModel, prompt: str) -> str:
    """The prompt as the model reads it: itself, or the tokenizer's chat template with the turns that it marks, else with all
    of it as one of the user's."""
    return rendered(base.tokenizer, turns_in(prompt)) if base.chat and not base.rendered else prompt.replace(MARK, "")


def conversation(base: BaseModel, turns: Sequence[str]) -> str:
    """Turns of user, assistant, user, …, user as `traits.rendered` has them. Raises ConfigError as it does."""
    roles = ("user", "assistant")
    return rendered(base.tokenizer, [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)])


def encode_prompts(base: BaseModel, examples: Sequence[Example], room: int | Sequence[int] = 0) -> list[list[int]]:
    """Token ids of every prompt, without an end token that the tokenizer puts behind it. `room`: tokens that must fit
    behind it, or behind each.

    Raises DataError naming the first prompt that does not fit the model's context, is empty, or holds a token that the
    model does not have.
    """
    rows = _prompt_rows(base, examples)
    for example, row, needed in zip(examples, rows, _each(room, examples), strict=True):
        if not row:
            raise DataError(f"{example.where or example.id}: the prompt is empty")
        if len(row) + needed > base.max_length:
            raise DataError(
                f"{example.where or example.id}: the prompt has {len(row)} tokens and needs {needed} more for the response, "
                f"but the model's context is {base.max_length}; shorten the template, or set data.too_long: truncate"
            )
    return rows


def too_long(base: BaseModel, examples: Sequence[Example], room: int | Sequence[int]) -> set[str]:
    """Ids of the examples that do not fit the model's context with `room` tokens behind the prompt, or behind each.

    Raises DataError for a prompt with a token that the model does not have.
    """
    surely = [_fits_surely(base, e.prompt, needed) for e, needed in zip(examples, _each(room, examples), strict=True)]
    if any(surely):
        others = [needed for needed, sure in zip(_each(room, examples), surely, strict=True) if not sure]
        return too_long(base, [e for e, sure in zip(examples, surely, strict=True) if not sure], others)
    sizes = zip(examples, _prompt_rows(base, examples), _each(room, examples), strict=True)
    return {e.id for e, row, needed in sizes if len(row) + needed > base.max_length}


def _fits_surely(base: BaseModel, prompt: str, room: int) -> bool:
    """Whether a prompt need not be tokenized to know that it fits and holds no token that the model lacks: no tokenizer makes
    more than two tokens of an ASCII character, and of a million short texts the tokens would take a minute."""
    if base.chat or not prompt.isascii() or 2 * len(prompt) + _AROUND + room > base.max_length:
        return False
    added = base.tokenizer.get_added_vocab().values()
    return base.vocabulary is None or max(base.tokenizer.vocab_size - 1, *added, 0) < base.vocabulary


def _prompt_rows(base: BaseModel, examples: Sequence[Example]) -> list[list[int]]:
    if not examples:
        return []
    rows = []
    for start in range(0, len(examples), _ENCODED):
        texts = [prompt_text(base, e.prompt) for e in examples[start : start + _ENCODED]]
        rows += base.tokenizer(texts, add_special_tokens=not base.chat)["input_ids"]
    close = list(base.closing) if not base.chat else []
    prompts = [list(row[: -len(close)] if close and row[-len(close) :] == close else row) for row in rows]
    for example, row in zip(examples, prompts, strict=True):
        _check_known(base, row, example.where or example.id)
    return prompts


def _check_known(base: BaseModel, row: Sequence[int], where: str) -> None:
    """Raises DataError for a token that was added to the tokenizer and not to the model."""
    if base.vocabulary is not None and (highest := max(row, default=0)) >= base.vocabulary:
        raise DataError(
            f"{where}: holds {base.tokenizer.convert_ids_to_tokens(highest)!r}, which the tokenizer reads as token {highest}, but "
            f"the model has {base.vocabulary} tokens; take it out of the text"
        )


def control_tokens(base: BaseModel, examples: Iterable[Example]) -> dict[str, int]:
    """Control token -> how many examples hold it in their columns, such as "</s>": the model reads it as what it is, and not
    as text, wherever it stands."""
    pieces = sorted(filter(None, base.tokenizer.all_special_tokens), key=len, reverse=True)
    if not pieces:
        return {}
    counts: Counter[str] = Counter()
    sought = re.compile("|".join(map(re.escape, pieces)))
    for example in examples:
        counts.update({piece for text in example.fields.values() for piece in sought.findall(str(text))})
    return dict(counts)


def _each(room: int | Sequence[int], examples: Sequence[Example]) -> Sequence[int]:
    return [room] * len(examples) if isinstance(room, int) else room


def decode(base: BaseModel, ids: Sequence[int]) -> str:
    """The text of some tokens, special ones left out."""
    return str(base.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def encode_response(base: BaseModel, prompt: str, response: str) -> list[int]:
    """Token ids of a response that follows `prompt`, without an end token."""
    return _encode_behind(base, joint_of(base, prompt), response)


def joint_of(base: BaseModel, prompt: str) -> str:
    """What stands between a prompt and its response: a space, or nothing where the prompt ends in white space.

    It differs between the rows of one file where the template ends in a column that is blank in some of them.
    """
    return "" if prompt_text(base, prompt)[-1:].isspace() else " "


def _encode_behind(base: BaseModel, joint: str, response: str) -> list[int]:
    """The text is encoded behind a colon and the colon taken off again, because some tokenizers add a space of their own
    at the start."""
    plain = base.tokenizer(":", add_special_tokens=False)["input_ids"]
    both = base.tokenizer(":" + joint + response, add_special_tokens=False)["input_ids"]
    _check_known(base, both, f"the response {response[:60]!r}")
    if both[: len(plain)] == plain:
        return list(both[len(plain) :])
    return list(base.tokenizer(joint + response, add_special_tokens=False)["input_ids"])


def encode_answer(base: BaseModel, task: Any, example: Example, answer: str) -> list[int]:
    """Token ids of the response that gives `answer`, end token included."""
    return [*encode_response(base, example.prompt, task.response_text(answer)), base.eos[0]]


@dataclass(frozen=True)
class LabelTokens:
    """How the words of a label space are told apart.

    prefix: tokens that every word's response begins with (format words).
    rest: for each label the tokens that follow, end token included. `first` is the first of each.
    """

    prefix: tuple[int, ...]
    rest: tuple[tuple[int, ...], ...]

    @property
    def first(self) -> list[int]:
        return [row[0] for row in self.rest]

    @property
    def room(self) -> int:
        """Tokens of the longest response."""
        return len(self.prefix) + max(map(len, self.rest))


def each_label_tokens(base: BaseModel, task: Any, examples: Sequence[Example]) -> list[LabelTokens]:
    """`label_tokens` behind each prompt; one object for all that have the same joint."""
    joints = [joint_of(base, example.prompt) for example in examples]
    known = {joint: label_tokens(base, task, joint) for joint in set(joints)}
    return [known[joint] for joint in joints]


def label_tokens(base: BaseModel, task: Any, joint: str) -> LabelTokens:
    """Tokens of the label words behind the prompts with one joint, see `joint_of`.

    Raises ConfigError when the task scores first tokens and two labels share theirs.
    """
    rows = [[*_encode_behind(base, joint, task.response_text(label)), base.eos[0]] for label in task.labels]
    shared = 0
    while len({row[shared] for row in rows}) == 1:  # ends at the latest where the shortest row ends: words differ
        shared += 1
        if any(len(row) == shared for row in rows):
            raise ModelError("two label words have the same tokens; choose other words in task.labels")
    tokens = LabelTokens(tuple(rows[0][:shared]), tuple(tuple(row[shared:]) for row in rows))
    if task.scoring == "first_token":
        seen: dict[int, str] = {}
        for label, token in zip(task.labels, tokens.first, strict=True):
            if token in seen:
                piece = base.tokenizer.decode([token])
                raise ConfigError(
                    f"task.labels: the words of {seen[token]!r} and {label!r} both begin with the token {piece!r}, so one token "
                    "cannot tell them apart; choose other words (labels: {label: word}), or set task.scoring: sequence"
                )
            seen[token] = label
    return tokens
