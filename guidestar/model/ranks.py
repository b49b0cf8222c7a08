"""Several processes for one training: each computes the gradients of its share of every batch, and they are summed.

A launcher starts the same command several times (`torchrun --nproc-per-node 2 -m guidestar run …`). Rank 0 makes the run:
it alone reads the data, opens the store and writes. The others load the base model and do what they are told, as JSON over
the process group. A batch's gradient is the sum over its examples, so any number of processes makes the same step, up to
rounding and to the dropout masks, which each draws for its own share.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed

from guidestar.config import ModelConfig, TrainConfig
from guidestar.errors import ConfigError, ModelError
from guidestar.model import layers

PATIENCE = timedelta(days=30)  # that others wait for an order: rank 0 scores and evaluates meanwhile
T = TypeVar("T")


@dataclass
class Ranks:
    """The processes of a training. rank: of this one; count: of all. blocks: those of a base model that is spread."""

    rank: int = 0
    count: int = 1
    blocks: list[Any] = field(default_factory=list)
    _together: bool = False

    def share(self, rows: Sequence[T], empty: Callable[[T], T]) -> Sequence[T]:
        """This process's part of a batch; with more processes than rows some have none. Where the model is spread all take as
        many steps, so that all have as many rows, some of them empty ones."""
        own = rows[self.rank :: self.count]
        return own if not self.blocks or len(own) == len(rows[:: self.count]) else [*own, empty(rows[0])]

    def seed(self, seed: int) -> int:
        """For the dropout masks of this process; of rank 0 and of one alone `seed` itself."""
        return int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0]) if self.rank else seed

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Make each gradient the sum over all processes; where one has none, its share of the batch was empty."""
        if self.count == 1:
            return
        own = list(parameters)
        for p in own:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for some in _alike([p.grad for p in own if p.grad is not None]):
            whole = torch.cat([grad.reshape(-1) for grad in some])
            distributed.all_reduce(whole)
            for grad, part in zip(some, whole.split([grad.numel() for grad in some]), strict=True):
                grad.copy_(part.view_as(grad))

    @torch.no_grad()
    def agree(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give all processes what rank 0 has in these tensors."""
        if self.count > 1:
            for tensor in tensors:
                _broadcast(tensor)

    def total(self, value: torch.Tensor) -> float:
        """The sum of a number over all processes."""
        if self.count > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return float(value)

    def asked(self, question: Callable[[], float]) -> float:
        """What rank 0 answers, in all processes: it alone has the data to be asked about."""
        if self.rank:
            return float(self.listen()["answer"])
        answer = float(question())
        self.tell({"answer": answer})
        return answer

    def tell(self, order: Mapping[str, Any]) -> None:
        """Rank 0 gives the others an order, JSON-able; alone it is nobody's."""
        if self.count > 1:
            text = torch.tensor(list(json.dumps(order).encode()), dtype=torch.uint8)
            _broadcast(torch.tensor([len(text)]))
            _broadcast(text)

    def listen(self) -> dict[str, Any]:
        """The next order of rank 0, to whom parts of the model are lent until then."""
        while (length := int(_broadcast(torch.zeros(1, dtype=torch.int64)))) < 0:
            self.blocks[-length - 1].unshard()
            self.blocks[-length - 1].reshard()
        return dict(json.loads(bytes(_broadcast(torch.zeros(length, dtype=torch.uint8)).tolist())))

    def spread(self, model: torch.nn.Module, device: torch.device) -> None:
        """Leave each process its part of every block of a frozen model, on its device. Raises ConfigError without blocks."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (self.count,))
        numbered = [module for name, module in model.named_modules() if layers.block_of(name) == name]
        self.blocks = [block for block in numbered if any(True for _ in block.parameters())]
        if not self.blocks:
            kind = type(model).__name__
            raise ConfigError(f"engine.train.use is fsdp2, but {kind} has no numbered blocks; allowed: here, ddp")
        for i, block in enumerate(self.blocks):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
            block.unshard()  # outside of inference mode, whose tensors no training could use
            block.reshard()
            if self.rank == 0:
                block.register_forward_pre_hook(partial(self._borrow, i), prepend=True)

    def _borrow(self, i: int, block: Any, *inputs: Any) -> None:
        """Before rank 0 computes with a block: the others, who wait for an order, gather its weights with it."""
        if not self._together:
            block.reshard()  # after an error it might be whole here still
            _broadcast(torch.tensor([-i - 1]))

    @contextmanager
    def together(self) -> Iterator[None]:
        """All processes compute, in step, while the block lasts."""
        self._together = True
        try:
            yield
        finally:
            self._together = False


def _broadcast(tensor: torch.Tensor) -> torch.Tensor:
    distributed.broadcast(tensor, src=0)
    return tensor


def _alike(tensors: Sequence[torch.Tensor]) -> Iterable[list[torch.Tensor]]:
    """The tensors by their precision and device, in order."""
    kinds: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return kinds.values()


def here() -> Ranks:
    """The processes that a launcher started for this training; one alone without a launcher."""
    count = int(os.environ.get("WORLD_SIZE") or 1)
    return _joined(int(os.environ["RANK"]), count) if count > 1 else Ranks()


@cache
def _joined(rank: int, count: int) -> Ranks:
    """Join the process group: gloo between CPUs, which orders go by, and NCCL between GPUs."""
    if not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    return Ranks(rank, count)


def leave() -> None:
    """Leave the process group; rank 0 sends the others home, who may have waited for nothing."""
    ranks = here()
    if ranks.count > 1:
        if ranks.rank == 0:
            ranks.tell({"do": "end"})
        distributed.destroy_process_group()
        _joined.cache_clear()


def serve() -> None:
    """Do what rank 0 says until it is over. Raises ModelError if the base model of this process is another one."""
    from guidestar.model import load, train

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is to be kept here, and a wait for rank 0 runs no handler
    ranks, base = here(), None
    while (order := ranks.listen())["do"] != "end":
        if order["do"] == "load":
            told = {name: order[name] for name in ("labels", "several", "spread")}
            base = load.load(ModelConfig(**order["model"]), **told)
            continue
        assert base is not None, "rank 0 has the model loaded before it trains"
        if base.fingerprint != order["fingerprint"]:
            raise ModelError(
                f"rank {ranks.rank}: the base model {base.name} is another one than that of rank 0 (fingerprints "
                f"{base.fingerprint[:12]}… and {order['fingerprint'][:12]}…); every machine must have the same files"
            )
        train.follow(base, TrainConfig(**order["config"]), order)
    leave()


def place(path: Path | None) -> str | None:
    """A folder as rank 0 names it in an order."""
    return None if path is None else str(Path(path).absolute())
