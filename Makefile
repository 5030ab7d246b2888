# A newcomer needs two: `make run` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SAMPLE ?= sample_records/fhir_bundle.json
CORPORA ?= ../shared/corpora
EHR ?= ../shared/ehr
FAST := not corpora and not slow and not airflow and not workers and not faults and not browser and not tools and not stores

AIRFLOW = PATH="$(CURDIR)/$(BIN):$$PATH" AIRFLOW_HOME="$(CURDIR)/.airflow" AIRFLOW__CORE__DAGS_FOLDER="$(CURDIR)/dags" \
	AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS=True AIRFLOW__API__HOST=127.0.0.1 \
	MEDPIPE_WAREHOUSE="$(CURDIR)/medpipe-out" MEDPIPE_LANDING="$(CURDIR)/landing/{date}" MEDPIPE_REGISTRY="$(CURDIR)/models" airflow

.PHONY: run test lint fuzz test-corpora test-faults test-browser test-tools test-stores test-airflow test-workers airflow \
	airflow-celery bench bench-reuse bench-scale \
	datacontract clean help

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

run: $(VENV)/.runtime  ## set up and run the whole line on a sample
	$(BIN)/medpipe run $(SAMPLE)

test: $(VENV)/.dev  ## set up and pass the tests (no GPU, no network beyond the package index)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "$(FAST)"

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check medpipe dags deploy tests
	$(BIN)/mypy

test-corpora: $(VENV)/.dev  ## tests that need the corpora and EHR files (CORPORA=… EHR=…)
	MEDPIPE_CORPORA=$(CORPORA) MEDPIPE_EHR=$(EHR) $(BIN)/python -m pytest -m corpora

fuzz: $(VENV)/.dev  ## 20,000 mutated inputs for every reader (minutes)
	$(BIN)/python -m tests.ingest.fuzzing

test-faults: $(VENV)/.dev  ## kill the line at random instants and run it again (minutes)
	$(BIN)/python -m pytest -m faults

test-browser: $(VENV)/.dev  ## the pages in a real browser (Debian: chromium, chromium-driver)
	$(BIN)/python -m pytest -m browser

test-workers: $(VENV)/.workers  ## Airflow on PostgreSQL, Redis and Celery, a worker is killed (a quarter of an hour)
	$(BIN)/python -m pytest -m workers

airflow-celery: $(VENV)/.workers  ## Airflow with two Celery workers on this machine, http://localhost:8080
	mkdir -p landing
	MEDPIPE_WAREHOUSE="$(CURDIR)/medpipe-out" MEDPIPE_LANDING="$(CURDIR)/landing/{date}" $(BIN)/python deploy/airflow_celery.py

test-stores: $(VENV)/.dev  ## warehouses in Google Cloud Storage and Azure, on servers on loopback (Node.js)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[stores]'
	npm install --silent --no-audit --no-fund --prefix $(VENV)/azurite azurite@3.37.0
	$(BIN)/python -m pytest -m stores

test-airflow: $(VENV)/.dev  ## a real Airflow on loopback (minutes)
	$(BIN)/python -m pytest -m airflow

test-tools: $(VENV)/.dev  ## tests with spaCy and Spark, which it installs (Java 17; minutes)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[tools]'
	$(BIN)/python -m pytest -m tools

airflow: $(VENV)/.dev  ## Airflow for a person: SQLite, LocalExecutor, http://localhost:8080
	mkdir -p .airflow landing
	$(AIRFLOW) db migrate
	$(AIRFLOW) pools set gpu 1 "one slot a GPU"
	@echo "Put sources into landing/YYYY-MM-DD, open http://localhost:8080, unpause and trigger medpipe_nightly (parameter partition)."
	@echo "The tables come to medpipe-out. Ctrl-C stops it."
	$(AIRFLOW) standalone

datacontract: $(VENV)/.runtime  ## lint the contracts, test a warehouse with datacontract-cli in its own environment
	test -x .venv-datacontract/bin/datacontract || ($(PYTHON) -m venv .venv-datacontract && \
		.venv-datacontract/bin/pip install --quiet 'datacontract-cli[duckdb]==1.2.8')
	$(BIN)/medpipe run sample_records --quiet
	for contract in schemas/*/*.yaml; do .venv-datacontract/bin/datacontract lint $$contract || exit 1; done
	for table in schemas/*/; do \
		.venv-datacontract/bin/datacontract test $$(ls $$table*.yaml | sort -V | tail -n 1) || exit 1; done

bench: $(VENV)/.runtime  ## speed, padding, memory
	$(BIN)/medpipe bench

bench-reuse: $(VENV)/.runtime  ## nights of 10,000 notes that were done before, all or nine in ten (minutes)
	$(BIN)/medpipe bench reuse --notes 10000 --device cpu

bench-scale: $(VENV)/.runtime  ## plan and publish of 10 million generated rows: time and memory (minutes, 5 GB in TMPDIR)
	$(BIN)/medpipe bench scale

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[codes]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,airflow]'
	touch $@ $(VENV)/.runtime

$(VENV)/.workers: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[celery,kubernetes]'
	touch $@

clean:  ## remove what make made (not the tables)
	rm -rf $(VENV) .venv-datacontract .pytest_cache .ruff_cache .mypy_cache .airflow .airflow-celery
