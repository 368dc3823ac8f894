# `make quickstart`: the whole way on simulated cells, from images to a model that others can load.
# A step that is done is not done again, and each command goes on where it was stopped: after an interruption,
# `make quickstart` again.
Q := build/quickstart
QUICKSTART_FIELDS := 480
QUICKSTART_ANTIBODIES := 240
# A tiny model keeps two cores busy, not more. Small layers train faster in two processes of one thread each than in one
# of two threads, on a quiet machine and much more so on a busy one (benchmarks/results/quickstart_cpu.json).
QUICKSTART_CORES := $(shell test "$$(nproc 2>/dev/null || echo 2)" -ge 2 && echo 2 || echo 1)
QUICKSTART_OPTICS := --size-px 384 --pixel-size-um 0.2135694 --workers $(QUICKSTART_CORES)
export OMP_NUM_THREADS ?= $(QUICKSTART_CORES)

quickstart: install  ## Simulate, pretrain, embed, evaluate, export: five to six minutes on two cores
	@$(MAKE) --no-print-directory -j $(QUICKSTART_CORES) $(Q)/results.json
	@$(BIN)/python recipes/show_results.py $(Q)

$(Q)/.fields: | install
	@echo "1/8 Simulating fields of view with known protein locations"
	@$(BIN)/subcell simulate --fields $(QUICKSTART_FIELDS) --antibodies $(QUICKSTART_ANTIBODIES) --seed 0 \
	    $(QUICKSTART_OPTICS) --output $(Q)/fields
	@$(BIN)/subcell simulate --fields 16 --antibodies 16 --seed 1 $(QUICKSTART_OPTICS) --output $(Q)/new_fields
	@touch $@

$(Q)/.shards: $(Q)/.fields
	@echo "2/8 Cutting cells out and writing them as shards"
	@# Each number of a simulated mask is one cell: looking for several nuclei in one takes two thirds of the time.
	@$(BIN)/subcell crops $(Q)/fields --output $(Q)/crops --crop-size-px 384 --output-size-px 72 --trust-masks \
	    --workers $(QUICKSTART_CORES)
	@$(BIN)/subcell shards $(Q)/crops --output $(Q)/shards --fractions train=0.7,validation=0.1,test=0.2
	@rm -rf $(Q)/crops
	@touch $@

$(Q)/.pretrained: $(Q)/.shards
	@echo "3/8 Pretraining a tiny SubCell"
	@OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc_per_node $(QUICKSTART_CORES) -m \
	    subcell_hf.workflows.pretrain quickstart --use_cpu true --shards $(Q)/shards --output_dir $(Q)/pretraining \
	    $$(ls -d $(Q)/pretraining/checkpoint-* >/dev/null 2>&1 && echo --resume_from_checkpoint true)
	@touch $@

$(Q)/.embedded: $(Q)/.pretrained
	@echo "4/8 Embedding every cell"
	@$(BIN)/subcell embed $(Q)/shards --model $(Q)/pretraining/model --output $(Q)/embeddings --no-report \
	    --no-h5ad --pictures 0
	@touch $@

$(Q)/.localized: $(Q)/.embedded
	@echo "5/8 Training the localization head on the frozen embeddings"
	@$(BIN)/python -m subcell_hf.workflows.train_localization \
	    --table $(Q)/embeddings --encoder $(Q)/pretraining/model --output $(Q)/localization \
	    --cells_per_batch 256 --max_epochs 40 --seeds 0 1 2
	@touch $@

$(Q)/.reported: $(Q)/.localized
	@echo "6/8 From new images to embeddings, locations and a report"
	@$(BIN)/subcell embed $(Q)/new_fields --model $(Q)/localization --output $(Q)/report
	@touch $@

$(Q)/.evaluated: $(Q)/.embedded
	@echo "7/8 Evaluating on antibodies that training has not seen, beside an untrained network, features and pixels"
	@$(BIN)/subcell evaluate localization $(Q)/embeddings --workers $(QUICKSTART_CORES) --no-learning-curve \
	    --output $(Q)/evaluation
	@touch $@

$(Q)/results.json: $(Q)/.reported $(Q)/.evaluated
	@echo "8/8 Exporting a Hub folder and loading it back"
	@$(BIN)/subcell export $(Q)/localization --evaluation $(Q)/evaluation --output $(Q)/hub
	@cp $(Q)/evaluation/results.json $@
