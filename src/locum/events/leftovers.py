"""Names of files that package managers, editors and configuration tools leave beside the file that they change.

Rules of this file: names only. Such a file is never a script, whatever its mode: an upgrade leaves it on every node
alike, often with the mode of the script that it is a copy of. Sources: dpkg(1), ucf(1), rpm(8), pacman(8), apk(8),
vim(1), nano(1), emacs, patch(1), ci(1), cf-agent(8), and the merge tools of git and Subversion.
"""

from __future__ import annotations

import re

_WORDS = {
    "a package manager": (
        "dpkg-dist dpkg-new dpkg-old dpkg-tmp dpkg-bak dpkg-backup dpkg-divert dpkg-remove dpkg-inst ucf-dist ucf-new"
        " ucf-old rpmnew rpmsave rpmorig pacnew pacsave pacorig apk-new apk-old"
    ),
    "an editor or a version control tool": (
        "bak backup back orig old rej swp swo swn swx save tmp temp part copy new kate-swp mine theirs ours base local"
        " remote merge"
    ),
    "a configuration tool": (
        "cfsaved cfnew cfedited cfagent cf-before-edit cf-after-edit puppet-bak puppet-new saltbak salt-bak ansible-bak"
        " augsave augnew chef-bak disabled disable off inactive example sample dist in template"
    ),
}
_ORIGINS = {word: origin for origin, words in _WORDS.items() for word in words.split()}
#: ``.bak2``, ``.save.1``: a number after the word.
_COUNT = re.compile(r"[-_]?[0-9]+")


def leftover(name: str) -> str | None:
    """Why a file called ``name`` is a leftover and not a script, as the end of a sentence; None when it is not one."""
    if name.endswith("~") or (name.startswith("#") and name.endswith("#")):
        return "is an editor's copy, so it never runs"
    if name.endswith(",v"):
        return "is a revision file of RCS, so it never runs"
    # NN.name.SUFFIX: what comes before is the script's own name, also when that is 'old'.
    for part in name.lower().split(".")[2:]:
        origin = _ORIGINS.get(part) or _ORIGINS.get(_COUNT.sub("", part))
        if origin is not None:
            return f"is a copy of the kind that {origin} leaves (.{part}), so it never runs"
    return None
