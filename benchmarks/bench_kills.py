"""A worker killed every 2 s and restarted 1 s later under continuous idempotent calls.

Eight threads and fifty coroutines call through the bare SDK, through tenacity, and through
`resilient(worker)`, each in a run of its own. Usage:

    make bench-kills              # 30 s a run
    make bench-kills SECONDS=120
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

from support.kills import CONTENDERS, Setting, run


def main() -> None:
    """Make the runs and print the table."""
    setting = Setting(seconds=float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)
    os.environ["OTEL_ENABLED"] = "false"
    logging.disable(logging.CRITICAL)  # of what goes wrong, which is what is counted here
    print("| | calls | kills | failed | with | lost | twice |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, contender in CONTENDERS.items():
        with tempfile.TemporaryDirectory() as home:
            os.environ["HOME"] = home
            result = run(contender, setting, Path(home))
        codes = [f"{count} `{code}`" for code, count in result.codes.most_common() if code != "ok"]
        twice = len(result.runs) - len({executed.order for executed in result.runs})
        print(
            f"| {name} | {len(result.told)} | {result.kills} | {100 * result.share:.2f} % "
            f"| {', '.join(codes) or '-'} | {len(result.lost)} | {twice} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
