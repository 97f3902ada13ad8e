#!/usr/bin/env bash
# The main job on the embedded model: constitution + prompts -> aligned model, all stages, then the result table
# and runs/demo/report.html. Run again, it goes on where it stopped. Extra arguments go to `rlaif run`.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
out=${RLAIF_DEMO_OUT:-runs/demo}
mode=()
if [ -e "$out/config.yaml" ]; then mode=(--resume); fi
exec "${RLAIF_VENV:-.venv}/bin/rlaif" run scripts/demo.yaml --out "$out" ${mode[@]+"${mode[@]}"} "$@"
