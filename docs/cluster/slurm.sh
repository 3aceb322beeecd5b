#!/usr/bin/env bash
# A Ray on the nodes of a SLURM job, and a sweep on it, from a folder that every node sees:
#   sbatch docs/cluster/slurm.sh core bytes trials=200 out=runs/mine
#SBATCH --job-name=miras-search
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
set -euo pipefail

export RAY_USAGE_STATS_ENABLED=0
# Others who have jobs on these nodes reach the ports of this Ray: only who has the token is heard.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
cpus=${SLURM_CPUS_PER_TASK:-1}
read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
one=(--nodes=1 --ntasks=1)
ip=$(srun "${one[@]}" --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000)) # of this job alone
address=$ip:$port

trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT
srun "${one[@]}" --nodelist="$head" ray start --head --block --node-ip-address="$ip" \
    --port="$port" --num-cpus="$cpus" --include-dashboard=false &
until (: < "/dev/tcp/$ip/$port") 2> /dev/null; do
    kill -0 $! # ends the job if the head has died
    sleep 1
done
others=$((SLURM_JOB_NUM_NODES - 1))
if ((others)); then
    srun --nodes="$others" --ntasks="$others" --exclude="$head" \
        ray start --block --address="$address" --num-cpus="$cpus" &
fi

# What a trial gets is a share of the nodes that are there when the sweep begins.
python - "$address" "$SLURM_JOB_NUM_NODES" << 'PYTHON'
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(1)
PYTHON
miras-search sweep "$@" executor=ray address="$address"
