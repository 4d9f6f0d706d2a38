"""What every page has: a policy that lets nothing in or out, tables in frames, and lists of what ran."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from string import Template
from typing import Any

from flashbias_fold.report.markup import data, text


def document(template: str, *, style: str, script: str, **parts: str) -> str:
    """A page of one file, by its template."""
    policy = _policy(style, script)
    return Template(template).substitute(policy=policy, style=style, script=script, **parts)


def _policy(style: str, script: str) -> str:
    """Nothing may be fetched, and of styles and scripts only the page's own run."""
    return (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def framed(caption: str, inner: str, kind: str) -> str:
    """A table that is moved sideways in its own frame where the screen is narrow."""
    return (
        f'<p class="caption">{text(caption)}</p>'
        f'<div class="frame" role="region" tabindex="0" aria-label="{text(caption)}">'
        f'<table class="{kind}" aria-label="{text(caption)}">{inner}</table></div>'
    )


def listed(pairs: Mapping[str, Any]) -> str:
    """Names with their values, of which those that are unknown are left out."""
    lines = [
        f"<li>{text(key)} <strong>{_plain(value)}</strong></li>"
        for key, value in pairs.items()
        if value is not None
    ]
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def _plain(value: str | float) -> str:
    return text(value) if isinstance(value, str) else data(value, lambda number: f"{number:g}")
