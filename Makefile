# Everything a developer or a pipeline does here. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

export PYTHON TORCH_INDEX NVIDIA_INDEX DEVICE
export ORT_DISABLE_TELEMETRY := 1

# One build, spelled once: MODEL= is a built-in name or a recipe file.
MODEL_REQUIRED = $(if $(MODEL),,$(error Say which model: make $@ MODEL=minilm, or MODEL=path/to/recipe.yaml. `make models` lists the built-in ones))
CHOICE = $(if $(TARGET),--target "$(TARGET)") $(if $(PRECISION),--precision "$(PRECISION)")

.PHONY: help
help: ## List the targets
	@echo "make engine MODEL=minilm [TARGET=onnxruntime-cpu] [PRECISION=int8] [ARGS=--explain]"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{ printf "  %-16s %s\n", $$1, $$2 }'

.PHONY: setup
setup: $(READY) ## Create .venv with the pinned packages (PYTHON=, TORCH_INDEX=URL, DEVICE=cpu|gpu)

$(READY): pyproject.toml constraints.txt .ci/setup
	@.ci/setup $(VENV) $@

.PHONY: engine
engine: $(READY) ## Build a bundle (MODEL=, TARGET=, PRECISION=, ARGS=)
	$(MODEL_REQUIRED)@$(BIN)/enginery build "$(MODEL)" $(CHOICE) $(ARGS)

.PHONY: calibrate
calibrate: $(READY) ## Measure statistics only (MODEL=, ARGS=)
	$(MODEL_REQUIRED)@$(BIN)/enginery calibrate "$(MODEL)" $(ARGS)

.PHONY: validate
validate: $(READY) ## Compare a bundle with its golden outputs again (BUNDLE=, ARGS=)
	$(if $(BUNDLE),,$(error Say which bundle: make validate BUNDLE=build/minilm/onnxruntime-cpu-int8))@$(BIN)/enginery validate "$(BUNDLE)" $(ARGS)

.PHONY: reproduce
reproduce: $(READY) ## Build three times, cold and warm, and compare the bundles (MODEL=, TARGET=, PRECISION=, ARGS=)
	$(MODEL_REQUIRED)@$(BIN)/enginery reproduce "$(MODEL)" $(CHOICE) $(ARGS)

.PHONY: release
release: $(READY) ## Build, validate, sign and verify (MODEL=, KEY=key.pem, TARGET=, PRECISION=, ARGS=)
	$(MODEL_REQUIRED)$(if $(KEY),,$(error Say which key signs: make release MODEL=$(MODEL) KEY=key.pem; docs/release.md says how to make one))@public=$$(mktemp); trap 'rm -f "$$public"' EXIT; \
	$(BIN)/enginery build "$(MODEL)" $(CHOICE) --quiet $(ARGS) | while read -r bundle; do \
	  $(BIN)/enginery validate "$$bundle"; \
	  $(BIN)/enginery sign "$$bundle" --key "$(KEY)" --write-public-key "$$public" --quiet >/dev/null; \
	  $(BIN)/enginery verify "$$bundle" --public-key "$$public"; \
	done

.PHONY: models
models: $(READY) ## List the built-in recipes
	@$(BIN)/enginery models

.PHONY: test
test: $(READY) ## Run the tests that need no GPU and little time
	$(BIN)/pytest -n $(JOBS) $(ARGS)

.PHONY: test-all
test-all: $(READY) ## Run every test, the slow ones included
	$(BIN)/pytest -n $(JOBS) -m "slow or not slow" $(ARGS)

.PHONY: triton
triton: $(READY) ## Unpack a real Triton Inference Server into .triton, for the tests of test-all that serve models
	@.ci/triton $(VENV)

.PHONY: lint
lint: $(READY) ## Check style with ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: types
types: $(READY) links ## Check types with pyright (strict)
	$(BIN)/pyright

.PHONY: bench
bench: $(READY) ## Run the benchmarks, one after the other (ARGS="passes --quick --check")
	$(BIN)/python bench/run.py $(ARGS)

.PHONY: zoo
zoo: $(READY) ## Put many architectures through every pass (ARGS=--quick, ARGS="--only bert llama")
	$(BIN)/python bench/zoo.py $(ARGS)

.PHONY: zoo-tensorrt
zoo-tensorrt: $(READY) ## Build the zoo's plans on TensorRT-RTX, no GPU needed (ARGS=--quick)
	$(BIN)/python bench/zoo_tensorrt.py $(ARGS)

# Type checkers cannot read the hook of an editable install, so they get the package as a tree of links.
.PHONY: links
links: ## Link the folders as one package for editors and type checkers
	@mkdir -p .typing/enginery
	@find .typing/enginery -xtype l -delete
	@ln -sfn $(addprefix ../../,$(wildcard enginery/*.py) enginery/py.typed engines models passes pipeline) .typing/enginery/

.PHONY: clean
clean: ## Remove what was built; the environment stays (remove it with rm -r .venv)
	rm -rf build dist .typing .pytest_cache .ruff_cache .hypothesis bench/results *.egg-info
	find enginery engines models passes pipeline tests bench -name __pycache__ -prune -exec rm -rf {} +
