# make demo | test | run | check | bench | docs | clean.  As root on Debian 12 each of them installs what it lacks.
PYTHON ?= python3
V := .venv/bin
OVS_PACKAGES := openvswitch-switch iproute2 iputils-ping procps curl
TEST_PACKAGES := $(OVS_PACKAGES) mininet postgresql faketime iperf3

.PHONY: help install demo run test check format ovs lab walk fuzz faults docs clean
help:           ## what can be made
	@sed -n 's/^\([a-z -]*\):.*## /  make \1\t/p' Makefile | expand -t 20

install: .venv/installed    ## the virtual environment, nothing else
.venv/installed: requirements.txt setup.cfg build-constraints.txt cloud_firewall_ryu.pth scripts/install-venv
	@scripts/install-venv $(PYTHON)
	@touch $@

NPM_INSTALLED := tests/clients/node/node_modules/.package-lock.json
.PHONY: clients
clients: install $(NPM_INSTALLED)
$(NPM_INSTALLED): tests/clients/node/package-lock.json scripts/install-clients
	@scripts/install-clients
	@touch $@

demo: rooted install   ## two hypervisors, five droplets, real packets: a story in the terminal (KEEP=1 leaves it running)
	@scripts/install-system $(OVS_PACKAGES)
	@$(V)/python -m lab.demo $(if $(KEEP),--keep)

run: install    ## the controller alone: OpenFlow on 6653, REST on 127.0.0.1:8080, a SQLite file in run/
	@scripts/run

test: rooted install clients   ## every test, those with a real Open vSwitch and PostgreSQL included
	@scripts/install-system $(TEST_PACKAGES)
	@$(V)/python -m pytest -n 2

check: install  ## the quick gate: format, lint, types, import contracts, unit tests (no root, no Open vSwitch)
	@scripts/check

format: install ## put the code into shape
	@$(V)/ruff check -q --fix . ; $(V)/ruff format -q .

ovs lab: rooted install clients    ## the tests with a real ovs-vswitchd; with namespaces and packets
	@scripts/install-system $(TEST_PACKAGES)
	@$(V)/python -m pytest -m $@

.PHONY: rooted
rooted:
	@[ "$$(id -u)" = 0 ] || { echo "This needs root (network namespaces, Open vSwitch): sudo make ..." >&2; exit 1; }

walk: rooted install   ## random policies in a lab, each probed with real packets (STEPS=100 SEED=7)
	@scripts/install-system $(OVS_PACKAGES)
	@$(V)/python -m lab.walk $(if $(STEPS),--steps $(STEPS)) $(if $(SEED),--seed $(SEED))

fuzz: rooted install   ## random frames into the ports of a real ovs-vswitchd (FRAMES=100000 SEED=7, or SEED=random)
	@scripts/install-system $(OVS_PACKAGES)
	@$(if $(FRAMES),FUZZ_FRAMES=$(FRAMES)) $(if $(SEED),FUZZ_SEED=$(SEED)) $(V)/python -m pytest -s tests/test_fuzz_ovs.py

faults: rooted install   ## what is lost, and what passes, while things break: a table, and docs/faults.md (RUNS=3)
	@scripts/install-system $(TEST_PACKAGES)
	@$(V)/python -m lab.figures --page docs/faults.md $(if $(RUNS),--runs $(RUNS))

BENCH_PACKAGES := $(OVS_PACKAGES) postgresql ovn-central ovn-host iperf3 wrk
.PHONY: bench
bench: rooted install  ## speed and scale beside peers and limits: docs/benchmarks.md (ROWS="full-load add-rule" RUNS=9)
	@scripts/install-system $(BENCH_PACKAGES)
	@$(V)/python -m bench $(ROWS) $(if $(RUNS),--runs $(RUNS)) --json docs/benchmarks/results.json --page docs/benchmarks.md

.PHONY: fuzz-decoder
fuzz-decoder: install  ## what a switch may send, at random, guided by coverage (SECONDS=600)
	@$(V)/python -c "import atheris" 2>/dev/null || $(V)/pip install -q --disable-pip-version-check atheris==3.0.0
	@mkdir -p run/fuzz-decoder && cd run/fuzz-decoder && mkdir -p corpus && \
	  ../../$(V)/python ../../tests/fuzz/decode.py -max_total_time=$(or $(SECONDS),600) -max_len=4096 corpus

docs: install   ## write the pages that are generated from the code
	@$(V)/python -m firewall_app.pipeline > docs/pipeline.md
	@$(V)/python -m firewall_app.pipeline counts > docs/flows.md
	@$(V)/python -m firewall_app.settings > docs/options.md
	@$(V)/python tests/behaviours.py > docs/behaviours.md
	@PYTHONPATH=. $(V)/python tests/clients_page.py > docs/clients.md

clean:          ## remove what make made
	@rm -rf .venv .wheels tests/clients/ansible tests/clients/node/node_modules run build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +
