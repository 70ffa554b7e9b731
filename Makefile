# Every target makes .venv and installs what it needs, once: the stamp files
# inside .venv remember it, and a changed pin makes them stale.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check \
	-c requirements.txt
# Without those that need a model folder or, like the TPU compiler, an hour.
BENCHMARKS := input_pipeline progressive_transfer qat_stability training_step \
	vocabularies weights_memory tflite.files tflite.peers
ifdef MOBILEBERT_TF_DATA
BENCHMARKS += equalization fine_tuning squad_featurisation
endif
# By itself: it wants a newer absl-py than tensorflow-model-optimization.
MEDIAPIPE := $(VENV)/mediapipe
# By itself: of 2023, it wants a NumPy below 2. Its wheels end at Python 3.11.
TASK_LIBRARY := $(VENV)/task_library

# Older runtimes, QEMU and an ARM Python: 400 MB.
MACHINES := $(VENV)/machines

# Model Garden pins an older TensorFlow than ours, with which it works too.
MODEL_GARDEN := tf-models-official==2.20.0

.DEFAULT_GOAL := help
.PHONY: help demo demo-seeds test test-peers test-phone test-slow wheel lint bench \
	clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' \
		$(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.runtime  ## raw text to an int8 phone model, in demo/
	$(BIN)/python -m mobilebert_tf.commands.demo --output_dir=demo

demo-seeds: $(VENV)/.runtime  ## the demo's comparison over three seeds
	$(BIN)/python -m mobilebert_tf.commands.demo --output_dir=demo --seeds=3

# Two processes, each file in one of them: most tests use one core.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

# The second run still happens after a failure of the first, so that one
# `make test` shows both results.
test: $(VENV)/.test  ## the default tests, then the model's tests on JAX
	@status=0; \
	$(PYTEST) || status=$$?; \
	echo; echo "The model's tests again, on the JAX backend:"; \
	KERAS_BACKEND=jax $(PYTEST) \
		tests/modeling tests/distillation || status=$$?; \
	exit $$status

test-peers: $(VENV)/.peers $(VENV)/.mediapipe $(VENV)/.task_library  ## compare with other projects
	MOBILEBERT_TF_MEDIAPIPE_PYTHON=$(abspath $(MEDIAPIPE))/bin/python \
	MOBILEBERT_TF_TASK_LIBRARY_PYTHON=$(abspath $(TASK_LIBRARY))/bin/python \
		$(PYTEST) -m "peers and not slow" tests/peers

test-phone: $(VENV)/.machines  ## run files as phones would: GPU, ARM64, older runtimes
	MOBILEBERT_TF_MACHINES=$(abspath $(MACHINES)) \
		$(BIN)/python -m pytest -m phone tests/phone

test-slow: $(VENV)/.peers  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow tests

# In an environment and a folder that know nothing of this checkout.
wheel: $(VENV)/.created  ## build the wheel in dist/, install it elsewhere and try it
	@rm -rf build dist $(VENV)/wheel
	$(BIN)/python -m pip wheel -q --no-deps -w dist .
	$(PYTHON) -m venv $(VENV)/wheel
	$(VENV)/wheel/bin/python -m pip install -qq --disable-pip-version-check \
		-c requirements.txt dist/*.whl
	cd "$$(mktemp -d)" && PATH="$(abspath $(VENV)/wheel/bin):$$PATH" && \
		mobilebert pretrain --preset=mobilebert_small --output_dir=student \
			--num_train_steps=20 --max_seq_length=32 && \
		mobilebert classify --model=student --output_dir=classifier \
			--num_train_epochs=1 --max_train_examples=320 \
			--max_seq_length=32 --export=float32,int8 && \
		mobilebert classify --help | head -3 && \
		python -c "from mobilebert_tf.pipeline import TextClassifier; \
			print(TextClassifier('classifier')('Draws a line plot.'))"

lint: $(VENV)/.test  ## ruff check, ruff format --check, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

bench: $(VENV)/.peers  ## run the benchmarks
	@set -e; for name in $(BENCHMARKS); do \
		echo "$(BIN)/python -m benchmarks.$$name"; \
		$(BIN)/python -m benchmarks.$$name; \
	done

clean:  ## remove .venv and caches; demo/ and runs/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
		sys.exit(not (3, 11) <= v <= (3, 13))' || { \
		echo "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is" \
			"$$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12"; \
		exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }
	@touch $@

$(VENV)/.runtime: $(VENV)/.created requirements.txt pyproject.toml
	@echo "Installing into $(VENV) (about 2 minutes, 3 GB) ..."
	@$(PIP_INSTALL) -e '.[datasets,oracles,plots]'
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	@echo "Installing the test tools into $(VENV) (under a minute) ..."
	@$(PIP_INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.peers: $(VENV)/.test
	@echo "Installing the peers into $(VENV) (about 2 minutes, 1 GB) ..."
	@$(PIP_INSTALL) -e '.[bench]'
	@$(PIP_INSTALL) --no-deps $(MODEL_GARDEN)
	@touch $@

$(VENV)/.machines: $(VENV)/.test tests/phone/set_up.sh
	@echo "Fetching older runtimes and an ARM64 machine into $(MACHINES) ..."
	@rm -rf $(MACHINES)
	@sh tests/phone/set_up.sh $(BIN)/python $(MACHINES)
	@touch $@

$(VENV)/.mediapipe: $(VENV)/.created
	@echo "Installing MediaPipe into $(MEDIAPIPE) (under a minute) ..."
	@$(PYTHON) -m venv --clear $(MEDIAPIPE)
	@$(MEDIAPIPE)/bin/python -m pip install -qq --disable-pip-version-check \
		mediapipe==1.2.2
	@touch $@

$(VENV)/.task_library: $(VENV)/.created
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; \
	then \
		echo "Installing the Task Library into $(TASK_LIBRARY) ..." && \
		$(PYTHON) -m venv --clear $(TASK_LIBRARY) && \
		$(TASK_LIBRARY)/bin/python -m pip install -qq \
			--disable-pip-version-check tflite-support==0.4.4 \
			libusb-package==1.0.30.0 numpy==1.26.4; \
	else \
		echo "The Task Library has no wheel for this Python: not compared."; \
	fi
	@touch $@
