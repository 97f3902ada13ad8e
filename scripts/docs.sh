#!/usr/bin/env bash
# Builds the documentation as a site in site/ (or the folder that is given) and fails at any broken link or anchor.
# `bash scripts/docs.sh serve` shows it at http://127.0.0.1:8000 and follows edits. Needs: pip install -e '.[docs]'
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${RLAIF_VENV:-.venv}/bin
python() { if [ -x "$bin/python" ]; then "$bin/python" "$@"; else command python "$@"; fi; }
export NO_MKDOCS_2_WARNING=true DISABLE_MKDOCS_2_WARNING=true
if [ "${1:-}" = serve ]; then exec python -m mkdocs serve --strict; fi
python -m mkdocs build --strict --site-dir "${1:-$PWD/site}"
