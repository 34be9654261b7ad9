#!/usr/bin/env bash
# Submit a batch as an array of shards, and the merge after it.
#   scripts/slurm/submit.sh studies.csv results 8
# Options for every shard go into SPINEMETS_OPTIONS, as in SPINEMETS_OPTIONS="--timeout 1800".
set -euo pipefail

[ $# = 3 ] || { echo "usage: $0 MANIFEST OUT SHARDS" >&2; exit 2; }
here="$(cd "$(dirname "$0")" && pwd)"
export MANIFEST="$1" OUT="$2"

array="$(sbatch --parsable --array="1-$3" --export=ALL "$here/detect_array.sbatch")"
# afterany: studies that failed make a task end with code 7, and are to be merged too.
sbatch --parsable --dependency="afterany:${array%%;*}" --export=ALL "$here/merge.sbatch"
