#!/usr/bin/env bash
# One run on all workers of a Cloud TPU VM slice (v5e-16, v4-32, ...); they find each other by themselves.
#
#   TPU=my-slice ZONE=us-west4-a scripts/launch/tpu_vm.sh install
#   TPU=my-slice ZONE=us-west4-a scripts/launch/tpu_vm.sh train configs/sd15.yaml data.instance_images=photos \
#       data.class_noun=dog run_dir=runs/dog
#   TPU=my-slice ZONE=us-west4-a scripts/launch/tpu_vm.sh log     what worker 0 says
#   TPU=my-slice ZONE=us-west4-a scripts/launch/tpu_vm.sh stop    save and end; the same train command goes on
set -euo pipefail

TPU=${TPU:?name of the TPU VM}
ZONE=${ZONE:?its zone}
SHARED=${SHARED:-/mnt/shared}   # folder that every worker mounts at the same place (Filestore, NFS): photos and runs
CODE=${CODE:-dreambooth_jax}    # where this repository goes on each worker, below its home
PYTHON=${PYTHON:-python3.11}    # of the workers' Ubuntu, 3.11 or newer

cd "$(dirname "$0")/../.."
on() { # on WORKER COMMAND
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker="$1" --command="$2"
}

case "${1:-}" in
install)
    git archive --format=tar.gz --prefix="$CODE/" --output=/tmp/dreambooth_jax.tar.gz HEAD
    gcloud compute tpus tpu-vm scp /tmp/dreambooth_jax.tar.gz "$TPU:" --zone="$ZONE" --worker=all
    on all "tar -xzf dreambooth_jax.tar.gz && sudo apt-get install --yes --quiet $PYTHON-venv &&
        $PYTHON -m venv venv && venv/bin/pip install --quiet -e '$CODE[tpu]'"
    ;;
train | prior)
    # In the background, so that a lost connection ends nothing; configs/ are those of the repository.
    on all "mkdir -p $SHARED && cd $SHARED && ln -sfn ~/$CODE/configs configs &&
        (setsid nohup ~/venv/bin/dreambooth-jax $(printf '%q ' "$@") </dev/null >~/dreambooth.log 2>&1 &
        echo \$! >~/dreambooth.pid)"
    ;;
log) on 0 'tail -n +1 -f ~/dreambooth.log' ;;
stop) on 0 'kill -TERM "$(cat ~/dreambooth.pid)"' ;; # a signal to one process stops all of them after the same step
*)
    sed -n '2,9p' "$0"
    exit 2
    ;;
esac
