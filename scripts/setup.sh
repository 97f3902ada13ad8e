#!/usr/bin/env bash
# Makes the virtual environment (default: .venv beside this repository; RLAIF_VENV to choose) and installs rlaif with
# everything the demo and the tests need, in the tested versions. Run again, it only installs what has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${RLAIF_VENV:-.venv}
python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
[ -n "$python" ] || { echo "Python 3.11 or newer is needed, and there is no python3; PYTHON=/path names one" >&2; exit 1; }
"$python" -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
# The folder is part of it: the environment points to this checkout. Hashed by Python, since macOS has no sha256sum.
wanted=$("$python" -c '
import hashlib, pathlib, sys
print(hashlib.sha256(sys.argv[1].encode() + b"".join(pathlib.Path(name).read_bytes() for name in sys.argv[2:])).hexdigest()[:16])
' "$PWD" pyproject.toml scripts/extras.txt scripts/constraints.txt scripts/setup.sh)
if [ "$(cat "$venv/.rlaif-setup" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
echo "Setting up $venv (some minutes the first time) ..."
has_pip() { "$venv/bin/python" -m pip --version >/dev/null 2>&1; }
# An environment whose making was interrupted has a python but no pip. Only what is an environment is ever cleared.
if ! has_pip && ! { "$venv/bin/python" -m ensurepip >/dev/null 2>&1 && has_pip; }; then
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 1
  fi
  clear=
  if [ -e "$venv/pyvenv.cfg" ]; then clear=yes; fi
  "$python" -m venv ${clear:+--clear} "$venv"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
# torch first, and apart: the package index's own wheel for Linux on x86-64 brings gigabytes of GPU libraries, wanted or
# not. RLAIF_TORCH names another requirement or a local wheel; an environment that already has a torch keeps it.
"$venv/bin/python" -c 'import torch' 2>/dev/null || pip install --quiet "${RLAIF_TORCH:-torch==2.13.0}"
pip install --quiet -c scripts/constraints.txt -e '.[gold,duplicates,dev,docs]'
pip install --quiet --no-deps -r scripts/extras.txt
echo "$wanted" > "$venv/.rlaif-setup"
