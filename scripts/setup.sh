#!/usr/bin/env bash
# Makes the virtual environment (default: .venv beside this repository; RLAIF_VENV to choose) and installs rlaif with
# everything the demo and the tests need. Run again, it only installs what has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${RLAIF_VENV:-.venv}
wanted=$(cat pyproject.toml scripts/extras.txt scripts/setup.sh | sha256sum | cut -c1-16)
if [ "$(cat "$venv/.rlaif-setup" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
python=${PYTHON:-$(command -v python3.11 || command -v python3)}
"$python" -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
echo "Setting up $venv (some minutes the first time) ..."
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
# torch first: a bare `torch` would fetch gigabytes of GPU libraries on a machine without one. An environment that has
# a torch already keeps it.
"$venv/bin/python" -c 'import torch' 2>/dev/null || pip install --quiet "${RLAIF_TORCH:-torch==2.13.0}"
pip install --quiet -e '.[gold,dev]'
pip install --quiet --no-deps -r scripts/extras.txt
echo "$wanted" > "$venv/.rlaif-setup"
