"""`python -m tests.screenshots [--to FOLDER] [--only PART ...]`: every screen in every state.

It drives the real demo, so each picture is of something that happened. The pictures go into a
folder outside the repository, with an index.html that shows all of them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import tests.environment  # noqa: F401 - before anything that reads Django's settings
from tests.acceptance.browsing import running_browser
from tests.acceptance.running import ROOT
from tests.screenshots import empty, rolling, slots, wide
from tests.screenshots.studio import Studio

PARTS = {"empty": empty.take, "rolling": rolling.take, "slots": slots.take, "wide": wide.take}


def main(arguments: Sequence[str] | None = None) -> int:
    """Take what is asked for; return 1 if a picture is missing."""
    parser = argparse.ArgumentParser(prog="make screenshots", description=__doc__)
    parser.add_argument("--to", type=Path, default=Path.home() / "lockgate-screenshots")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    chosen = parser.parse_args(arguments)
    folder = chosen.to.expanduser().resolve()
    if folder.is_relative_to(ROOT):
        parser.error(f"{folder} is inside the repository: name a folder outside it with --to.")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Pictures go to {folder}; all of them take some minutes.", flush=True)
    with running_browser() as browser:
        studio = Studio(browser, folder)
        for part in chosen.only:
            with studio.attempt(part):
                PARTS[part](studio)
        index = studio.sheet()
    print(
        f"{len(studio.taken)} screens in {sum(map(len, studio.taken.values()))} pictures: {index}"
    )
    for name, why in studio.missing.items():
        print(f"Not made: {name}: {why}", file=sys.stderr)
    return 1 if studio.missing else 0


if __name__ == "__main__":
    sys.exit(main())
