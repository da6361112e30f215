#!/bin/sh
# Write requirements-dev.lock anew: the newest versions that pyproject.toml allows, each pinned. Review the difference,
# run 'make test', and commit both together.
set -eu

cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1

python3 -m venv "$work/venv"
"$work/venv/bin/python" - >"$work/wanted" <<'PYTHON'
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
wanted = project["build-system"]["requires"] + project["project"]["dependencies"]
print(*wanted, *project["project"]["optional-dependencies"]["dev"], sep="\n")
PYTHON
"$work/venv/bin/pip" install -q --upgrade -r "$work/wanted"
{
    cat <<'HEAD'
# Every Python package that development and CI install, direct or not, at one version each. pyproject.toml says what
# Locum needs; this file says what it was tested with. Written by tools/lock.sh ('make lock'); do not edit.
HEAD
    "$work/venv/bin/pip" freeze --all --exclude pip | LC_ALL=C sort -f
} >"$work/lock"
if grep -nv '^#\|^[A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*$' "$work/lock" >&2; then
    echo "These lines pin no version; requirements-dev.lock stays as it was." >&2
    exit 1
fi
mv "$work/lock" requirements-dev.lock
chmod 644 requirements-dev.lock
git --no-pager diff --stat -- requirements-dev.lock
