"""Entry of the runner's process: ``python -I -S entry.py SOCKET RUNTIME AGENT``.

Rules of this file: it only sets the import path, which the agent hands over, because ``site`` (10 ms, 1 MB) is not run.
"""

import os
import sys


def main() -> int:
    """Take the agent's import path, then serve."""
    sys.path[:] = os.environ.pop("LOCUM_RUNNER_PATH").split(":")
    from locum.events.runner.runner import serve  # noqa: PLC0415

    return serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))


if __name__ == "__main__":
    sys.exit(main())
