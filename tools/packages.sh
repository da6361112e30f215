#!/bin/sh
# Install the Debian packages of tools/debian-packages.txt, or of the list in the argument, that are missing, or name them
# when that is not possible.
# Nothing is started by it, now or at the next boot: a web server for tests is not one for the machine.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
list=${1:-$here/debian-packages.txt}
# Programs of administrators are not on the path of ordinary users, who may run many of them all the same.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

python=/usr/bin/python3
[ -x "$python" ] || python=python3

present() { # PACKAGE CHECK
    case $2 in
    /*) [ -e "$2" ] ;;
    # Another Python that has it is good enough for users who may not install packages.
    import:*) "$python" -c "import ${2#import:}" 2>/dev/null ||
        { [ "$(id -u)" != 0 ] && python3 -c "import ${2#import:}" 2>/dev/null; } ;;
    *) command -v "$2" >/dev/null ;;
    esac
}

missing=
while read -r package check _; do
    case $package in '' | '#'*) continue ;; esac
    present "$package" "$check" || missing="$missing $package"
done <"$list"
[ -n "$missing" ] || exit 0

explain() {
    echo "Missing Debian packages:" >&2
    for package in $missing; do
        sed -n "s/^$package  *[^ ]*  */  $package: /p" "$list" >&2
    done
}

if ! command -v apt-get >/dev/null; then
    explain
    echo "This is not Debian: install what your system calls them, and run make again." >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    explain
    echo "Install them with:  sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

work=$(mktemp -d)
policy=/usr/sbin/policy-rc.d
mark='made by tools/packages.sh of locum'

# What the next boot starts.
enabled() { find /etc/systemd/system -path '*.wants/*' 2>/dev/null | sort; }

finish() {
    # Only what this script made, also when an earlier run of it was killed.
    if grep -qs "$mark" "$policy"; then rm -f "$policy"; fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

echo "Installing Debian packages:$missing"
enabled >"$work/before"
# Packages ask this program before they start a service; 101 means no (invoke-rc.d(8)). One that is there is the
# administrator's own policy: it stays.
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\n# %s: nothing is started while it installs packages.\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive

install() {
    # shellcheck disable=SC2086  # a list of words
    apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends $missing </dev/null >"$work/log" 2>&1
}

# The package lists may be absent, or so old that the files they name are gone: then renew them, and only then.
if ! install; then
    if ! { apt-get -o DPkg::Lock::Timeout=300 update -q </dev/null >>"$work/log" 2>&1 && install; }; then
        cat "$work/log" >&2
        explain
        echo "apt-get could not install them; its output is above." >&2
        exit 1
    fi
fi
enabled >"$work/after"
comm -13 "$work/before" "$work/after" | while read -r link; do
    # Without its link a service is off for systemd, also after upgrades; the other command is for SysV init.
    rm -f "$link"
    case $link in
    *.service) update-rc.d "$(basename "$link" .service)" disable >/dev/null 2>&1 || true ;;
    esac
done
