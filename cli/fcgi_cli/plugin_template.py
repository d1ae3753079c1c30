"""``fcgi-sctp plugins new NAME``: writes a plugin's folder that installs, tests and runs at once.

The folder is a copy of ``templates/plugin``, with NAME in the place of ``plugin_name``.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

__all__ = ["TEMPLATE", "write_plugin"]

TEMPLATE = Path(__file__).parent / "templates/plugin"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")


def write_plugin(name: str, where: Path) -> list[Path]:
    """Write the folder `where`/`name` and return its files. ValueError for an invalid name, FileExistsError."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(f"invalid plugin name {name!r}: use lower-case letters, digits and _, and begin with a letter")
    folder = where / name
    folder.mkdir(parents=True)
    written = []
    for template in sorted(path for path in TEMPLATE.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        path = folder / str(template.relative_to(TEMPLATE)).replace("plugin_name", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = template.read_text().replace("plugin_name", name).replace("plugin-name", name.replace("_", "-"))
        path.write_text(text.replace("PluginName", "".join(part.capitalize() for part in name.split("_"))))
        written.append(path)
    return written
