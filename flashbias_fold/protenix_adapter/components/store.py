"""Components kept on disk, one small file for each, so that they are made once on a machine.

Files are gzip-compressed JSON: readable with `zcat`, checked by gzip's checksum, and nothing in them is
executed. A file is written beside its place and renamed into it, so processes may share a folder; one that
cannot be read back counts as missing and is written again. A folder that cannot be written to is only read.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import logging
import os
import re
import uuid
import zlib
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flashbias_fold.protenix_adapter.components.dictionary import Tables, dictionary_file
from flashbias_fold.protenix_adapter.components.molecules import Molecule

_LOG = logging.getLogger(__name__)

# Raise it when the content of the files changes, in form or in meaning.
_FORMAT = 1

# All codes of the dictionary are of this form. Nothing else ever becomes part of a path.
_CODE = re.compile(r"[A-Z0-9]{1,8}")

_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Component:
    """A component's definition and its reference molecule (None: no molecule can be made of it)."""

    code: str
    tables: Tables
    molecule: Molecule | None

    def to_bytes(self) -> bytes:
        """The content of the component's file."""
        molecule = self.molecule and asdict(self.molecule)
        if molecule:
            molecule["binary"] = base64.b64encode(molecule["binary"]).decode("ascii")
        return _pack({"code": self.code, "tables": self.tables, "molecule": molecule})

    @classmethod
    def from_bytes(cls, content: bytes) -> Component:
        """Read back what `to_bytes` gave; anything else raises one of `_UNREADABLE`."""
        fields = _unpack(content)
        molecule = fields["molecule"]
        if molecule is not None:
            binary = base64.b64decode(molecule.pop("binary"), validate=True)
            molecule = Molecule(binary=binary, **molecule)
        return cls(fields["code"], fields["tables"], molecule)


class ComponentStore:
    """The folder with the components of one version of the dictionary, built by one version of rdkit."""

    def __init__(self, cache_dir: Path | None = None) -> None:
        base = cache_dir or default_cache_dir()
        self._folder = base and base / "components" / _versions()
        self._is_writable = self._folder is not None

    @property
    def is_writable(self) -> bool:
        """False where there is no folder, and once a write has failed."""
        return self._is_writable

    def __str__(self) -> str:
        return str(self._folder or "none")

    def codes(self) -> list[str] | None:
        """The codes of the whole dictionary, if they were kept."""
        try:
            return _unpack(self._read("_codes"))["codes"]
        except _UNREADABLE:
            return None

    def keep_codes(self, codes: list[str]) -> None:
        """Keep the codes of the whole dictionary."""
        self._write("_codes", _pack({"codes": codes}))

    def has(self, code: str) -> bool:
        """Whether there is a file for this component, readable or not."""
        return self._path(_file_stem(code)).exists()

    def get(self, code: str) -> Component | None:
        """A component that was kept, or None."""
        try:
            component = Component.from_bytes(self._read(_file_stem(code)))
        except _UNREADABLE:
            return None
        return component if component.code == code else None

    def keep(self, component: Component) -> None:
        """Keep a component."""
        self._write(_file_stem(component.code), component.to_bytes())

    def _read(self, stem: str) -> bytes:
        return self._path(stem).read_bytes()

    def _path(self, stem: str) -> Path:
        if self._folder is None:
            raise FileNotFoundError("there is no cache folder")
        return self._folder / f"{stem}.json.gz"

    def _write(self, stem: str, content: bytes) -> None:
        if not self._is_writable:
            return
        path = self._path(stem)
        beside = path.with_name(f".{stem}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(content)
            beside.replace(path)
        except OSError as error:
            self._is_writable = False
            _LOG.warning("chemical components are not kept for the next run: %s", error)
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)


def default_cache_dir() -> Path | None:
    """$FLASHBIAS_FOLD_CACHE, or the user's cache folder; None where there is no home either."""
    if chosen := os.environ.get("FLASHBIAS_FOLD_CACHE"):
        return Path(chosen)
    # The XDG specification has relative paths ignored.
    if (xdg := os.environ.get("XDG_CACHE_HOME")) and Path(xdg).is_absolute():
        return Path(xdg, "flashbias-fold")
    try:
        return Path.home() / ".cache" / "flashbias-fold"
    except RuntimeError:
        return None


def _versions() -> str:
    """All that the content of the files depends on, as a folder name."""
    # biotite can be told to replace its dictionary by a newer one: its size tells.
    dictionary = f"{version('biotite')}-{dictionary_file().stat().st_size}"
    return f"v{_FORMAT}-biotite-{dictionary}-rdkit-{version('rdkit')}-pdbeccdutils-{version('pdbeccdutils')}"


def _file_stem(code: str) -> str:
    if not _CODE.fullmatch(code):
        raise ValueError(f"no code of a component: {code!r}")
    return code


def _pack(content: dict[str, Any]) -> bytes:
    # mtime=0: the same component gives the same bytes.
    return gzip.compress(json.dumps(content, separators=(",", ":")).encode(), compresslevel=6, mtime=0)


def _unpack(content: bytes) -> dict[str, Any]:
    return json.loads(gzip.decompress(content))
