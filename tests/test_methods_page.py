"""docs/methods.md: every registered type has a line, whoever adds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import methods

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(scope="module")
def page() -> str:
    return methods.page(RESULTS)


def test_every_type_and_option_has_a_line(page: str) -> None:
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    for name in methods.registered():
        assert any(line.startswith(f"| `{name}`") for line in lines), f"{name} has no line"
    for shown, _ in methods.OPTIONS.values():
        assert any(line.startswith(f"| {shown} |") for line in lines)
    assert all(line.count("|") == 11 for line in lines)


def test_what_is_left_out_has_its_reason(page: str) -> None:
    for name in ("BIPEFT", "ALoRE", "DAS", "LFP"):
        assert f"- **{name}**: " in page


def test_a_type_of_our_own_has_the_source_of_its_file() -> None:
    assert methods.source_of("BOTTLENECK").startswith("Houlsby et al. 2019")
    assert methods.source_of("SPEFT").startswith("Liu et al. 2025")
    assert methods.source_of("LORA") == "Hu et al. 2022"


def test_without_results_nothing_is_invented(tmp_path: Path) -> None:
    place = tmp_path / "studies" / "methods"
    place.mkdir(parents=True)
    (place / "study.yaml").write_text("rows:\n  - {name: lora, peft: {peft_type: LORA}}\n")
    line = next(line for line in methods.page(tmp_path).splitlines() if line.startswith("| `LORA`"))
    assert line == "| `LORA` | Hu et al. 2022 | – | – | – | – | not run | not run | not run | not run |"


def test_the_study_of_all_methods_can_be_read() -> None:
    """Every row is a valid run, and every type that fits an encoder's head has one."""
    from test_peft_contract import CASES

    from guidestar.study.compose import load_study

    study = load_study(RESULTS / "studies" / "methods" / "study.yaml", ["folder=null", "datasets=[{name: demo}]"])
    types = {cell.config.peft.get("peft_type") for cell in study.cells}
    missing = {name for name, case in CASES.items() if "bert" not in case.unfit} - types
    assert not missing, f"results/studies/methods/study.yaml has no row of {sorted(missing)}"
