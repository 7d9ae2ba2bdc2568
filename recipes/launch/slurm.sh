#!/usr/bin/env bash
# Several machines under Slurm; one torchrun on each starts a process per GPU. From the top of the repository, whose
# folder all machines share:
#   sbatch recipes/launch/slurm.sh ner --output_dir runs/ner
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
# Two minutes before the time limit, or when the job is pushed out, all processes save one checkpoint and end; submitted
# again, or queued again by Slurm, the run resumes.
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

recipe=$1
shift
master=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 .venv/bin/python -m torch.distributed.run \
  --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$master:${MASTER_PORT:-29500}" \
  -m "recipes.$recipe" "$@"
