#!/bin/bash
# A campaign on SLURM: starts Ray on every node of the allocation and then runs the command line that it is given,
# which is the same as on one machine:
#
#     sbatch docs/cluster/slurm.sh flashbias-fold predict targets/ --out preds/ --engine ray
#
# Paths have to be seen by all nodes. What follows is for four nodes of four GPUs: adapt it to your cluster, here
# or by options of sbatch (sbatch --nodes=8 --time=48:00:00 docs/cluster/slurm.sh ...).
#SBATCH --job-name=flashbias-fold
#SBATCH --output=flashbias-fold-%j.log
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
# Three minutes before the time is up the campaign is told to stop, in order; submitted again it goes on.
#SBATCH --signal=B:TERM@180
set -euo pipefail

if (( $# == 0 )); then
    echo "usage: sbatch $0 flashbias-fold predict INPUT --out DIR --engine ray ..." >&2
    exit 2
fi

# Load what your cluster needs, for instance:
#     module load cuda
#     source /shared/flashbias-fold/.venv/bin/activate
# or, where Ray is in an image:
#     ray=(apptainer exec --nv flashbias-fold-ray.sif ray)
ray=(ray)

wait_s=${RAY_WAIT_S:-600}  # for nodes that are slow to come; the campaign begins with those that are there by then
temporary=/tmp/ray-${SLURM_JOB_ID:?not inside an allocation}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# This script runs on the first node. HEAD_IP names another of its addresses, of a faster network for instance.
head_ip=${HEAD_IP:-$(hostname --all-ip-addresses | cut -d' ' -f1)}
address=$head_ip:$(( 20000 + SLURM_JOB_ID % 10000 ))

# Ray tells its makers about its use unless this is set. The token keeps other users of the network out: who can
# talk to a Ray cluster can run anything on it.
export RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | sha256sum | cut -d' ' -f1)
export RAY_AUTH_TOKEN

# Only small reports go through Ray's object store, for which it would set aside a third of the memory.
limits=(--num-cpus="${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}" --object-store-memory=268435456)
steps=()

on_nodes() {  # HOW_MANY OPTION COMMAND...: a step in the background
    srun --overlap --nodes="$1" --ntasks="$1" "${@:2}" &
    steps+=("$!")
}

nodes_there() {
    timeout 30 "${ray[@]}" status --address "$address" 2>/dev/null | grep -c '^ *[0-9]* node_' || true
}

wait_for_nodes() {  # HOW_MANY: until they are there, or it is time to begin
    until (( $(nodes_there) >= $1 )); do
        if ! kill -0 "${steps[0]}" 2>/dev/null; then
            echo "slurm.sh: Ray did not start on ${nodes[0]}, see above" >&2
            exit 1
        fi
        if (( SECONDS > wait_s )); then
            echo "slurm.sh: $(nodes_there) of ${#nodes[@]} nodes came within $wait_s s" >&2
            return
        fi
        sleep 2
    done
}

clean_up() {
    trap '' TERM
    if (( ${#steps[@]} )); then
        kill -TERM "${steps[@]}" 2>/dev/null || true
        wait "${steps[@]}" || true
    fi
    srun --overlap --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" rm -rf "$temporary" || true
}
trap clean_up EXIT
trap 'exit 130' TERM

on_nodes 1 --nodelist="${nodes[0]}" \
    "${ray[@]}" start --head --block --node-ip-address="$head_ip" --port="${address##*:}" --temp-dir="$temporary" \
    --include-dashboard=false "${limits[@]}"
wait_for_nodes 1
if (( ${#nodes[@]} > 1 )); then
    on_nodes $(( ${#nodes[@]} - 1 )) --exclude="${nodes[0]}" \
        "${ray[@]}" start --address="$address" --block "${limits[@]}"
    wait_for_nodes "${#nodes[@]}"
fi

"$@" --address "$address" &
campaign=$!
told=
trap 'told=yes; kill -TERM "$campaign" 2>/dev/null || true' TERM
status=0
wait "$campaign" || status=$?
if [[ $told && $status -eq 143 ]]; then  # it was this script that was told; the campaign is still ending
    status=0
    wait "$campaign" || status=$?
fi
exit "$status"
