"""JUnit XML of what `circuit test` found, as systems for continuous integration read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from circuitcli.cli.console import printable

if TYPE_CHECKING:
    from circuitcli.core.evidence.thresholds import Verdict
    from circuitcli.stages.test import Judged


def document(tested: Sequence[Judged]) -> bytes:
    """A suite for each file, a case for each threshold. Characters that XML can't hold are shown as escapes."""
    root = ElementTree.Element("testsuites", _counts([one for file in tested for one in file.verdicts]))
    for file in tested:
        about = _counts(file.verdicts) | {"name": printable(str(file.path)), "time": f"{file.seconds:.3f}"}
        suite = ElementTree.SubElement(root, "testsuite", about)
        properties = ElementTree.SubElement(suite, "properties")
        facts = {"model": file.model, "model_identity": file.model_identity, "device": file.device, **file.versions}
        for name, value in facts.items():
            ElementTree.SubElement(properties, "property", {"name": name, "value": printable(value)})
        for one in file.verdicts:
            _case(suite, str(file.path), one)
    ElementTree.indent(root)
    made: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return made + b"\n"


def _counts(verdicts: Sequence[Verdict]) -> dict[str, str]:
    failed = sum(bool(one.failure) for one in verdicts)
    return {"tests": str(len(verdicts)), "failures": str(failed), "errors": "0", "skipped": "0"}


def _case(suite: ElementTree.Element, path: str, one: Verdict) -> None:
    case = ElementTree.SubElement(suite, "testcase", {"classname": printable(path), "name": printable(one.name)})
    if one.failure:
        failure = ElementTree.SubElement(case, "failure", {"message": printable(one.failure), "type": "threshold"})
        failure.text = printable(f"measured {one.measured}; wanted {one.wanted}")
    else:
        ElementTree.SubElement(case, "system-out").text = printable(f"measured {one.measured}; wanted {one.wanted}")
