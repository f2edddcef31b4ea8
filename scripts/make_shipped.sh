#!/usr/bin/env bash
# Makes what ships inside the package: the sample, the tokenizer, the autoencoder and a trained model of either track.
# Six to seven hours on two CPU cores, by the sum of its parts. Run it in a checkout whose .venv `make test` has built;
# pieces that are already in $WORK are not made again. All but compression_tiny were made otherwise, in pieces or on
# less video, by the commands in weights/README.md. Add `--train.precision bf16` where the CPU computes in bfloat16.
set -euo pipefail
cd "$(dirname "$0")/.."
WORK=${WORK:-out/shipped}
FOREFRAME=${FOREFRAME:-.venv/bin/foreframe}
PACKAGE=src/foreframe
mkdir -p "$WORK"

# 1. The sample: 18 training rooms of 10 s, 12 other rooms of 6 s to validate on.
[ -d "$WORK/sample/train" ] || $FOREFRAME data simulate "$WORK/sample/train" --split train --seed 1 --episodes 18 --seconds 10 --episodes-per-shard 9 --crf 27
[ -d "$WORK/sample/val" ] || $FOREFRAME data simulate "$WORK/sample/val" --split val --seed 1 --episodes 12 --seconds 6 --episodes-per-shard 6 --crf 27
rm -rf $PACKAGE/sample && cp -r "$WORK/sample" $PACKAGE/sample
rm $PACKAGE/sample/*/sim/poses_*.npy # for their size

# 2. What the weights learn from, two hours: 600 rooms of 12 s, validated on 48 other rooms; none of the sample's.
[ -d "$WORK/data/val" ] || $FOREFRAME data simulate "$WORK/data/val" --split val --seed 2 --episodes 48 --seconds 6 --episodes-per-shard 12
[ -d "$WORK/data/train" ] || $FOREFRAME data simulate "$WORK/data/train" --split train --seed 2 --episodes 600 --seconds 12 --episodes-per-shard 5

# And other rooms in which the robot drives about half of the time: the video model hears its velocities after these.
[ -d "$WORK/roam/train" ] || $FOREFRAME data simulate "$WORK/roam/train" --split train --seed 3 --episodes 260 --seconds 6 --episodes-per-shard 5 --actions-per-stop 0 2
[ -e "$WORK/roam/val" ] || ln -s ../data/val "$WORK/roam/val"

# One thread for each training, so that two of them can share the machine; fewer returns of memory to the system.
export OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_TOP_PAD_=100000000
ship() { rm -rf "$PACKAGE/weights/$2" && $FOREFRAME export "$WORK/$1" --out "$PACKAGE/weights/$2"; }

# 3. The tokenizer and the autoencoder.
$FOREFRAME train tokenizer_tiny --out "$WORK/tokenizer" --data "$WORK/data" --track.decode-once \
    --optim.warmup-steps 100 --train.num-steps 6000 --train.seed 6 \
    --train.validate-every 500 --train.checkpoint-every 200 --train.log-every 20 --train.num-val-clips 48
ship tokenizer tokenizer_tiny
$FOREFRAME train autoencoder_tiny --out "$WORK/autoencoder" --data "$WORK/data" --track.decode-once --train.seed 5
ship autoencoder autoencoder_tiny

# 4. The transformer, on the tokens.
$FOREFRAME data encode "$WORK/data" --out "$WORK/tokens"
$FOREFRAME train compression_tiny --out "$WORK/compression" --data "$WORK/tokens" \
    --optim.warmup-steps 100 --train.seed 8 --train.num-steps 2400 --train.global-batch-size 8 --train.micro-batch-size 8 \
    --train.precision bf16 --train.compile --train.validate-every 800 --train.checkpoint-every 200 --train.log-every 20 --train.num-val-clips 48
ship compression compression_tiny

# 5. The video model, on the autoencoder's latents: first of what the robot mostly does, then of the rooms it drives in.
$FOREFRAME train sampling_tiny --out "$WORK/sampling_first" --data "$WORK/data" --track.clip-stride 8 --train.seed 7 \
    --train.num-steps 2800 --train.compile --train.validate-every 700 --train.checkpoint-every 100
$FOREFRAME train sampling_tiny --out "$WORK/sampling" --data "$WORK/roam" --track.clip-stride 8 --train.seed 13 \
    --track.start-from "$WORK/sampling_first" --optim.warmup-steps 100 \
    --train.num-steps 3600 --train.compile --train.validate-every 900 --train.checkpoint-every 100
ship sampling sampling_tiny
