#!/usr/bin/env bash
# Makes everything that ships inside the package: the sample, the tokenizer, the trained compression_tiny.
# About three hours on two CPU cores. Run it in a checkout whose .venv `make test` has built; pieces that are
# already in $WORK are not made again.
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

# 2. What the weights learn from, 66 minutes: 330 rooms of 12 s, validated on 48 other rooms; none of the sample's.
[ -d "$WORK/data/val" ] || $FOREFRAME data simulate "$WORK/data/val" --split val --seed 2 --episodes 48 --seconds 6 --episodes-per-shard 12
[ -d "$WORK/data/train" ] || $FOREFRAME data simulate "$WORK/data/train" --split train --seed 2 --episodes 330 --seconds 12 --episodes-per-shard 5

# 3. The tokenizer.
OMP_NUM_THREADS=1 $FOREFRAME train tokenizer_tiny --out "$WORK/tokenizer" --data "$WORK/data" --track.decode-once \
    --optim.warmup-steps 100 --train.num-steps 4000 --train.precision bf16 --train.seed 2 \
    --train.validate-every 500 --train.checkpoint-every 250 --train.log-every 20 --train.num-val-clips 48
rm -rf $PACKAGE/weights/tokenizer_tiny && $FOREFRAME export "$WORK/tokenizer" --out $PACKAGE/weights/tokenizer_tiny

# 4. The transformer, on its tokens, for longer than the demo: two processes of one thread each.
$FOREFRAME data encode "$WORK/data" --out "$WORK/tokens"
OMP_NUM_THREADS=1 "$(dirname "$FOREFRAME")/torchrun" --standalone --nproc-per-node 2 --no-python "$FOREFRAME" \
    train compression_tiny --out "$WORK/compression" --data "$WORK/tokens" \
    --optim.warmup-steps 100 --train.seed 3 \
    --train.num-steps 900 --train.global-batch-size 8 --train.micro-batch-size 4 --train.precision bf16 \
    --train.validate-every 300 --train.checkpoint-every 100 --train.log-every 20 --train.num-val-clips 48
rm -rf $PACKAGE/weights/compression_tiny && $FOREFRAME export "$WORK/compression" --out $PACKAGE/weights/compression_tiny
