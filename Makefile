# make demo: environment, workflow with the default configuration, main table in the terminal.
# make test: environment, formatting, lint, types, workflow lint, all tests.
# make test-fast: the tests that take no minutes: no workflow, no browser, no killed runs.
# make test-newest: types and fast tests with the newest Python that is here, and the newest dependencies.
# make paper-tables: tables and figures of the published studies, from their files, in seconds.
# make paper-report: the same as HTML reports, results/published-STUDY.html.
# make test-slurm: the workflow through a real SLURM of one node, on this machine (Debian, as root).
.PHONY: demo test test-fast test-newest paper-tables paper-report test-slurm environment documents lock clean
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
NEWEST := .venv-newest
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STUDIES := $(notdir $(patsubst %/,%,$(dir $(wildcard results/published/*/study.yaml))))
# Jobs of the workflow find `fedred` here; recipes name their program themselves (make 3.81 would not look).
export PATH := $(CURDIR)/$(BIN):$(PATH)

demo: $(READY)
	$(BIN)/snakemake --cores all --quiet rules
	tools/report.sh
	$(BIN)/fedred summary config/config.yaml

test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check workflow
	tools/lint_workflow.sh
	$(BIN)/pytest -n auto

test-fast: $(READY)
	$(BIN)/pytest -n auto -m "not slow"

# What a new release breaks is to be noticed here first, so nothing is kept from one call to the next.
test-newest: export PATH := $(CURDIR)/$(NEWEST)/bin:$(PATH)
test-newest:
	python=$(or $(PYTHON_NEWEST),$$($(PYTHON) tools/newest_python.py)) && $$python -m venv --clear $(NEWEST)
	$(NEWEST)/bin/pip install --quiet --editable '.[dev]' || \
	    { echo "the newest dependencies could not be installed: see above"; exit 1; }
	$(NEWEST)/bin/python --version
	$(NEWEST)/bin/mypy
	$(NEWEST)/bin/pytest -n auto -m "not slow"

paper-tables: $(READY)
	for study in $(STUDIES); do \
	    $(BIN)/snakemake --cores all --quiet rules --configfile results/published/$$study/study.yaml || exit; \
	done

paper-report: paper-tables
	for study in $(STUDIES); do \
	    $(BIN)/snakemake --cores 1 --quiet all --configfile results/published/$$study/study.yaml \
	        --report results/published-$$study.html || exit; \
	done

# The first line installs SLURM, or says why not; then the tests are skipped for the same reason.
test-slurm: $(READY)
	$(BIN)/python tests/slurm/one_node_slurm.py install
	FEDRED_TEST_SLURM=1 $(BIN)/pytest -rs -p no:cacheprovider tests/slurm

environment: $(READY)

# Runs again only when the lock or the package's own metadata changes.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) tools/check_python.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

# What is made from the code: a test keeps these equal to it.
documents: $(READY)
	$(BIN)/fedred schema > config/schema.json
	$(BIN)/fedred schema --readme > config/README.md
	$(BIN)/fedred list --page > docs/methods.md
	$(BIN)/python -m tools.published_tables
	$(BIN)/python -m tools.published_figures

# Pin all dependencies anew, for every platform and Python that pyproject.toml allows.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet uv
	.venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra slurm \
	    --no-emit-index-url --no-header --no-annotate --output-file requirements.lock pyproject.toml
	rm -r .venv-lock

# Results stay: remove results/ by hand.
clean:
	rm -rf $(VENV) $(NEWEST) .venv-lock .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis logs
