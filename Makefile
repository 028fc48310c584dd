# Thin verbs over the scripts in launch/. `make run` and `make test` set everything up by themselves.
.DELETE_ON_ERROR:
.PHONY: help setup run test slow quick check docs clean

VENV_PYTHON := .venv/bin/python
# Two workers: the ranks that a test starts are single-threaded processes of their own. More cores take more: make test WORKERS=8
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -q
# What tells most in a minute: the whole package but its commands and what `make check` has, models, what kernels are
# held against and refuse, and one curve.
QUICK := $(filter-out tests/test_cli.py tests/test_architecture.py,$(wildcard tests/test_*.py)) tests/common tests/models \
	$(wildcard tests/kernels/*/test_reference.py tests/kernels/*/test_checks.py) \
	"tests/golden/test_curves.py::test_the_curve_of_a_recipe_is_the_one_that_is_kept[1-ranks-quickstart]"

help:
	@echo "make setup      create .venv with pinned, mutually fitting packages (CPU or CUDA, by what the machine has)"
	@echo "make run        train LONGER on synthetic data with two ranks, or one per GPU"
	@echo "make quick      tests of the whole package, the models, the kernels' references, and one curve: about a minute"
	@echo "make test       all tests but the slow ones"
	@echo "make slow       the slow tests: all variants of the kernels compiled for sm_80, sm_90 and sm_100, properties on new examples"
	@echo "make check      ruff, format, pyright, the rules of the architecture"
	@echo "make docs       the documents as a site in build/site; broken links and unknown names fail"

setup:
	@launch/install.sh

data/quickstart/schema.yaml: | setup
	@.venv/bin/dist-rec data synth data/quickstart

run: setup data/quickstart/schema.yaml
	@launch/local.sh launch/recipes/quickstart.yaml

test: setup
	@$(PYTEST) -m "not slow"

slow: setup
	@$(PYTEST) -m slow
	@$(PYTEST) -m hypothesis --hypothesis-profile=default

quick: setup
	@$(PYTEST) $(QUICK)

check: setup
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV_PYTHON) -m pyright
	@$(VENV_PYTHON) -m pytest -q tests/test_architecture.py

docs: setup
	@$(VENV_PYTHON) -m pip install -q --disable-pip-version-check -r launch/requirements/docs.txt
	@NO_MKDOCS_2_WARNING=1 $(VENV_PYTHON) -m mkdocs build --strict --quiet

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
