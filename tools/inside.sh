#!/bin/sh
# Run a command where network namespaces can be made: here, when this process may make them, else in a user namespace
# (with network, mount and process namespaces of its own, and an empty /run). Fails with the reason when neither can be.
set -eu

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

if unshare --net --mount true 2>/dev/null; then
    exec "$@"
fi
own="unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc"
if ! reason=$($own true 2>&1); then
    echo "This needs network namespaces: root, or a kernel that allows user namespaces ($reason)." >&2
    echo "Run it as root, or allow them: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone," >&2
    echo "kernel.apparmor_restrict_unprivileged_userns." >&2
    exit 1
fi
# The shell stays, as process 1: it collects the orphans.
# shellcheck disable=SC2016
exec $own -- sh -c 'mount -t tmpfs -o mode=755 tmpfs /run && ip link set lo up || exit 1; "$@"; exit $?' inside "$@"
