# Everything stays inside this folder: the virtual environment is .venv. PYTHON, TORCH, CXX, FORCE_CUDA and
# TORCH_CUDA_ARCH_LIST may be set: make test PYTHON=python3.12 FORCE_CUDA=0
PYTHON ?= python3
# The one place where torch is pinned. pydet itself runs under every torch >= 2.10.
TORCH ?= torch==2.13.0
# torchvision has no build for a torch without CUDA on every registry: the benchmarks have an environment of their own.
PEERS ?= torch==2.14.1 torchvision==0.29.2 opencv-python-headless==4.14.0.94 powerboxes==0.3.1 lsnms==0.5.0 \
  onnxruntime==1.32.0 openvino==2026.4.1 onnx==1.23.2 onnxscript==0.7.2

SECONDS ?= 60

# Programs that others wrote, which `make programs` runs on pydet's operators beside torchvision.
PROGRAMS ?= ultralytics==8.4.190 effdet==0.4.1 supervision==0.31.2

BIN := .venv/bin
RESULTS := benchmarks/results/cpu-$(shell uname -m).json
SOURCES := setup.py pyproject.toml $(wildcard csrc csrc/* csrc/*/*)
CXX_FILES = $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help demo test oracle programs fuzz leaks bench bench-short sanitize gpu lint format docs wheel clean

help:
	@echo "make demo    find the objects in pydet/assets/dog.jpg and draw them"
	@echo "make test    run the tests"
	@echo "make oracle  compare with torchvision on thousands of random inputs"
	@echo "make fuzz    read damaged files of every format, a minute each: make fuzz SECONDS=600 takes longer"
	@echo "make leaks   call every operator 100,000 times: does it keep memory?"
	@echo "make programs       run Ultralytics, effdet, supervision and torchvision on pydet's operators, and time them"
	@echo "make bench   race operators and detectors against other libraries, and write the README's table and plot"
	@echo "make bench-short    has anything become slower than the committed results?"
	@echo "make sanitize    run the tests under AddressSanitizer, UBSan and ThreadSanitizer: half an hour"
	@echo "make gpu     on a machine with a GPU: build for it with its own python3, test, race; needs no network"
	@echo "make lint    check style and types;  make format  put the style right"
	@echo "make docs    build the documentation into build/site"
	@echo "make wheel   build the wheel and the source archive into dist/"
	@echo "make clean   remove all that these commands made"

demo: .venv/pydet
	@$(BIN)/pydet detect pydet/assets/dog.jpg --out detections
	@echo "The picture with the boxes is $(CURDIR)/detections/dog.jpg"

# Files of tests run side by side, at most four, since each may take some GB. Idle threads of one would otherwise spin on
# a processor that another needs.
test: .venv/test
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

oracle: .venv-bench/ready
	.venv-bench/bin/python -m pytest tests/test_torchvision.py tests/test_torchvision_patch.py

fuzz: .venv/test
	PYTHONPATH=tests $(BIN)/python tests/fuzz.py --seconds $(SECONDS)

leaks: .venv/test
	PYTHONPATH=tests $(BIN)/python tests/leaks.py

# Ultralytics writes its settings into YOLO_CONFIG_DIR as soon as it is imported.
programs: export YOLO_CONFIG_DIR = $(CURDIR)/build/ultralytics
programs: .venv-programs/ready
	@mkdir -p $(YOLO_CONFIG_DIR)
	.venv-programs/bin/python -m pytest tests/test_torchvision_programs.py -q
	.venv-programs/bin/python -m pytest benchmarks/test_dropin.py -q --benchmark-quiet --results build/programs.json
	@PYTHONPATH=tests:$$PYTHONPATH .venv-programs/bin/python benchmarks/programs.py build/programs.json

bench: .venv-bench/ready .venv/test
	.venv-bench/bin/python -m pytest benchmarks -q --benchmark-quiet --results $(RESULTS)
	$(BIN)/python -m pytest benchmarks -q --benchmark-quiet --short --results $(RESULTS)
	.venv-bench/bin/python benchmarks/report.py

sanitize: .venv/test
	$(BIN)/python .ci/sanitize.py address
	$(BIN)/python .ci/sanitize.py thread tests/test_ops.py tests/test_nms.py

gpu:
	$(PYTHON) .ci/gpu.py

# One thread and no peers: has an operator become slower than the committed results say?
bench-short: .venv/test
	$(BIN)/python -m pytest benchmarks -q --benchmark-quiet --short --compare

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: .venv/lint
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "The documentation is $(CURDIR)/build/site/index.html"

wheel: .venv/pydet
	rm -rf build/lib* build/bdist*
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python setup.py --quiet sdist

clean:
	rm -rf .venv .venv-bench .venv-programs build dist detections *.egg-info pydet/*.so pydet/_build.txt .benchmarks .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each is made anew when what it names on the right is newer.
.venv/torch:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
	  { echo "make: Python 3.10 or newer is needed, and $(PYTHON) is not; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "make: $(PYTHON) cannot create .venv; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Installing $(TORCH) into .venv: once, and a large download unless pip has it already"
	$(BIN)/python -m pip install --quiet $(TORCH) "setuptools>=77" ninja
	@touch $@

.venv/pydet: .venv/torch $(SOURCES)
	@command -v $${CXX:-c++} > /dev/null || \
	  { echo "make: there is no C++ compiler; on Debian and Ubuntu: apt-get install g++"; exit 1; }
	@echo "Building pydet: a minute, or more where there is nvcc"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable .
	@sed 's/^/  /' pydet/_build.txt
	@touch $@

.venv/test .venv/lint .venv/docs: .venv/%: pyproject.toml | .venv/pydet
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[$*]"
	@touch $@

.venv-bench/ready: pyproject.toml | .venv/pydet
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet $(PEERS) "setuptools>=77" ninja
	.venv-bench/bin/python -m pip install --quiet --no-build-isolation --editable ".[bench]"
	@touch $@

.venv-programs/ready: pyproject.toml | .venv/pydet
	$(PYTHON) -m venv .venv-programs
	.venv-programs/bin/python -m pip install --quiet $(filter torch%,$(PEERS)) $(PROGRAMS) "setuptools>=77" ninja
	.venv-programs/bin/python -m pip install --quiet --no-build-isolation --editable ".[bench]"
	@touch $@
