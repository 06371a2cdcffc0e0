"""``python -m benchmarks NAME [options]``; without a name all of them, one after the other."""

from __future__ import annotations

import sys
from importlib import import_module

NAMES = ("rpc", "startup", "plan")


def main() -> int:
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\nnames: {', '.join(NAMES)}; NAME --help tells its options")
        return 0
    if arguments and arguments[0] not in NAMES:
        print(f"no benchmark {arguments[0]!r}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    names, options = ((arguments[0],), arguments[1:]) if arguments else (NAMES, [])
    return max(int(import_module(f"benchmarks.{name}").run(options)) for name in names)


if __name__ == "__main__":
    sys.exit(main())
