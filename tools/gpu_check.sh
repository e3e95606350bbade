#!/usr/bin/env bash
# Tries the package on this machine's GPU and times it there, in ten minutes and without a network.
#
#     pip install ".[cuda]"
#     tools/gpu_check.sh [DIRECTORY]
#
# It paints with the shipped cascade and compares with the pictures that a CPU painted, trains the
# shipped base a little, stops and goes on, and times a U-Net. DIRECTORY (out/gpu_check), which must
# be new, gets report.txt and what each command wrote. PLATFORM=cpu tries the script without a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=${1:-out/gpu_check}
export JAX_PLATFORMS=${PLATFORM:-cuda} IMAGEN_CACHE_DIR=off PYTHONPATH=.
failed=0

# step NAME COMMAND...: its seconds, with compilation. What is left of the ten minutes is its limit.
step() {
    local begun=$SECONDS left=$((580 - SECONDS))
    if timeout $((left > 1 ? left : 1)) "${@:2}" > "$out/$1.log" 2>&1; then
        echo "$1: $((SECONDS - begun)) s"
    else
        echo "$1: failed after $((SECONDS - begun)) s, see $out/$1.log"
        failed=1
    fi
}

# compare PICTURE GOLDEN: fails where they differ by more than 2 of 255 in the mean, four times what
# the tests allow CPUs: a GPU multiplies float32 with fewer bits.
compare() {
    python - "$@" << 'END' || failed=1
import sys

import numpy as np
from PIL import Image

try:
    painted, golden = (np.asarray(Image.open(path), float) for path in sys.argv[1:])
except OSError as error:
    sys.exit(str(error))
difference = np.abs(painted - golden).mean()
print(f"{sys.argv[1]} differs from {sys.argv[2]} by {difference:.3f} of 255")
sys.exit(int(difference > 2))
END
}

train=(python train.py emoji_base_64 --workdir "$out/run" --training.batch-size 128
    --training.log-every 25 --init-from imagen_jax/pretrained/base.safetensors
    --optimizer.learning-rate 1e-5)

if [ -e "$out" ]; then
    echo "$out exists; the results need a new directory." >&2
    exit 2
fi
if ! machine=$(python -c "import jax; print(jax.__version__, jax.devices())" 2> /dev/null); then
    echo "JAX finds no $JAX_PLATFORMS device here; docs/gpu.md says how to install it." >&2
    exit 2
fi
mkdir -p "$out"
exec > >(tee "$out/report.txt") 2>&1

date -u
echo "JAX $machine"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null || true
step student python sample.py "a red apple" --out "$out/student"
compare "$out"/student/*-64.png tests/golden/shipped/student.png
step base python sample.py "a red apple" --base shipped --out "$out/base"
for side in 64 256 1024; do
    compare "$out"/base/*-$side.png tests/golden/shipped/$side.png
done
step train "${train[@]}" --training.num-steps 25
step resume "${train[@]}" --training.num-steps 50
tail -n 1 "$out/run/metrics.jsonl" || true
step speed python benchmarks/unet_speed.py
step speed-bfloat16 python benchmarks/unet_speed.py --unet.dtype bfloat16
cat "$out"/speed*.log
exit $failed
