"""`circuit …` with shards of few features, so that a small run has many of them: `python -m support.small_shards …`."""

from circuitcli.cli.app import main
from circuitcli.stages import spreading

if __name__ == "__main__":
    spreading.SHARD_FEATURES = 4
    main()
