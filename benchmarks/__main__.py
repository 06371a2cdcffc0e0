"""``python -m benchmarks NAME [options]``; without a name all of them, one after the other, and then the report.

``--quick`` makes each of them short enough to see that it works; its numbers mean nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module

from benchmarks.measure import say
from benchmarks.targets import against_targets, kept

NAMES = ("rpc", "latency", "events", "fan-out", "scale", "startup", "gates", "topologies", "plan", "decision", "memory")


def _one(name: str, options: list[str]) -> int:
    code = int(import_module(f"benchmarks.{name.replace('-', '_')}").run(options))
    targets = against_targets(kept(), only=name)
    if targets.rows:
        say("\n" + targets.text())
    return code


def main() -> int:
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("-h", "--help"):
        say(f"{__doc__}\nnames: {', '.join(NAMES)}, report; NAME --help tells its options")
        return 0
    if arguments and arguments[0] == "report":
        return int(import_module("benchmarks.report").run(arguments[1:]))
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] not in NAMES:
            print(f"no benchmark {arguments[0]!r}; there are: {', '.join(NAMES)}, report", file=sys.stderr)
            return 2
        return _one(arguments[0], arguments[1:])
    if arguments not in ([], ["--quick"]):
        print("without a name only --quick is an option", file=sys.stderr)
        return 2
    code = max(_one(name, arguments) for name in NAMES)
    say("\n" + against_targets(kept()).text())
    return code


if __name__ == "__main__":
    sys.exit(main())
