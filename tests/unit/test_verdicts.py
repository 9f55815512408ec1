"""What is remembered of a model that agreed with plain transformers counts for the code that read it alone."""

import shutil
import subprocess
import sys
from pathlib import Path

from support.commands import environment

from circuitcli.runtime import verdicts

PACKAGE = Path(__file__).parents[2] / "circuitcli"
LISTED = "import circuitcli.runtime.model, sys; print(*(m.__file__ for n, m in sys.modules.items() if n in NAMES))"
# What says no word on how a model is read: errors and the version, and where the demo's files lie.
APART = {"__init__.py", "errors.py", "demo/__init__.py"}


def test_a_change_of_any_file_that_loading_imports_makes_a_verdict_void(tmp_path: Path) -> None:
    names = "NAMES = [n for n in sys.modules if n.split('.')[0] == 'circuitcli']"
    script = LISTED.replace("; print", f"; {names}; print")
    ran = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    loaded = {Path(name).relative_to(PACKAGE).as_posix() for name in ran.stdout.split()} - APART
    assert {"runtime/configuration.py", "runtime/checkpoint.py", "core/shape.py", "runtime/agreement.py"} <= loaded
    copy = Path(shutil.copytree(PACKAGE, tmp_path / "circuitcli", ignore=shutil.ignore_patterns("__pycache__")))
    before = verdicts.code(copy)
    assert before == verdicts.code(PACKAGE), "where the package lies doesn't count"
    unseen = set()
    for name in loaded:
        text = (copy / name).read_text()
        (copy / name).write_text(text + "\n# Changed.\n")
        if verdicts.code(copy) == before:
            unseen.add(name)
        (copy / name).write_text(text)
    assert not unseen
