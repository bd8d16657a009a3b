"""The result of a gate as a JUnit file, which services of continuous integration show."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from gsr_core.comparing.gate import Gate, Result
from gsr_core.files import replace_file

__all__ = ["write_junit"]

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write."""


def write_junit(gate: Gate, file: Path) -> None:
    """Write a test case for each check, to a whole file that replaces one that is there.

    What has too few rows is a failure, or skipped where the gate lets it pass.

    Args:
        gate: What was checked.
        file: Where; its directory must be there.

    Raises:
        OSError: If it cannot be written.
    """
    few = "skipped" if gate.allow_few else "failure"
    kinds = {Result.FAIL: "failure", Result.FEW: few}
    ended = [kinds.get(line.result, "") for line in gate.lines]
    suite = ElementTree.Element(
        "testsuite",
        name=_text(f"gsr check {gate.run}"),
        tests=str(len(gate.lines)),
        failures=str(ended.count("failure")),
        errors="0",
        skipped=str(ended.count("skipped")),
    )
    for line, kind in zip(gate.lines, ended, strict=True):
        case = ElementTree.SubElement(
            suite, "testcase", classname=_text(gate.bundle), name=_text(line.title)
        )
        if kind:
            ElementTree.SubElement(case, kind, message=_text(line.reason), type=str(line.result))
        else:
            ElementTree.SubElement(case, "system-out").text = _text(line.reason)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    with replace_file(file) as temporary:
        ElementTree.ElementTree(suites).write(temporary, encoding="utf-8", xml_declaration=True)


def _text(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)
