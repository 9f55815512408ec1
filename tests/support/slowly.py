"""A worker whose shards take a while: `dask worker --preload support.slowly`."""

import time
from typing import Any

from circuitcli.stages.task import ShardTask

_compute = ShardTask.compute
SECONDS = 0.25


def _slow(task: ShardTask, *args: Any, **more: Any) -> Any:
    time.sleep(SECONDS)
    return _compute(task, *args, **more)


ShardTask.compute = _slow  # type: ignore[method-assign]
