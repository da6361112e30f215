#!/bin/sh
# Make the virtual environment .venv with the package (editable) and its development tools, in the versions of
# requirements-dev.lock, or bring it up to date with that file. Silent unless it takes a while or fails.
set -eu

cd "$(dirname "$0")/.."
stamp=.venv/.made-from
# What was installed depends on these files and on where the checkout is.
wanted=$(cat pyproject.toml lab/pyproject.toml requirements-dev.lock tools/venv.sh | cksum)" $PWD"
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

# The distribution's Python first: it is what servers run, and it is built with all optimizations; one that a version
# manager has compiled may take half as long again for everything.
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
python=
for candidate in /usr/bin/python3.11 /usr/bin/python3 python3.11 python3 python3.12 python3.13; do
    if "$candidate" -c "import ensurepip; $new_enough" 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "No Python 3.11 or newer that can make virtual environments was found" >&2
    echo "(Debian 12 packages: python3 and python3-venv)." >&2
    exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1 PYTHONWARNINGS=ignore

fail() {
    cat "$log" >&2
    echo "$1" >&2
    exit 1
}

echo "Preparing Python packages in .venv (once)"
# One whose interpreter is gone, or that was moved with its checkout, is of no use.
case $python in
/usr/bin/*) [ "$(readlink -f .venv/bin/python)" = "$(readlink -f "$python")" ] || rm -rf .venv ;;
esac
if ! .venv/bin/python -c "$new_enough" 2>/dev/null || ! head -n 1 .venv/bin/pip 2>/dev/null | grep -qF "$PWD/.venv/"; then
    rm -rf .venv
    "$python" -m venv .venv >"$log" 2>&1 ||
        fail "$python cannot make a virtual environment (Debian package: python3-venv); its output is above."
fi
# The package itself is built with the pinned setuptools and brings no other version of anything.
pinned() {
    .venv/bin/python -m pip install -q -r requirements-dev.lock &&
        .venv/bin/python -m pip install -q --no-build-isolation --no-deps -e . -e lab
}
if ! pinned >"$log" 2>&1; then
    # A package index that lacks one of them: Locum works with others, but what was tested is not what runs here.
    echo "warning: pip cannot install the versions of requirements-dev.lock; using what pyproject.toml allows:" >&2
    grep -i '^error' "$log" >&2 || true
    .venv/bin/python -m pip install -q -e '.[dev]' -e lab >"$log" 2>&1 ||
        fail "pip could not install the Python packages that pyproject.toml names; its output is above."
fi
echo "$wanted" >"$stamp"
