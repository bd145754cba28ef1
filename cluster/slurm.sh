#!/bin/bash
# A Ray cluster for the length of one Slurm job, and one rayrlhf command on it.
#
#   sbatch --nodes=4 cluster/slurm.sh rl examples/ppo.toml learner.ranks=16
#   NODE_GROUPS="learner learner rollout reward" sbatch --nodes=4 cluster/slurm.sh rl my.toml
#   SRUN_OPTIONS="--container-image=registry.example.com/rayrlhf:0.1.0" sbatch cluster/slurm.sh sft my.toml
#
# NODE_GROUPS gives the n-th node the label rayrlhf/group, which node_labels in a config asks for. Before the time is over
# the run is asked to end, saves, and is queued again; it goes on from there, because --resume is auto.
#SBATCH --job-name=rayrlhf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
umask 077

if [ $# -eq 0 ]; then
    echo "usage: sbatch cluster/slurm.sh COMMAND CONFIG [section.key=value …], as in: rl examples/ppo.toml" >&2
    exit 2
fi

# The script runs on the first node, which becomes the head.
head=${HEAD_IP:-$(getent ahostsv4 "$(hostname)" | awk 'NR == 1 { print $1 }')}
case $head in
"" | 127.*)
    echo "$(hostname) knows itself as '${head}', by which the other nodes cannot reach it: set HEAD_IP to its address" >&2
    exit 1
    ;;
esac
port=$((20000 + SLURM_JOB_ID % 10000))

# One token for this job, in a file that its user alone can read, where all nodes see it. It is in no variable and no
# argument, which others on a node could list.
private=$(mktemp --directory "${RAYRLHF_JOBS:-$HOME}/.rayrlhf-$SLURM_JOB_ID-XXXXXX")
trap 'rm -rf "$private"' EXIT
od --address-radix=n --format=x1 --read-bytes=32 /dev/urandom | tr -d ' \n' >"$private/auth_token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$private/auth_token"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}
export HEAD_ADDRESS="$head:$port" DRIVER_PID="$private/driver.pid" NODE_GROUPS="${NODE_GROUPS:-}"

# Each node: its label, then `ray symmetric-run`, which runs the driver on the head alone.
cat >"$private/node.sh" <<'NODE'
read -r -a groups <<<"$NODE_GROUPS"
group=${groups[${SLURM_NODEID:-0}]:-}
exec ray symmetric-run --address "$HEAD_ADDRESS" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_ON_NODE" --disable-usage-stats ${group:+--labels "rayrlhf/group=$group"} \
    -- bash "${BASH_SOURCE[0]%/*}/driver.sh" "$@"
NODE
cat >"$private/driver.sh" <<'DRIVER'
echo $$ >"$DRIVER_PID"
RAY_ADDRESS=$HEAD_ADDRESS exec rayrlhf "$@"
DRIVER

# Slurm's warning goes to the driver alone: the raylets have to live until it has saved.
asked_to_end='' interrupted=''
# shellcheck disable=SC2329 # called by the trap
end_driver() {
    asked_to_end=1 interrupted=1
    if [ -s "$DRIVER_PID" ]; then kill -TERM "$(cat "$DRIVER_PID")" || true; else kill -TERM "$run" || true; fi
}
trap end_driver TERM

# shellcheck disable=SC2086 # options are words
srun ${SRUN_OPTIONS:-} --ntasks-per-node=1 bash "$private/node.sh" "$@" &
run=$!
while :; do # a signal ends `wait` early
    code=0 interrupted=''
    wait "$run" || code=$?
    if [ -z "$interrupted" ]; then break; fi
done
if [ -n "$asked_to_end" ] && [ "$code" -eq 143 ]; then
    rm -rf "$private"
    scontrol requeue "$SLURM_JOB_ID" || echo "job $SLURM_JOB_ID could not be queued again: submit it once more" >&2
fi
exit "$code"
