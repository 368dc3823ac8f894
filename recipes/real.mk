# `make real DATA=FOLDER`: the main job on real images of the Human Protein Atlas, from raw files to a report. FOLDER is
# laid out as recipes/real_fields.py says. Training sees the images and which antibody they are of, and no location; the
# heads learn the locations of train.txt alone. Two tiny models are trained, one for images with all four channels and one for those
# with nucleus and protein alone; `subcell embed --model auto` picks the right one for every image.
DATA ?= ../shared/data
REAL := build/real
REAL_EPOCHS := 120

real: $(REAL)/.reported  ## Real images of DATA=FOLDER: segment, crop, pretrain for minutes, embed, locate, report
	@echo "Look at $(REAL)/report/report.html"

$(REAL)/.listed: | install
	@$(BIN)/python recipes/real_fields.py $(DATA) $(REAL)
	@touch $@

$(REAL)/.four_channels: TABLE := four_channels
$(REAL)/.four_channels: CHANNELS := rybg
$(REAL)/.all: TABLE := all
$(REAL)/.all: CHANNELS := bg
$(REAL)/.four_channels $(REAL)/.all: $(REAL)/.listed
	@echo "Segmenting, cropping and training on the channels $(CHANNELS)"
	@$(BIN)/subcell crops $(REAL)/$(TABLE).csv --channels $(CHANNELS) --crop-size-px 640 --output-size-px 192 --workers 2 \
	    --output $(REAL)/crops_$(CHANNELS)
	@$(BIN)/subcell shards $(REAL)/crops_$(CHANNELS) --split-by none --output $(REAL)/shards_$(CHANNELS)
	@$(BIN)/subcell splits $(REAL)/shards_$(CHANNELS) --list train=$(REAL)/train.txt --list validation=$(REAL)/test.txt
	@$(BIN)/accelerate launch --config_file recipes/accelerate/cpu.yaml -m \
	    subcell_hf.workflows.pretrain quickstart --channels $(CHANNELS) --shards $(REAL)/shards_$(CHANNELS) \
	    --image_size 192 --patch_size 12 --num_hidden_layers 4 --probe_detached true --probe_weight 1 --train_split all \
	    --antibodies_per_batch 12 --last_batch drop --cells_per_antibody 2 --learning_rate 2e-3 \
	    --num_train_epochs $(REAL_EPOCHS) --eval_epochs 40 --save_epochs 40 --output_dir $(REAL)/pretraining_$(CHANNELS)
	@$(BIN)/subcell embed $(REAL)/shards_$(CHANNELS) --model $(REAL)/pretraining_$(CHANNELS)/model --no-report \
	    --output $(REAL)/embeddings_$(CHANNELS)
	@$(BIN)/python -m subcell_hf.workflows.train_localization \
	    --table $(REAL)/embeddings_$(CHANNELS) --encoder $(REAL)/pretraining_$(CHANNELS)/model \
	    --output $(REAL)/models/$(CHANNELS) --cells_per_batch 16
	@touch $@

$(REAL)/.reported: $(REAL)/.four_channels $(REAL)/.all
	@$(BIN)/subcell embed $(REAL)/all.csv --model auto --models $(REAL)/models --output $(REAL)/report
	@touch $@
