#!/usr/bin/env bash
# Style, format and types: ruff and mypy over the whole repository. Needs: pip install -e '.[dev]'
set -euo pipefail
cd "$(dirname "$0")/.."

ruff check .
ruff format --check .
mypy
