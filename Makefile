# The whole workflow. `make demo` and `make test` need only Python 3.11+ and make:
# each makes the virtual environment and installs what it lacks, once.
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
# what is imported is compiled then; all of it would take a minute
PIP = $(PY) -m pip install --quiet --disable-pip-version-check --no-compile \
	-c constraints.txt
PEERS = .venv-peers
PIP_IN = bin/python -m pip install --quiet --disable-pip-version-check
PEERS_PIP = $(PEERS)/$(PIP_IN) -c constraints.txt
# the versions of Sentence Transformers that read what we save, with the Transformers of
# their time
OLDEST = "sentence-transformers==5.2.0" "transformers<5"
NEWEST = --upgrade sentence-transformers
BENCH = examples/benchmarks

# nothing here reaches a model hub
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help demo test test-slow oldest newest wheel coverage interop distributed lint \
	format docs bench-adapters bench-defaults bench-finetune bench-scoring bench-scale \
	bench-calibration models gpu clean

help:
	@echo "make demo       install and run the quick start (examples/plot_quickstart.py)"
	@echo "make test       install, lint and run the test suite"
	@echo "make test-slow  the tests that need minutes, on real data"
	@echo "make oldest     the test suite with the oldest versions that are allowed"
	@echo "make newest     the test suite with the newest versions of everything, without"
	@echo "                constraints, in an environment of its own"
	@echo "make gpu        what a GPU computes, against the CPU; its time and memory beside bare"
	@echo "                Sentence Transformers"
	@echo "make interop    what we save in the oldest and newest Sentence Transformers, in"
	@echo "                LlamaIndex and LangChain, each in an environment of its own"
	@echo "make distributed"
	@echo "                searches on dask and ray, Optuna, MLflow and TensorBoard, in an"
	@echo "                environment of its own"
	@echo "make wheel      sdist and wheel, and the test suite with the wheel and the newest"
	@echo "                versions of everything"
	@echo "make coverage   the test suite, and which lines it does not reach"
	@echo "make lint       ruff and mypy"
	@echo "make format     ruff, mending what it can"
	@echo "make docs       the guide, the gallery of examples and the API reference, into"
	@echo "                docs/_build/html, five minutes the first time"
	@echo "make bench-adapters SKEMBFT_DATA=DIR"
	@echo "                adapters against their peers, about half an hour; DIR holds the"
	@echo "                data sets, see examples/benchmarks/README.md"
	@echo "make bench-defaults SKEMBFT_DATA=DIR"
	@echo "                where the defaults come from, about an hour"
	@echo "make bench-finetune SKEMBFT_DATA=DIR"
	@echo "                full fine-tuning against the bare trainer, about an hour"
	@echo "make bench-scoring"
	@echo "                scoring against a plain matmul, and the statistics, 15 minutes"
	@echo "make bench-calibration SKEMBFT_DATA=DIR"
	@echo "                probabilities and thresholds on other queries, 20 minutes"
	@echo "make bench-scale"
	@echo "                growth of time and memory up to a million rows, 15 minutes"
	@echo "make models     which kinds of models work, tried one by one, five minutes"
	@echo "make clean      remove the virtual environment and caches"

# torch goes first and by itself, so that a CPU build at hand is taken
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) -e ".[demo]"
	@touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml
	$(PIP) -e ".[test]"
	@touch $@

$(VENV)/.docs: $(VENV)/.torch pyproject.toml
	$(PIP) -e ".[docs]"
	@touch $@

demo: $(VENV)/.demo
	$(PY) examples/plot_quickstart.py

test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow and not distributed" -n 2 \
		--dist loadfile

test-slow: $(VENV)/.test
	$(PIP) -e ".[test,quantization,docs]"
	$(PY) -m pytest -m "slow and not distributed"

# SKEMBFT_GPU_DEVICE=cpu, or gpu:0 (one that is not there), tries the tests themselves
gpu: $(VENV)/.test
	@test -n "$$SKEMBFT_GPU_DEVICE" || $(PY) -c \
		"import sys, torch; sys.exit(0 if torch.cuda.is_available() else 'make gpu: torch finds no CUDA GPU on this machine, nothing was tested')"
	$(PY) -m pytest -m gpu tests/gpu

.venv-latest/.done: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/$(PIP_IN) --upgrade torch
	$(@D)/$(PIP_IN) --upgrade --upgrade-strategy eager -e ".[test]"
	@touch $@

# the oldest versions that pyproject.toml allows of what it names
.venv-lowest/.done: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/$(PIP_IN) uv
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python \
		--resolution lowest-direct -e ".[test]"
	@touch $@

