# 'make demo' and 'make test' do all of their own set-up. See README.md.

# Images of Python forbid bytecode. Every process of a lab would compile the whole package, which takes half its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-all test-vm sim lint format venv lock packages clean

help:
	@echo 'make demo    a cluster on this machine: real clients, real failures, a table of the gaps'
	@echo 'make test    style, types and all tests, those in network namespaces included'
	@echo 'make test-all  the same with the long ones: NFS, FTP, SMB, etcd clusters, abuse'
	@echo 'make test-vm  only the tests in virtual machines (Debian in QEMU); test-all includes them'
	@echo 'make sim     the cluster under a seeded simulator: SEEDS=10000, or MINUTES=10; FIRST=0 JOBS=2'
	@echo 'make lint    style and types only'
	@echo 'make format  put the code into the one style'
	@echo 'make venv    the virtual environment .venv'
	@echo 'make lock    pin the newest versions of the Python packages in requirements-dev.lock'
	@echo 'make clean   remove what was made here'

demo: packages venv
	@.venv/bin/locum lab demo

test: packages venv
	@tools/test.sh

# CI runs this fixed set of seeds; more: make sim SEEDS=10000, or make sim MINUTES=30.
SEEDS = 200
FIRST = 0
JOBS = 2
sim: venv
	@.venv/bin/python -m locum_sim --first $(FIRST) --jobs $(JOBS) $(if $(MINUTES),--minutes $(MINUTES),--seeds $(SEEDS))

test-all: packages venv
	@ALL=1 tools/test.sh

# Two labs at a time: the tests of one wait more than they work. Three are too much for two processors.
TWO_LABS = -v -n 2 --dist loadscope --no-loadscope-reorder
# Needs root. The first run builds the image of the virtual machines.
test-vm: packages venv
	@tools/packages.sh tools/debian-packages-vm.txt
	@LOCUM_TEST_VM=1 .venv/bin/python -m pytest $(TWO_LABS) tests/vm --durations=0 --durations-min=20

lint: venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy --scripts-are-modules src/locum/scripts/*

format: venv
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

venv: packages
	@tools/venv.sh

lock:
	@tools/lock.sh

packages:
	@tools/packages.sh

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist lab-results src/*.egg-info lab/src/*.egg-info lab/build
	find src lab tests tools -name __pycache__ -prune -exec rm -rf {} +
