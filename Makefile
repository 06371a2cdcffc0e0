# Nothing is assumed but make and Python 3.11 with venv: each target first makes .venv from requirements.lock, once.
#
#   make test ARGS="tests/unit -k layers"     ARGS goes to the tool behind the target
#   make demo PYTHON=python3.12               another interpreter for a new .venv

.ONESHELL:
.SHELLFLAGS := -euc
MAKEFLAGS += --no-print-directory --no-builtin-rules

PYTHON ?=
WORKERS ?= 2
ARGS ?=
PAUSE ?= 5

BIN := .venv/bin
READY := .venv/.ready
BENCH_READY := .venv/.ready-bench
COMPILED := build/compiled/.ready
UV := build/uv/bin/uv
UV_VERSION := 0.13.9
SOURCES := fabric services tests benchmarks
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate

.PHONY: help demo up test test-brokers test-compiled chaos bench compiled lint format lock clean

help:
	@echo 'make demo          bring the reference fleet up, call it, break it, stop it'
	echo 'make up            the same fleet, left running until Ctrl-C'
	echo 'make test          every test but the long fault runs'
	echo 'make test-brokers  the broker tests on RabbitMQ 3.10, 4.0 and 4.3 (needs Docker)'
	echo 'make test-compiled the unit and contract tests on the compiled package'
	echo 'make chaos         the long fault runs'
	echo 'make bench         the published measurements; ARGS=--quick only shows that they work'
	echo 'make compiled      the way of a call as machine code, in build/compiled; needs a C compiler'
	echo 'make lint          ruff, mypy, codespell; make format mends what ruff can mend'
	echo 'make lock          renew the lock files; ARGS=--upgrade takes newer versions'
	echo 'make clean         remove .venv and everything generated'

demo: $(READY)
	@exec $(BIN)/python -m services.todo.demo $(ARGS)

up: $(READY)
	@exec $(BIN)/fabric up services/todo/fleet.yaml $(ARGS)

test: $(READY)
	@exec $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m 'not chaos' $(ARGS)

test-brokers: $(READY)
	@for version in 3.10 4.0 4.3; do
	  echo "RabbitMQ $$version"
	  FABRIC_TEST_RABBITMQ=$$version CI=true $(BIN)/python -m pytest -q -m 'broker and not chaos' $(ARGS)
	done

# What the tests import comes from build/compiled, here and in the processes that they start. Those of the fork server make
# programs in the current directory, where Python must not look then.
test-compiled: $(COMPILED)
	@PYTHONSAFEPATH=1 PYTHONPATH="$$PWD/build/compiled" exec $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile \
	  --import-mode=append -m 'not chaos and not broker' --ignore tests/unit/cli/test_fork_server.py tests/unit tests/contract $(ARGS)

chaos: $(READY)
	@exec $(BIN)/python -m pytest -q -m chaos $(ARGS)

# The compiled package takes part where it can be built.
bench: $(BENCH_READY)
	@case '$(firstword $(ARGS))' in ''|--*|rpc|latency|fan-out)
	  $(find_compiler)
	  [ -n "$$missing" ] || $(MAKE) compiled || missing='it failed.'
	  [ -z "$$missing" ] || echo "Going on without the compiled package: $$missing" >&2
	esac
	exec $(BIN)/python -m benchmarks $(ARGS)

compiled: $(COMPILED)

lint: $(READY)
	@failed=
	$(BIN)/ruff check --quiet $(SOURCES) || failed=1
	$(BIN)/ruff format --quiet --check $(SOURCES) || { echo 'The layout differs; make format mends it.' >&2; failed=1; }
	$(BIN)/mypy --no-error-summary $(SOURCES) || failed=1
	$(BIN)/codespell $(SOURCES) docs README.md Makefile || failed=1
	[ -z "$$failed" ] && echo 'lint: clean'

format: $(READY)
	@$(BIN)/ruff check --quiet --fix $(SOURCES) || true
	$(BIN)/ruff format --quiet $(SOURCES)