oldest: .venv-lowest/.done
	.venv-lowest/bin/uv pip list --python .venv-lowest/bin/python
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 --dist loadfile \
		-m "not slow and not distributed"

newest: .venv-latest/.done
	.venv-latest/bin/python -m pip list
	OMP_NUM_THREADS=1 .venv-latest/bin/python -m pytest -n 2 --dist loadfile \
		-m "not slow and not distributed"

# one that is missing is a failure here; test-slow skips it
interop: $(VENV)/.test $(PEERS)/.done .venv-oldest/.done .venv-newest/.done
	SKEMBFT_INTEROP=1 $(PY) -m pytest -m slow tests/saving/test_pretrained.py \
		tests/integrations/test_peers.py

.venv-distributed/.done: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/$(PIP_IN) -c constraints.txt torch
	$(@D)/$(PIP_IN) -c constraints.txt -e ".[test]"
	$(@D)/$(PIP_IN) -c constraints.txt -e ".[optuna,mlflow,tensorboard]"
	$(@D)/$(PIP_IN) -c constraints.txt dask distributed ray
	@touch $@

# one that is missing is an error here; test leaves them out
distributed: .venv-distributed/.done
	OMP_NUM_THREADS=1 .venv-distributed/bin/python -m pytest -m distributed \
		tests/distributed tests/test_docs.py

coverage: $(VENV)/.test
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow and not distributed" -n 2 \
		--dist loadfile --cov=skembft --cov-report=term:skip-covered

# what strangers get: built, checked, installed with what pip picks, and tested as such
wheel:
	rm -rf dist .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/$(PIP_IN) build twine
	.venv-wheel/bin/python -m build
	.venv-wheel/bin/python -m twine check --strict dist/*
	.venv-wheel/$(PIP_IN) torch
	.venv-wheel/$(PIP_IN) "$$(echo dist/*.whl)[test]"
	.venv-wheel/bin/python -m pip list
	mkdir .venv-wheel/suite
	cp -r tests docs examples pyproject.toml Makefile README.md CHANGELOG.md \
		CONTRIBUTING.md constraints.txt .venv-wheel/suite
	cd .venv-wheel/suite && OMP_NUM_THREADS=1 ../bin/python -m pytest tests -n 2 \
		--dist loadfile -m "not slow and not distributed" \
		--ignore tests/test_layout.py --ignore tests/test_private_names.py

lint: $(VENV)/.test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.test
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# -E reads every page anew: a second run would not repeat the warnings of a failed one
docs: $(VENV)/.docs
	$(PY) -m sphinx -E -W --keep-going -b html docs docs/_build/html

# what the benchmarks compare with cannot share an environment with us
$(PEERS)/.done: constraints.txt $(BENCH)/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) torch
	$(PEERS_PIP) -r $(BENCH)/peers.txt
	@touch $@

.venv-oldest/.done .venv-newest/.done: constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/$(PIP_IN) -c constraints.txt torch
	$(@D)/$(PIP_IN) $(if $(findstring oldest,$@),$(OLDEST),$(NEWEST))
	@touch $@

bench-adapters: $(VENV)/.test $(PEERS)/.done
	$(PY) $(BENCH)/bench_encode_once.py
	$(PY) $(BENCH)/bench_grid.py
	$(PY) $(BENCH)/bench_nudge.py
	$(PY) $(BENCH)/bench_memory.py
	$(PY) $(BENCH)/bench_llama_index.py

bench-defaults: $(VENV)/.test
	$(PY) $(BENCH)/situations.py
	$(PY) $(BENCH)/adapter_defaults.py
	$(PY) $(BENCH)/gammas.py
	$(PY) $(BENCH)/no_labels.py
	$(PY) $(BENCH)/stacking.py
	$(PY) $(BENCH)/ways.py

bench-finetune: $(VENV)/.test
	$(PY) $(BENCH)/bench_finetune.py
	$(PY) $(BENCH)/bench_disk.py
	$(PY) $(BENCH)/finetune_quality.py

bench-scoring: $(VENV)/.test
	$(PY) $(BENCH)/bench_scoring.py

bench-calibration: $(VENV)/.test
	$(PY) $(BENCH)/calibration.py

bench-scale: $(VENV)/.test
	$(PY) $(BENCH)/bench_scale.py --threads 1

# prints the table of docs/models.md; ends with an error if a kind that should work fails
models: $(VENV)/.test
	OMP_NUM_THREADS=1 $(PY) $(BENCH)/models.py

clean:
	rm -rf $(VENV) $(PEERS) .venv-oldest .venv-newest .venv-latest .venv-lowest \
		.venv-wheel .venv-distributed .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		build dist *.egg-info docs/_build docs/auto_examples
