#!/bin/sh
# Installs a wheel or an sdist into a clean environment, whose path has spaces and letters beyond ASCII, and runs it.
# usage: run.sh PYTHON TORCH FILE, where TORCH is what pip installs for torch (torch==2.13.0)
set -eu
file=$(realpath "$3")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/clean – Окружение ä"
cd "$folder/clean – Окружение ä"
"$1" -m venv env
# Without the CUDA libraries that torch asks for: the tests need its CPU part alone.
env/bin/python -m pip install --quiet --no-deps "$2"
env/bin/python -m pip install --quiet filelock fsspec jinja2 networkx typing-extensions setuptools \
    numpy sympy tqdm matplotlib scikit-learn
KAN_FAST_NATIVE=1 env/bin/python -m pip install --quiet --no-deps "$file"
env/bin/python -m kan_fast doctor
env/bin/python -c "
from pathlib import Path
import kan_fast
from kan_fast.demo import digits
assert Path(kan_fast.__file__).is_relative_to(Path.cwd()), kan_fast.__file__
assert kan_fast.backends()['cpu'].available, kan_fast.backends()['cpu']
digits.run(Path('pictures'))
"
echo "right: ${file##*/} with $2"
