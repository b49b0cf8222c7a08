"""Two processes that share a training on the CPU, over gloo: the same training as one process makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import two_ranks
import yaml
from conftest import LABELS
from forks import Family, Forked
from page_help import free_port
from safetensors.torch import load_file
from test_predict import choice
from test_train import LABELLED

from guidestar import config as configs
from guidestar.asking import HeadStart, Lesson
from guidestar.config import ModelConfig
from guidestar.errors import ConfigError
from guidestar.executors import rank_of
from guidestar.model.load import load
from guidestar.model.ranks import Ranks
from guidestar.model.train import OwnTrainer
from guidestar.sections import SPREADABLE
from guidestar.store import Store

SETTINGS = {"epochs": 2, "batch_size": 7, "learning_rate": 5e-3, "b_decay": 20.0, "patience": 1}


def launched(count: int, *command: str) -> None:
    """By torchrun, forked from what has imported torch, as are the processes that it starts."""
    here = Path(__file__).parent
    paths = [str(here.parent), str(here), *filter(None, [os.environ.get("PYTHONPATH")])]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--rdzv-backend", "c10d"]
    process = Family(
        [*launcher, "--rdzv-endpoint", "localhost:0", *command], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    _, said = process.communicate(timeout=500)
    assert process.returncode == 0, said[-3000:]


def forked(count: int, *command: str, **environment: str) -> None:
    """The same processes with what torchrun tells them, without the seconds of its own start and theirs."""
    told = {
        **os.environ,
        **environment,
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    processes = [
        Forked([sys.executable, *command], env={**told, "RANK": str(i), "LOCAL_RANK": str(i)}, stderr=subprocess.PIPE, text=True)
        for i in range(count)
    ]  # fmt: skip
    for process in processes:
        _, said = process.communicate(timeout=500)
        assert process.returncode == 0, said[-3000:]


def by_one(tiny_folder: Path, folder: Path, *wanted: str) -> None:
    """What `two_ranks` makes, by this process alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["two_ranks", str(tiny_folder), str(folder), *wanted])
        patch.setattr(Ranks, "sum_gradients", Ranks.sum_gradients)  # it is spied on there
        two_ranks.main()


def assert_equal(first: Path, second: Path) -> None:
    """The first gradients and the adapters of two trainings agree to rounding."""
    for file in ("gradients.safetensors", "adapter_model.safetensors"):
        one, other = (load_file(folder / file) for folder in (first, second))
        assert one.keys() == other.keys()
        for key, value in one.items():
            torch.testing.assert_close(other[key], value, rtol=1e-5, atol=1e-8)


