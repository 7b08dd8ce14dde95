#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
# Everything that only a card can tell, in 25 minutes on one H100 or H200; scripts/measure_gpu.sh --help says what.
#
#   scripts/measure_gpu.sh install           jax's and PyTorch's CUDA libraries conflict: an environment for each
#   scripts/measure_gpu.sh all measured      or one part after the other: ours compile training whole members pictures
#                                            eager
#
# PYTHON: what the environments are made with. OURS_PYTHON, TORCH_PYTHON: environments that are there already.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
environments=${ENVIRONMENTS:-$root/.measure_gpu}

if [[ ${1:-} == install ]]; then
    for side in ours torch; do
        "${PYTHON:-python3}" -m venv "$environments/$side"
        "$environments/$side/bin/pip" install --quiet --upgrade pip
    done
    "$environments/ours/bin/pip" install --quiet -e "$root[cuda]"
    "$environments/torch/bin/pip" install --quiet torch diffusers accelerate
    "$environments/torch/bin/pip" install --quiet -e "$root"  # with jax for the CPU: the stop-watch is the same
    "$environments/ours/bin/python" -c 'import jax; print(jax.__version__, jax.devices())'
    "$environments/torch/bin/python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'
    exit
fi

pick() { if [[ -x $environments/$1/bin/python ]]; then echo "$environments/$1/bin/python"; else echo "${PYTHON:-python3}"; fi; }
export OURS_PYTHON=${OURS_PYTHON:-$(pick ours)} TORCH_PYTHON=${TORCH_PYTHON:-$(pick torch)}
export PYTHONPATH="$root/scripts:$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$OURS_PYTHON" -m measure_gpu "$@"
