"""A report as a file: a page for people, or a model card, by its ending."""

from __future__ import annotations

from pathlib import Path

from gsr_core.errors import SettingError
from gsr_core.files import disk_full, replace_file
from gsr_core.reports.card import as_card
from gsr_core.reports.facts import Report
from gsr_core.reports.html import as_html

__all__ = ["ENDINGS", "check_report_file", "encode_report", "write_report"]

ENDINGS = {".html": as_html, ".md": as_card}
"""What a file with an ending holds."""


def check_report_file(path: Path) -> None:
    """Check that a report can be written to a file.

    Raises:
        SettingError: If the file exists or its ending is none of `ENDINGS`.
    """
    if path.suffix.lower() not in ENDINGS:
        raise SettingError(
            f"'{path.name}' ends in '{path.suffix}'; a report is written as .html, its model card "
            "as .md"
        )
    if path.exists():
        raise SettingError(f"{path} exists already; give a file that does not")


def encode_report(report: Report, ending: str) -> bytes:
    """Return a report as the content of a file with one of `ENDINGS`.

    Raises:
        SettingError: If it is a model card of several settings.
    """
    return ENDINGS[ending](report).encode()


def write_report(report: Report, path: Path) -> None:
    """Write a report to a new file, as a page or a model card by its ending: whole, or not at all.

    Raises:
        SettingError: If the file exists, its ending is another, or it is a model card of several
            settings.
        DiskFullError: If there is no room for it.
    """
    check_report_file(path)
    content = encode_report(report, path.suffix.lower())
    path.resolve().parent.mkdir(parents=True, exist_ok=True)
    with disk_full(str(path)), replace_file(path.resolve()) as temporary:
        temporary.write_bytes(content)
