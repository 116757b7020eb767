# Everything happens in .venv, which the first target that needs it sets up.
PYTHON ?= python3
CONFIG ?= configs/phantom_ct.yaml
ARGS ?=
DATA ?=
MODEL ?= runs/phantom_ct/model
INPUT ?= data/phantom_ct/images
OUT ?= segmentations
MINUTES ?= 3
PEER ?=
CRF_PEER ?=
HIPPOCAMPUS ?= runs/msd_hippocampus/model
PYTHON_VERSION ?= 3.12

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup train segment test quick lint bench compare gpu-bundle clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## Set up .venv with the pinned packages (the other targets do it when needed)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Trivox needs Python 3.11 or newer; name one with PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

train: $(READY)  ## Train (CONFIG=..., DATA=folder of the data, ARGS="key=value ..."); goes on where it was stopped
	$(BIN)/trivox train $(CONFIG) $(if $(DATA),'data.root=$(DATA)') $(ARGS) --resume

segment: $(READY)  ## Segment studies (INPUT=..., MODEL=..., OUT=...)
	$(BIN)/trivox segment $(INPUT) --model $(MODEL) --out $(OUT) $(ARGS)

test: $(READY)  ## Lint, type check and run all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal -m 'not long'

quick: $(READY)  ## Run the tests that take seconds (all but those marked slow)
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow and not long'

lint: $(READY)  ## Mend formatting and what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)  ## Measure, into benchmarks/ (takes long; DATA=..., PEER=, CRF_PEER=python of environments with nnU-Net, pydensecrf2)
	$(BIN)/pytest -m long
	$(BIN)/python -m benchmarks.training_step $(if $(DATA),--data '$(DATA)')
	$(BIN)/python -m benchmarks.spine
	$(BIN)/python -m benchmarks.admission $(if $(DATA),--data '$(DATA)/..')
	$(BIN)/python -m benchmarks.archive
	$(BIN)/python -m benchmarks.faults
	$(BIN)/python -m benchmarks.postprocessing $(if $(CRF_PEER),--peer '$(CRF_PEER)')
	$(BIN)/python -m benchmarks.planning $(if $(DATA),--data '$(DATA)')
	$(if $(DATA),$(BIN)/python -m benchmarks.cohort --data '$(DATA)/imagesTr' --model '$(HIPPOCAMPUS)')
	$(if $(DATA),$(BIN)/python -m benchmarks.cluster --data '$(DATA)' --model '$(HIPPOCAMPUS)')
	$(if $(DATA),$(BIN)/python -m benchmarks.inference --data '$(DATA)' $(if $(PEER),--peer '$(PEER)' --hippocampus '$(HIPPOCAMPUS)'))

compare: $(READY)  ## Train every network for MINUTES=3 each, on the phantom and on hippocampus (DATA=...); goes on where it was stopped
	$(BIN)/python -m benchmarks.compare --minutes $(MINUTES) $(if $(DATA),--data '$(DATA)')

gpu-bundle: $(READY)  ## One folder to carry to a GPU without a network (OUT=build/gpu-bundle, DATA=hippocampus, PYTHON_VERSION=3.12)
	$(BIN)/python -m benchmarks.gpu.bundle --python-version $(PYTHON_VERSION) $(if $(DATA),--data '$(DATA)') \
		$(if $(filter file,$(origin OUT)),,--out '$(OUT)')

clean:  ## Remove caches and the environment; runs/ and data/ stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
