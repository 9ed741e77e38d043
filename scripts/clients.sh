#!/bin/sh
# Builds ./.venv-clients: the client packages of tests/clients, pinned in clients.txt. Usage: scripts/clients.sh
#
# They stay out of saga's own environment: their dependencies contradict vLLM's. With npm on the path, the command-line
# programs Codex and Claude Code come too; tests of what is not there skip, and say so.
set -eu
cd "$(dirname "$0")/.."
venv=.venv-clients
stamp=$venv/.saga-stamp
built_from=$(cat scripts/clients.sh scripts/clients.txt | cksum)

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$built_from" ]; then exit 0; fi
rm -rf "$venv"
trap 'rm -rf "$venv"' EXIT # half of it is none: tests look for its interpreter
"${PYTHON:-.venv/bin/python}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r scripts/clients.txt
if command -v npm >/dev/null 2>&1; then
    npm install --silent --no-audit --no-fund --prefix "$venv/npm" \
        @openai/codex@0.169.0 @anthropic-ai/claude-code@2.1.197 || echo "clients.sh: no Codex, no Claude Code: npm failed" >&2
fi
echo "$built_from" > "$stamp"
trap - EXIT
