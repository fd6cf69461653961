"""Reads JSON and YAML files, up to a size that is safe to parse."""

import json
from pathlib import Path
from typing import Any

from lorax.errors import LoraxError, reading

MOST_JSON, MOST_YAML = 8 << 20, 128 << 10  # bytes: cards have some hundred thousand, a .yaml a few thousand


def is_file(path: Path) -> bool:
    """Tell whether there is a file that may be looked at. A name that no file can have, as one that is too long, has none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_json(path: Path, kind: str, encoding: str = "utf-8") -> dict[str, Any]:
    """Read the JSON object in a file. Raises LoraxError, which names the file, if there is none."""
    with reading(path, kind):
        content = _read(path, MOST_JSON)
    return json_object(path, content, kind, encoding)


def json_object(path: Path, content: str | bytes, kind: str, encoding: str = "utf-8") -> dict[str, Any]:
    """Return the JSON object in ``content``, a part or the whole of the file at ``path``. Raises LoraxError if it is none."""
    if len(content) > MOST_JSON:
        raise _too_large(path, kind, len(content), MOST_JSON)
    with reading(path, kind, "It is not valid JSON: correct it, or download it again."):
        value = json.loads(content.decode(encoding) if isinstance(content, bytes) else content)
    if not isinstance(value, dict):
        raise LoraxError(f"{path}: cannot be read as {kind}: expected a JSON object.")
    return value


def read_yaml(path: Path, kind: str) -> Any:
    """Read the value in a YAML file. Raises LoraxError, which names the file, if it is damaged, too large or refers to itself."""
    with reading(path, kind, "Correct it, or remove it if the checkpoint is a standard one."):
        return _parse_yaml(_read(path, MOST_YAML).decode("utf-8"))


def _parse_yaml(text: str) -> Any:
    import yaml  # late, since most transfers read none

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """PyYAML's, without references: a few of them, each to the last, make a small file a huge one."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it holds references (*name), which are not read")
            return super().compose_node(parent, index)

    return yaml.load(text, Loader)


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most >> 10} kB, which none is")
    return content


def _too_large(path: Path, kind: str, size: int, most: int) -> LoraxError:
    return LoraxError(f"{path}: cannot be read as {kind}: {size >> 10} kB, and at most {most >> 10} kB are read.")