@pytest.fixture(scope="module")
def alone(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two trainings by one process: "one", and "free" without a decay."""
    folder = tmp_path_factory.mktemp("alone")
    free = json.dumps({**SETTINGS, "b_decay": 0.0})
    by_one(tiny_folder, folder, json.dumps(SETTINGS), "one", free, "free")
    return folder


@pytest.mark.parametrize("use", ["ddp", "fsdp2"])
def test_losses_and_gradients_are_those_of_one_process(
    alone: Path, tiny_folder: Path, tmp_path: Path, use: str
) -> None:
    """A batch of seven and a last one of one, of which rank 1 has nothing; and B decays (with b_decay 0 it ends elsewhere)."""
    again = json.dumps({**SETTINGS, "checkpointing": True, "micro_batch_size": 1})
    more = [again, "again"] if use == "fsdp2" else []
    forked(2, "-m", "two_ranks", str(tiny_folder), str(tmp_path), json.dumps(SETTINGS), "two", *more, USE=use)
    one, two = alone / "one", tmp_path / "two"
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    assert results[0][2] == results[1][2]
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)
    for name in ("two", *more[1:]):
        assert_equal(one, tmp_path / name)
    ends = [load_file(folder / "adapter_model.safetensors") for folder in (two, alone / "free")]
    sizes = [sum(float(v.norm()) for n, v in end.items() if "lora_B" in n) for end in ends]
    assert sizes[0] < 0.99 * sizes[1], "the decay acts"


def test_every_adapter_that_a_spread_model_may_have_trains_as_in_one_process(tiny_folder: Path, tmp_path: Path) -> None:
    own: dict[str, dict[str, int]] = {"IA3": {}, "LOHA": {"r": 4, "alpha": 8}, "LOKR": {"r": 4, "alpha": 8}}
    assert {"LORA", *own} == set(SPREADABLE)
    wanted = []
    for kind, keys in own.items():
        peft = {"peft_type": kind, "target_modules": "all-linear", **keys}
        wanted += [json.dumps({**SETTINGS, "peft": peft}), kind]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    by_one(tiny_folder, tmp_path / "one", *wanted)
    forked(2, "-m", "two_ranks", str(tiny_folder), str(tmp_path / "two"), *wanted, USE="fsdp2")
    for kind in own:
        assert_equal(tmp_path / "one" / kind, tmp_path / "two" / kind)
        assert any(v.any() for v in load_file(tmp_path / "two" / kind / "gradients.safetensors").values())


@pytest.mark.parametrize("use", ["ddp", "fsdp2"])
def test_a_run_by_two_processes_is_that_of_one(
    make_config: Callable[..., dict[str, Any]], tmp_path: Path, use: str
) -> None:
    """Rank 0 owns the store, trains with the other and publishes one adapter; a model that is spread scores, too."""
    from guidestar import loop
    from guidestar.publish import publish

    def config(name: str) -> dict[str, Any]:
        return make_config(
            out=str(tmp_path / name), strategies=["entropy"], engine={"train": {"use": use}}, train={"epochs": 1},
            query={"warm_start": 6, "batch": 5, "budget": 11},
            peft={"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"},
        )  # fmt: skip

    loop.run(config("one"))
    (file := tmp_path / "two.yaml").write_text(yaml.safe_dump(config("two")))
    started = launched if use == "ddp" else forked
    started(2, "-m", "guidestar", "run", str(file))
    if use == "fsdp2":
        forked(2, "-m", "guidestar", "run", str(file))  # nothing is left to do; the other is sent home all the same
    measured, weights = [], []
    for name in ("one", "two"):
        folder = tmp_path / name / "entropy-seed0"
        with Store.open(folder) as store:
            measured.append([(m.round, m.labels) for m in store.metrics()] + [p.id for p in store.query(1).picks])
        weights.append(load_file(Path(publish(folder)["folder"]) / "adapter_model.safetensors"))
    assert measured[0] == measured[1]
    assert measured[0][:2] == [(0, 6), (1, 11)]
    apart = sum(float((weights[1][n] - v).norm()) for n, v in weights[0].items())
    assert apart < 0.01 * sum(float(v.norm()) for v in weights[0].values()), "rounding, of which Adam makes much"


def test_what_several_processes_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"engine": {"train": {"use": "fsdp2"}}}
    for peft, name in (({"peft_type": "FULL"}, "FULL"), ({"peft_type": "LORA", "use_dora": True}, "DoRA")):
        with pytest.raises(ConfigError, match=rf"as {name} needs it; allowed adapters: LORA, IA3, LOHA, LOKR"):
            configs.parse({**given, "peft": peft})
    for model in ({"quantize": "nf4"}, {"score_dtype": "float32"}):
        with pytest.raises(ConfigError, match=r"together with model.quantize or model.score_dtype"):
            configs.parse({**given, "model": model})
    with pytest.raises(ConfigError, match=r"tapt is set together with engine.train.use: fsdp2"):
        configs.parse({**given, "tapt": {}})
    given = {"engine": {"train": {"use": "ddp"}}}
    with pytest.raises(ConfigError, match=r"model.device_map is set together with"):
        configs.parse({**given, "model": {"device_map": "auto"}})
    demo = {"data": {"preset": "demo"}}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is 2: .* set engine.train.use: ddp or fsdp2"):
        rank_of(configs.parse(demo))
    assert rank_of(configs.parse({**demo, **given})) == 1
    assert "engine" not in configs.parse(demo).plain(), "an older configuration's fingerprint stays"


def test_shares_are_the_whole_batch_and_masks_differ() -> None:
    rows = list(range(7))
    parts = [Ranks(i, 3).share(rows, lambda row: -1) for i in range(3)]
    assert sorted(row for part in parts for row in part) == rows
    spread = [Ranks(i, 3, blocks=[None]).share(rows, lambda row: -1) for i in range(3)]
    assert [list(part) for part in spread] == [[0, 3, 6], [1, 4, -1], [2, 5, -1]], "all take as many steps"
    assert [list(Ranks(i, 3, blocks=[None]).share([9], lambda row: -1)) for i in range(3)] == [[9], [-1], [-1]]
    assert Ranks(0, 3).seed(5) == Ranks().seed(5) == 5
    assert len({Ranks(i, 3).seed(seed) for i in range(3) for seed in (5, 6)}) == 6


def test_every_process_has_the_centres_of_a_head_on_features(
    tiny_encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They start as the pool's means on rank 0 and are no parameters, so that no gradient would bring them to the others."""
    base = load(ModelConfig(name=str(tiny_encoder_folder), dtype="float32", head="features"), labels=LABELS)
    given: list[torch.Tensor] = []
    monkeypatch.setattr(Ranks, "agree", lambda self, tensors: given.extend(t.clone() for t in tensors))
    centres = torch.arange(6 * 48, dtype=torch.float32).view(6, 48).numpy()
    start = HeadStart(centres, torch.zeros(6 * 48, 6).numpy(), torch.zeros(6).numpy())
    peft = {"peft_type": "LORA", "r": 2, "target_modules": ["query"]}
    trainer = OwnTrainer(base, choice(), peft, configs.TrainConfig(epochs=1, batch_size=8))
    trainer(Lesson(labelled=LABELLED, seed=0, start=start), tmp_path)
    assert any(t.shape == (6, 48) and t.numpy().tobytes() == centres.tobytes() for t in given)