# requirements-run.lock is the part of requirements.lock that a running fleet needs: the image is made from it.
# requirements-bench.lock adds to that part whom Fabric is measured against.
lock: $(UV)
	@$(COMPILE) --all-extras --group dev $(ARGS) pyproject.toml -o requirements.lock
	$(COMPILE) --all-extras --group build --constraint requirements.lock $(ARGS) pyproject.toml -o requirements-run.lock
	$(COMPILE) --all-extras --group bench --constraint requirements.lock $(ARGS) pyproject.toml -o requirements-bench.lock

clean:
	@rm -rf .venv build dist .fabric .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# -- what the targets stand on ------------------------------------------------------------------------------------

# Leaves the interpreter to use in $$python, with a venv module that works, or says what to do.
define find_python
fail() { echo "$$*" >&2; exit 1; }
again() { "$$@" || { echo 'That failed; trying once more in $(PAUSE) s.' >&2; sleep $(PAUSE); "$$@"; }; }
recent() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
python=
for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do
  if recent "$$candidate"; then python=$$candidate; break; fi
done
[ -n "$$python" ] || fail "Fabric needs Python 3.11 or newer; $(or $(PYTHON),python3) is \
$$($(or $(PYTHON),python3) -V 2>/dev/null || echo not installed). \
Install one (Debian 12: apt-get install python3 python3-venv), or name it: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.11"
if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
  package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "$$python cannot make virtual environments. \
On Debian and Ubuntu: sudo apt-get install $$package"
  echo "Installing $$package"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$$package"; } >/dev/null 2>&1 </dev/null || fail \
    "$$python cannot make virtual environments, and installing $$package failed. Run: apt-get install $$package"
fi
endef

$(READY): requirements.lock pyproject.toml
	@$(find_python)
	recent $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || "$$python" -m venv --clear .venv
	echo "Installing the locked packages into .venv"
	again $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
	touch $@

# The peers that Fabric is measured against, in the same versions of everything else.
$(BENCH_READY): $(READY) requirements-bench.lock
	@again() { "$$@" || { echo 'That failed; trying once more in $(PAUSE) s.' >&2; sleep $(PAUSE); "$$@"; }; }
	echo "Installing the peers of the measurements into .venv"
	again $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --require-hashes -r requirements-bench.lock
	touch $@

# Leaves in $$missing what compiling lacks and what to do about it, or nothing.
define find_compiler
compiler=$$($(BIN)/python -c 'import os, sysconfig; print((os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0])')
header=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
missing=
if ! command -v "$$compiler" >/dev/null; then
  missing="$$compiler is not installed. A C compiler is needed (Debian: apt-get install gcc python3-dev); another is named so: CC=clang make compiled"
elif [ ! -e "$$header" ]; then
  missing="$$header is not there. The headers of Python are needed (Debian: apt-get install python3-dev)"
fi
endef

# The hook builds in place and hides pyproject.toml meanwhile, so it gets a copy. The wheel stays in build/wheel.
$(COMPILED): $(READY) pyproject.toml $(shell find fabric -name '*.py')
	@$(find_compiler)
	[ -z "$$missing" ] || { echo "make compiled: $$missing" >&2; exit 1; }
	echo "Compiling; this takes about two minutes"
	rm -rf build/compiling build/wheel build/compiled
	mkdir -p build/compiling build/wheel
	cp -R fabric pyproject.toml README.md LICENSE build/compiling/
	(cd build/compiling && HATCH_BUILD_HOOK_ENABLE_MYPYC=true ../../$(BIN)/python -m hatchling build -t wheel -d ../wheel)
	$(BIN)/python -m zipfile -e build/wheel/*.whl build/compiled
	rm -rf build/compiling
	PYTHONSAFEPATH=1 PYTHONPATH=build/compiled $(BIN)/python -c 'import fabric.hub, sys; sys.exit(".py" == fabric.caller.__file__[-3:])'
	touch $@

$(UV):
	@$(find_python)
	"$$python" -m venv --clear build/uv
	again build/uv/bin/python -m pip install -qq --disable-pip-version-check --no-input uv==$(UV_VERSION)
