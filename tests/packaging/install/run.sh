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
env/bin/python -m pip install --quiet "$2" numpy matplotlib scikit-learn
KAN_FAST_NATIVE=1 env/bin/python -m pip install --quiet "$file"
env/bin/python -m kan_fast doctor
env/bin/python -c "
from pathlib import Path
import kan_fast
from kan_fast.demo import digits
assert Path(kan_fast.__file__).is_relative_to(Path.cwd()), kan_fast.__file__
assert kan_fast.backends()['cpu'].available, kan_fast.backends()['cpu']
digits.run(Path.cwd())
"
echo "right: ${file##*/} with $2"
