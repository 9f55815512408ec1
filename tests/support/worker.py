"""A process that knows nothing but tasks and some folders: `python -m support.worker TASKS OUT FOLDER…`."""

import pickle  # noqa: TID251 as whoever sends a task to another process does
import sys
from pathlib import Path

from circuitcli.stages.sources import Sources
from circuitcli.store import tables


def main(tasks: str, out: str, *folders: str) -> None:
    """Compute the tasks in a folder, and write the tables of each as a run does, in a folder of its name."""
    sources = Sources([Path(folder) for folder in folders], "cpu")
    for path in sorted(Path(tasks).iterdir()):
        for kind, parts in pickle.loads(path.read_bytes()).compute(sources).items():
            tables.write(Path(out) / path.name / f"{kind}.parquet", f"ablations/{kind}", parts)


if __name__ == "__main__":
    main(*sys.argv[1:])
