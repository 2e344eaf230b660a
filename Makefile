# `make repro`, `make test` and `make ui` need Python 3.11 to 3.13, git and a package registry.
PYTHON ?= python3
BIN := .venv/bin
RUNS := \#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=runs
export PATH := $(CURDIR)/$(BIN):$(PATH)
# A container's user may have no name and no home. DVC asks for both.
export USER ?= $(or $(shell id -un 2> /dev/null),user)
export HOME ?= /tmp
unexport PYTHONSAFEPATH # `python -m stages.download` is in this folder

.PHONY: repro test checkout check ui bench lock audit clean

repro: checkout .venv/installed ## run the pipeline, on the built-in sample unless params.yaml says otherwise
	dvc repro

test: checkout .venv/installed check ## run the checks, then all tests
	pytest -m 'not slow' --numprocesses 2 --dist loadfile --no-loadscope-reorder # long files first

checkout: # DVC's experiments are git commits
	@test -e .git || { echo "error: there is no .git here, and DVC needs one; clone the project, or run" \
		"'git init && git add . && git commit -m start'" >&2; exit 1; }
	@git rev-parse --git-dir > /dev/null # else git says why, such as that another user owns the folder
	@git var GIT_COMMITTER_IDENT > /dev/null 2>&1 || echo "note: git does not know your name and email, which" \
		"'dvc exp run' and 'git commit' need: git config user.name NAME && git config user.email EMAIL"

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

# An environment has its own path inside: that of a project that was moved or copied is made anew.
ifneq ($(shell cat .venv/installed 2> /dev/null),$(CURDIR))
.PHONY: .venv/installed
endif
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps -e .
	pwd -P > $@

lock: ## lock the dependencies for every platform; needs uv
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--group dev --custom-compile-command "make lock" pyproject.toml -o requirements.lock

audit: ## check the locked packages for known vulnerabilities; needs pip-audit
	pip-audit --require-hashes --disable-pip -r requirements.lock

clean: ## remove what the pipeline made and the environment, but keep the runs in mlflow.db
	python -m convnets clean
	rm -rf .venv .features dvc_plots
