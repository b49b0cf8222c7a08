"""`guidestar plan`: the memory formula against what PyTorch keeps, refusals and their remedies, and the truth beside it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guidestar import config as configs
from guidestar import loop, phases
from guidestar.bench import Bench
from guidestar.cli import main
from guidestar.config import TrainConfig
from guidestar.errors import ConfigError, DataError, StoreError
from guidestar.metrics import memory
from guidestar.model import sizes
from guidestar.study import fit, plan

Make = Callable[..., dict[str, Any]]
ROOMY = fit.Machine(memory=64 * memory.GIB, free=32 * memory.GIB, disk=64 * memory.GIB)
LORA: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def ticking() -> Callable[[], float]:
    ticks = itertools.count()
    return lambda: float(next(ticks))


def machine(memory_: float | None = 64 * memory.GIB, disk: float | None = 64 * memory.GIB) -> fit.Machine:
    return fit.Machine(memory_, memory_, disk)


# --- the formula ----------------------------------------------------------------------------------


def kept_for_backward(config: configs.RunConfig, rows: int, tokens: int, reading: bool = False) -> float:
    """Bytes that PyTorch keeps between a forward and a backward pass, parameters left out; logits included. reading: of a
    pass over the prompts, else of one over two tokens of answer behind them."""
    import torch

    from guidestar.model import adapters, load, pretrain, step, train

    base = load.load(config.model)
    model = adapters.attach(base, config.peft, 0)
    model.train()
    batch = [train._Row(list(range(5, 5 + tokens - 2)), [7, 8]) for _ in range(rows)]
    texts = [list(range(5, 5 + tokens)) for _ in range(rows)]
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}
    alive = []  # so that no address is given out twice

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    try:
        accelerator = step.accelerator_of(base)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept), accelerator.autocast():
            _ = pretrain._loss(base, model, None, texts, texts) if reading else train._loss(base, model, batch)
    finally:
        adapters.detach(model)
    return float(sum(found.values()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "peft",
    [
        {**LORA, "lora_dropout": 0.2},
        LORA,
        {**LORA, "lora_dropout": 0.2, "target_modules": ["q_proj", "down_proj"]},
        {**LORA, "target_modules": ["q_proj", "v_proj", "down_proj"], "layers_to_transform": [1]},
        {"peft_type": "FULL"},
    ],
    ids=["dropout", "plain", "two targets", "upper layer", "full"],
)
def test_the_formula_says_what_pytorch_keeps(make_config: Make, peft: dict[str, Any], dtype: str) -> None:
    config = configs.parse(make_config(peft=peft))
    config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})
    rows, tokens = 4, 48
    model, shape = sizes.skeleton(config)
    adapter = sizes.adapter_of(config, model, shape)
    parts = memory.training(shape, adapter, rows, tokens, response=2)
    logits = rows * 2 * shape.vocabulary * 4  # the log-probabilities alone are kept
    shared = dtype == "float32" and "lora_dropout" not in peft and peft.get("target_modules") == "all-linear"
    ratio = (parts["activations"] + logits) / kept_for_backward(config, rows, tokens)
    assert 0.9 < ratio < (1.3 if shared else 1.1), ratio


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_formula_of_reading_the_pool_says_what_pytorch_keeps(make_config: Make, dtype: str) -> None:
    config = configs.parse(make_config(peft={**LORA, "lora_dropout": 0.2}))
    config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})
    rows, tokens = 4, 48
    model, shape = sizes.skeleton(config)
    parts = memory.pretraining(shape, sizes.adapter_of(config, model, shape), rows * tokens, rows * tokens)
    logits = rows * tokens * shape.vocabulary * 4  # the log-probabilities alone are kept
    assert "projection" not in parts
    assert parts["logits"] == pytest.approx(logits * (shape.bytes + 12) / 4)
    assert 0.9 < (parts["activations"] + logits) / kept_for_backward(config, rows, tokens, reading=True) < 1.1


def test_a_plan_with_tapt_counts_its_memory(make_config: Make, tiny_encoder_folder: Path) -> None:
    plain = make_config(tapt={"epochs": 1})
    made = plan.plan_run(configs.parse(plain), machine=ROOMY, clock=ticking())
    found = made.plain()
    reading, training = found["memory"]["pretraining"], found["memory"]["training"]
    assert reading["range"][0] < reading["range"][1]
    assert reading["parts"]["logits"] > training["parts"]["logits"]  # every token is asked for, not the answer alone
    assert "pretraining: " in made.text()
    headed = configs.parse({**plain, "model": {"name": str(tiny_encoder_folder)}})
    dataset = Bench(headed).dataset
    parts = fit.needs_of(headed, dataset, fit.lengths_of(headed, dataset), 1).memory["pretraining"].parts
    _, shape = sizes.skeleton(headed)
    assert parts["projection"] == 4 * shape.words * shape.hidden + 16 * shape.hidden**2


def test_runs_are_planned_with_the_head_that_they_will_have(
    make_config: Make, tiny_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, heads = str(tiny_encoder_folder), list[str | None]()
    monkeypatch.setattr("guidestar.bench.ENCODERS", {name})
    make_plan = plan.make_plan

    def noted(cells: Any, *rest: Any) -> Any:
        heads.extend(cell.config.model.head for cell in cells)
        return make_plan(cells, *rest)

    monkeypatch.setattr(plan, "make_plan", noted)
    plain = make_config(
        strategies=["random"], model={"name": name}, peft={"peft_type": "LORA", "r": 4, "target_modules": "all-linear"}
    )
    plan.plan_run(configs.parse(plain), machine=ROOMY, clock=ticking())
    assert heads == ["features"]


@pytest.mark.parametrize("encoder", [False, True])
def test_sizes_are_those_of_the_loaded_model(make_config: Make, tiny_encoder_folder: Path, encoder: bool) -> None:
    from guidestar.model import adapters, load

    config = configs.parse(make_config(**({"model": {"name": str(tiny_encoder_folder)}} if encoder else {})))
    model, shape = sizes.skeleton(config)
    adapter = sizes.adapter_of(config, model, shape)
    base = load.load(config.model, labels=("a", "b"))  # as many as a config without weights has
    assert shape.parameters == sum(p.numel() for p in base.model.parameters())
    adapted = adapters.attach(base, config.peft, 0)
    assert adapter.numbers == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    adapters.detach(adapted)
    assert adapter.mask == 4
    assert adapter.depth == shape.layers


def test_more_examples_and_tokens_need_more_memory(make_config: Make) -> None:
    config = configs.parse(make_config())
    model, shape = sizes.skeleton(config)
    adapter = sizes.adapter_of(config, model, shape)
    small, large = (sum(memory.training(shape, adapter, m, 30, 2).values()) for m in (1, 8))
    fixed = shape.parameters * 4 + 16 * adapter.numbers
    assert large - fixed == pytest.approx(8 * (small - fixed))


# --- refusing -------------------------------------------------------------------------------------


def refused(plain: dict[str, Any], there: fit.Machine) -> str:
    with pytest.raises(ConfigError) as error:
        plan.plan_run(configs.parse(plain), machine=there, clock=ticking())
    assert not (Path(plain["out"]) / "plan.json").exists()
    return str(error.value)


def low_peak(plain: dict[str, Any], **changes: Any) -> float:
    config = configs.parse({**plain, **changes})
    dataset = Bench(config).dataset
    return fit.needs_of(config, dataset, fit.lengths_of(config, dataset), 1).peak[0]


def test_memory_that_cannot_do_is_refused_with_what_would(make_config: Make) -> None:
    """A smaller forward pass is said to fit, and does."""
    plain = make_config(train={"batch_size": 512}, query={"warm_start": 20, "budget": 150}, model={"batch_tokens": 64})
    small = {"train": {**plain["train"], "micro_batch_size": 1}}
    need, less = low_peak(plain), low_peak(plain, **small)
    assert less < need
    room = (need + less) / 2
    text = refused(plain, machine(room))
    assert "memory: at least " in text
    assert "this machine's" in text
    assert "train.micro_batch_size: 1" in text
    found = plan.plan_run(configs.parse({**plain, **small}), machine=machine(room), clock=ticking()).plain()
    assert found["peak"][0] <= room


def test_an_adapter_in_place_of_full_fine_tuning(make_config: Make) -> None:
    plain = make_config(peft={"peft_type": "FULL"}, train={"micro_batch_size": 1}, model={"batch_tokens": 64})
    need, less = low_peak(plain), low_peak(plain, peft=LORA)
    assert less < need
    assert "peft: {peft_type: LORA} in place of FULL" in refused(plain, machine((need + less) / 2))


def test_changes_are_put_together_where_none_is_enough(make_config: Make) -> None:
    plain = make_config(peft={"peft_type": "FULL"}, train={"batch_size": 24})
    both = {"train": {**plain["train"], "micro_batch_size": 1}, "model": {**plain["model"], "batch_tokens": 256}}
    room = low_peak(plain, **both)
    text = refused(plain, machine(room * 1.0001))
    assert "what would fit: train.micro_batch_size: 1 with " in text


def test_what_never_fits_is_said(make_config: Make) -> None:
    text = refused(make_config(), machine(1e6))
    assert "nothing that is left to change would fit" in text
    assert "a smaller model, or another machine" in text


def test_a_full_disk_is_refused(make_config: Make) -> None:
    plain = make_config(query={"warm_start": 4, "batch": 1, "budget": 100})
    text = refused(plain, machine(disk=2e6))
    assert "disk: at least " in text
    assert "fewer rounds, by a larger query.batch" in text
    assert "set `out` to another disk" in text


def test_every_problem_is_named_at_once(make_config: Make) -> None:
    text = refused(make_config(), machine(1e6, disk=1e3))
    assert "memory: " in text
    assert "disk: " in text


def test_prompts_beyond_the_context_are_refused(make_config: Make) -> None:
    with pytest.raises(DataError, match="do not fit the model's context of 24 tokens"):
        plan.plan_run(configs.parse(make_config(model={"max_length": 24})), machine=ROOMY, clock=ticking())


@pytest.mark.parametrize("rate", [0.0, -3.0, float("nan")])
def test_a_rate_must_be_above_zero(make_config: Make, rate: float) -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        plan.plan_run(configs.parse(make_config()), rate=rate, machine=ROOMY)


# --- the plan and the truth -----------------------------------------------------------------------


def test_a_plan_of_two_runs(make_config: Make) -> None:
    config = configs.parse(make_config(cost={"label": 0.5, "annotator_hour": 30, "currency": "EUR"}))
    made = plan.plan_run(config, rate=60, machine=ROOMY, clock=ticking())
    found = made.plain()
    assert found["runs"] == ["star-seed0", "random-seed0"]
    assert (found["rounds"], found["labels"], found["labels_asked"]) == (6, 48, 48)
    assert found["hours"] == pytest.approx([0.8 * 0.75, 0.8 * 1.5])
    assert found["money"]["total"] == pytest.approx([24 + 18, 24 + 36])
    assert all(0 < low < high for low, high in found["seconds"].values())
    assert all(0 < low <= high for low, high in found["tokens"].values())
    assert set(found["tokens"]) == {"choosing", "training", "measuring"}
    kept = json.loads((Path(config.out) / "plan.json").read_text())
    assert kept == found
    text = made.text()
    for words in ("2 runs to go: star-seed0, random-seed0", "a simulation", "if people answered", "EUR (labels 42.00"):
        assert words in text
    assert "wanted each core" in replace(made, load=3.0).text()
    assert "wanted each core" not in replace(made, load=0.5).text()
    unknown = plan.plan_run(configs.parse(make_config()), machine=ROOMY, clock=ticking())
    assert unknown.labelling.hours is None
    assert "no rate is known" in unknown.text()
    assert "no price is known" in unknown.text()


@pytest.mark.parametrize("strategies", [["star", "random"], ["lean", "random"]])
def test_a_model_with_a_head_is_planned(make_config: Make, tiny_encoder_folder: Path, strategies: list[str]) -> None:
    """Its head says nothing before it is trained, and the time of a pass does not hang on what is asked."""
    config = configs.parse(make_config(model={"name": str(tiny_encoder_folder)}, strategies=strategies))
    found = plan.plan_run(config, machine=ROOMY, clock=ticking()).plain()
    assert found["runs"] == [f"{name}-seed0" for name in strategies]
    assert all(0 < low < high for low, high in found["seconds"].values())


def test_the_plan_beside_the_truth(make_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = make_config(strategies=["entropy"])
    file = tmp_path / "c.yaml"
    file.write_text(configs.dump_yaml(plain))
    assert main(["plan", str(file), "--quiet", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    out = Path(plain["out"])
    before = plan.truth_of(out)
    assert before is not None
    assert not before.finished
    assert all(row.error is None for row in before.rows.values())
    assert main(["run", str(file), "--quiet"]) == 0
    assert "the plan beside the truth:" in capsys.readouterr().out
    assert main(["status", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["plan"]["rows"]
    assert set(rows) == {f"seconds, {phase}" for phase in facts["seconds"]} | {"seconds, all", "peak memory", "disk"}
    for row in rows.values():
        low, high = row["planned"]
        assert row["actual"] > 0
        assert row["error"] == pytest.approx(row["actual"] / (low * high) ** 0.5 - 1)
        assert row["inside"] == (low <= row["actual"] <= high)
    assert rows["disk"]["inside"], rows["disk"]
    assert main(["status", str(out / "entropy-seed0"), "--all"]) == 0
    assert "of its middle" in capsys.readouterr().out
    assert main(["plan", str(file), "--quiet"]) == 0
    assert "nothing is left to run: entropy-seed0" in capsys.readouterr().out
    assert plan.truth_of(out) is not None, "the plan of what ran must stay"


def test_a_plan_for_another_configuration_is_not_set_beside_the_truth(make_config: Make) -> None:
    longer = make_config(strategies=["random"], train={"epochs": 7})
    plan.plan_run(configs.parse(longer), machine=ROOMY, clock=ticking())
    run = configs.parse(make_config(strategies=["entropy"], train={"epochs": 1}))
    loop.run(run)
    found = plan.truth_of(Path(run.out))
    assert found is not None
    assert found.changed == ["strategies", "train.epochs"]
    assert found.lines == ["the plan was made for another configuration (strategies, train.epochs)"]


def test_only_what_is_left_is_planned(make_config: Make) -> None:
    one = configs.parse(make_config(strategies=["random"]))
    loop.run(one)
    both = configs.parse(make_config(strategies=["random", "entropy"]))
    found = plan.plan_run(both, machine=ROOMY, clock=ticking()).plain()
    assert (found["runs"], found["done"], found["rounds"]) == (["entropy-seed0"], ["random-seed0"], 3)
    assert found["disk_before"] > 0


def test_the_most_memory_of_several_sessions_counts(make_config: Make) -> None:
    config = configs.parse(make_config(strategies=["random"]))
    out = Path(config.out)
    plan.record_end(out, 5.0)
    assert not (out / "plan.json").exists(), "no plan, no record"
    plan.plan_run(config, machine=ROOMY, clock=ticking())
    for peak in (5e9, 7e9, 6e9):
        plan.record_end(out, peak)
    found = plan.truth_of(out)
    assert found is not None
    assert found.rows["peak memory"].actual == 7e9


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": []}'])
def test_a_damaged_plan_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(StoreError, match=r"plan\.json: .*delete it"):
        plan.truth_of(tmp_path)


def test_people_are_planned_for_without_any_answer(make_config: Make) -> None:
    """No gold answer is there, so the measurement trains on a stand-in, and the phases are those of such a run."""
    plain = make_config(strategies=["entropy"], annotator="people", people={"overlap": 0.5})
    config = configs.parse(plain)
    bench = Bench(config)
    dataset = bench.fitting
    found = plan.plan_run(config, rate=100, machine=ROOMY, clock=ticking()).plain()
    assert found["answered_by"] == "people"
    assert found["labels_asked"] == 36
    assert {"suggest", "validate"} & set(found["seconds"]) == {"suggest"} | (
        {"validate"} if dataset.validation else set()
    )
    with loop.Run(config) as run:
        gold = dict(dataset.gold)
        run.run(lambda example: loop.Label(gold[example.id], "person"))
        done: dict[str, int] = {}
        for _, phase, _, count in run.store.timings():
            done[phase] = done.get(phase, 0) + count * (2 if phase == "train" else 1)
    assert phases.examples(phases.amounts(plan.course_of(bench, True, 0))) == done


def test_a_pool_without_answers_can_be_measured(make_config: Make, tmp_path: Path) -> None:
    rows = "\n".join(f"question number {i} about parcels" for i in range(60))
    (tmp_path / "pool.csv").write_text(f"text\n{rows}\n")
    plain = make_config(strategies=["entropy"], task={"kind": "choice", "labels": ["delivery", "refund"]})
    plain["data"] = {"pool": str(tmp_path / "pool.csv"), "template": "Message: {text}\nTopic:"}
    found = plan.plan_run(configs.parse(plain), machine=ROOMY, clock=ticking()).plain()
    assert found["answered_by"] == "people"
    assert {"train", "score", "suggest"} <= set(found["seconds"])
    assert "validate" not in found["seconds"]


def test_the_page_shows_what_was_measured() -> None:
    """Every real run of results/planning has its row in docs/planning.md, with these numbers."""
    root = Path(__file__).parents[1]
    page = (root / "docs" / "planning.md").read_text(encoding="utf-8")
    runs = json.loads((root / "results" / "planning" / "runs.json").read_text(encoding="utf-8"))["runs"]
    assert len(runs) >= 6
    for run in runs:
        time, memory_, room = (run["rows"][name] for name in ("seconds, all", "peak memory", "disk"))
        low, high = time["planned"]
        cells = [
            run["name"], f"{low:.0f} to {high:.0f}", f"{time['actual']:.0f}",
            f"{time['actual'] / (low * high) ** 0.5 - 1:+.0%}".replace("-", "−"),
            f"{memory_['planned'][0] / memory.GIB:.2f} to {memory_['planned'][1] / memory.GIB:.2f}",
            f"{memory_['actual'] / memory.GIB:.2f}", f"{room['actual'] / 1e6:.0f}",
        ]  # fmt: skip
        assert f"| {' | '.join(cells)} |" in page


def test_this_machine_is_read() -> None:
    found = fit.this_machine(Path("no/such/folder"), "cpu")
    assert found.disk is not None
    assert found.disk > 0
    assert found.memory is None or found.memory > 1e8
    assert found.gpu is None


def test_the_first_config_is_left_as_it_was(make_config: Make) -> None:
    """Remedies are tried on copies."""
    config = configs.parse(make_config(peft={"peft_type": "FULL"}))
    before = config.plain()
    with pytest.raises(ConfigError):
        plan.plan_run(config, machine=machine(1e6))
    assert config.plain() == before
    assert config.train.micro_batch_size is TrainConfig().micro_batch_size
