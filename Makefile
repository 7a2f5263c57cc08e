# make demo | make test | make test-all | make docs: all set up .venv first, once. test-all adds the slow tests, gives all
# tests more examples, and checks types and shapes while they run in the inner loops too.
# PYTHON chooses the interpreter; where it has torch already, .venv uses that torch.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: setup test test-all lint demo docs clean

setup: $(READY)

# A torch that PYTHON has is seen through a .pth file; --system-site-packages would miss one in a virtual environment.
# torch comes first, so that nothing after it chooses another one; setup.cfg says why the last two come apart.
# pip knows it by the version of its package, which leaves out the +cu124 that PyPI's CUDA builds have in __version__.
$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PYTHON) -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' 2>/dev/null \
	  > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch_of_python.pth" || true
	$(PY) -c 'import torch' 2>/dev/null || $(PY) -m pip install '$(TORCH)'
	$(PY) -m pip install -e '.[dev]'
	$(PY) -m pip install torchvision "torch==$$($(PY) -c 'from importlib.metadata import version; print(version("torch"))')"
	$(PY) -m pip install --no-deps auto-LiRPA==0.3
	touch $@

# One process a core, up to four; an idle one takes tests from the others, so that none works alone at the end.
PYTEST := $(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
DEEP := -m '' --hypothesis-profile deep --jaxtyping-packages=verify,robust_nas,beartype.beartype

test: setup
	$(PYTEST)
	$(MAKE) lint

test-all: setup
	$(PYTEST) $(DEEP)
	$(MAKE) lint

lint: setup
	$(PY) -m ruff check .
	$(PY) -m mypy

demo: setup
	$(PY) experiments/demo.py

$(VENV)/.docs: $(READY)
	$(PY) -m pip install -e '.[docs]'
	touch $@

# A warning is an error: a link to nowhere, a name that the API has lost.
docs: $(VENV)/.docs
	$(PY) -m mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site *.egg-info
