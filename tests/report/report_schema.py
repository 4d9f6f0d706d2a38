"""`docs/compare.schema.json`, and where a report is not as it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "compare.schema.json").read_text())


def faults(report: Any) -> list[str]:
    """Place and broken rule of each, such as `report.methods[0].bias: enum`."""
    errors = Draft202012Validator(SCHEMA).iter_errors(report)
    return [f"report{error.json_path[1:]}: {error.validator}" for error in errors]
