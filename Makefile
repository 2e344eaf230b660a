# `make repro`, `make test` and `make ui` need Python 3.11 to 3.13, git and a package registry.
PYTHON ?= python3
BIN := .venv/bin
RUNS := \#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=runs
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test check ui bench lock audit clean

repro: .venv/installed ## run the pipeline, on the built-in sample unless params.yaml says otherwise
	dvc repro

test: .venv/installed check ## run the checks, then all tests
	pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder # long files first

check: .venv/installed
	ruff check
	ruff format --check
	mypy

ui: .venv/installed ## start the MLflow UI, on this machine only
	@echo 'The runs: http://127.0.0.1:5000/$(RUNS)'
	mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port 5000 --workers 1

bench: .venv/installed ## compare the book's way with ours; ARCHIVE=, WEIGHTS=, DIGITS= for real data, SHARE=0.1 for a trial
	TF_CPP_MIN_LOG_LEVEL=3 python -m benchmarks.compare $(if $(ARCHIVE),--archive "$(ARCHIVE)") $(if $(WEIGHTS),--weights "$(WEIGHTS)") \
		$(if $(DIGITS),--digits "$(DIGITS)") $(if $(SHARE),--share $(SHARE)) $(if $(ROUNDS),--rounds $(ROUNDS))

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps -e .
	touch $@

lock: ## lock the dependencies for every platform; needs uv
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--group dev --custom-compile-command "make lock" pyproject.toml -o requirements.lock

audit: ## check the locked packages for known vulnerabilities; needs pip-audit
	pip-audit --require-hashes --disable-pip -r requirements.lock

clean: ## remove everything that can be made again, but keep the runs in mlflow.db
	rm -rf .venv data models dvc_plots
