#!/usr/bin/env bash
# Sets up and runs the tests, the slow ones on the real embedded model included. Arguments go to pytest,
# for example: bash scripts/test.sh -m "not slow" tests/judge
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "${RLAIF_VENV:-.venv}/bin/python" -m pytest "$@"
