"""What is done to a good file: bits, lengths, headers, structures, shapes, types, offsets, names and values."""

from __future__ import annotations

import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Mutator = Callable[[Path, random.Random], None]
DTYPES = [
    "F16",
    "F32",
    "BF16",
    "F64",
    "I8",
    "I32",
    "I64",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "U16",
    "C64",
    "F4",
    "F6_E2M3",
    "F8_E8M0",
    "?",
]
NUMBERS: list[Any] = [0, -1, 1, 2, 3, 5, 1 << 31, 1 << 62, 1 << 64, 10**400, 1.5, float("inf"), float("nan"), -0.0, 1e300]
TEXTS = [
    "",
    " ",
    "\0",
    "..",
    "/etc/passwd",
    "\ud800",
    "\x1b[2J",
    "é" * 300,
    "x" * 100_000,
    "9" * 6000,
    "((.+)+)+!",
    "a{99999999999}",
]
ODD = [*NUMBERS, *TEXTS, None, True, [], {}, [[]], {"": {}}]
ENDS = [
    ".lora_up.weight",
    ".lora_mid.weight",
    ".alpha",
    ".dora_scale",
    ".diff",
    ".oft_blocks",
    ".hada_w1_a",
    ".lokr_t2",
    ".on_input",
    ".w_norm",
]
YAML_VALUES = [
    ".inf",
    "-.inf",
    ".nan",
    "9" * 5000,
    "1e400",
    "[" * 3000,
    "{a: " * 500,
    "&a [*a]",
    "*b",
    "!!python/object:os.system x",
    "~",
    "0",
    "-4",
    "2099-99-99",
    "1:" * 400 + "1",
]


def flip_bits(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    near = chance.choice([16, 256, 4096, len(content)])
    for _ in range(chance.choice([1, 1, 2, 8, 64])):
        if content:
            content[chance.randrange(min(near, len(content)))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.choice([0, 1, 7, 8, 9, chance.randrange(len(content) + 1), max(0, len(content) - 1)])])


def lengthen(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    more = chance.choice([b"\0", b"\xff" * 9, content[:100], bytes(chance.randrange(256) for _ in range(50))])
    path.write_bytes(content + more if chance.random() < 0.5 else more + content)


def change_size(path: Path, chance: random.Random) -> None:
    """The first eight bytes, which hold the length of a safetensors header."""
    content = path.read_bytes()
    length = chance.choice(
        [0, 1, 2, 100, len(content), len(content) - 8, 1 << 27, 1 << 40, (1 << 64) - 1, chance.randrange(1 << 20)]
    )
    path.write_bytes(struct.pack("<Q", max(0, length)) + content[8:])


def _header(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _write(path: Path, header: Any, body: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def change_entries(path: Path, chance: random.Random) -> None:
    """Shapes, types and offsets of some tensors, in a header that is otherwise right."""
    header, body = _header(path)
    keys = [key for key in header if key != "__metadata__"]
    for key in chance.choices(keys, k=chance.choice([1, 1, 2, 4])):
        entry = header[key]
        what, shape = chance.randrange(5), entry["shape"]
        if what == 0:
            entry["dtype"] = chance.choice(DTYPES)
        elif what == 1:
            sizes = [[], [0], [1, *shape], [*shape, 1, 1], shape[1:], shape[::-1], [*shape, 0], [1 << 40, *shape], [1 << 62, 4]]
            entry["shape"] = chance.choice(sizes)
        elif what == 2:
            entry["data_offsets"] = [offset + chance.choice([-8, -4, 0, 4, 1 << 40]) for offset in entry["data_offsets"]]
        elif what == 3:
            other = header[chance.choice(keys)]
            entry["shape"], other["shape"] = other["shape"], entry["shape"]
        else:
            entry[chance.choice(["dtype", "shape", "data_offsets", "more"])] = chance.choice(ODD)
    _write(path, header, body)


def empty_tensors(path: Path, chance: random.Random) -> None:
    """Tensors whose shape and bytes fit, but which have other sizes: none, one number, a vector."""
    state = load_file(path)
    for key in chance.choices(list(state), k=chance.choice([1, 2, 3])):
        tensor = state[key]
        kinds = [
            torch.zeros(()),
            torch.zeros(0),
            torch.zeros(0, 4),
            tensor.flatten()[:1],
            tensor.flatten(),
            tensor[None],
            tensor.reshape(1, -1),
        ]
        state[key] = chance.choice(kinds).contiguous()
    save_file({key: value.clone() for key, value in state.items()}, path, _metadata(path))


def change_values(path: Path, chance: random.Random) -> None:
    state = load_file(path)
    for key in chance.choices(list(state), k=chance.choice([1, 1, 3, len(state)])):
        tensor = state[key]
        what = chance.choice(
            [0.0, 1e-40, 1e18, 1e30, -3e38, float("nan"), float("inf"), "zero", "complex", "int", "double", "half"]
        )
        if what == "zero":
            state[key] = torch.zeros_like(tensor)
        elif isinstance(what, str):
            kind = {"complex": torch.complex64, "int": torch.int32, "double": torch.float64, "half": torch.float16}[what]
            state[key] = tensor.real.to(kind) if tensor.is_complex() else tensor.to(kind)
        elif tensor.is_floating_point() and tensor.numel():
            state[key] = tensor.clone().contiguous()
            state[key].view(-1)[chance.randrange(tensor.numel())] = what
    save_file(state, path, _metadata(path))


def _metadata(path: Path) -> dict[str, str]:
    return {key: value for key, value in _header(path)[0].get("__metadata__", {}).items() if isinstance(value, str)}


def change_keys(path: Path, chance: random.Random) -> None:
    """Names of tensors: other layers', other parts', endless ones, and what no terminal should print."""
    header, body = _header(path)
    keys = [key for key in header if key != "__metadata__"]
    for key in chance.sample(keys, min(len(keys), chance.choice([1, 1, 2, 5]))):
        head, _, end = key.partition(".")
        new = chance.choice(
            [
                *TEXTS,
                key + ".weight",
                end,
                "." + end,
                head + chance.choice(ENDS),
                key.replace("0", "9" * 30),
                key.replace("_", "."),
                key.upper(),
            ]
        )
        new = new if chance.random() < 0.6 else new + "." + end
        header[new.encode(errors="replace").decode() if chance.random() < 0.9 else new] = header.pop(key)
    _write(path, header, body)


def leave_out(path: Path, chance: random.Random) -> None:
    state, described = load_file(path), _metadata(path)
    for key in chance.sample(list(state), min(len(state) - 1, chance.choice([1, 2, len(state) // 2]))):
        del state[key]
    save_file(state, path, described)


def change_metadata(path: Path, chance: random.Random) -> None:
    header, body = _header(path)
    described = header.setdefault("__metadata__", {})
    names = [
        *described,
        "lorax_format",
        "lora_adapter_metadata",
        "ss_base_model_version",
        "modelspec.architecture",
        "lorax_settings",
        "ss_tag_frequency",
    ]
    values = [
        *TEXTS,
        "1",
        "2",
        "-1",
        "null",
        "[]",
        "{}",
        "[" * 5000,
        '{"a":' * 5000,
        "NaN",
        "1" * 5000,
        '{"r": 1e999}',
        '{"lora_alpha": "x"}',
    ]
    for _ in range(chance.choice([1, 1, 2])):
        described[chance.choice(names)] = chance.choice(values if chance.random() < 0.9 else ODD)
    for key in [key for key in described if chance.random() < 0.1]:
        del described[key]
    _write(path, header, body)


def change_json(path: Path, chance: random.Random) -> None:
    """Something else at a place in the structure, or in the text of it."""
    value = json.loads(path.read_text())
    for _ in range(chance.choice([1, 1, 2, 3])):
        holder, key = _place(value, chance)
        what = chance.randrange(4)
        if holder is None:
            value = chance.choice(ODD)
        elif what == 0 and isinstance(holder, dict):
            holder[chance.choice(TEXTS)] = holder.pop(key)
        elif what == 1:
            holder[key] = [holder[key]] * chance.choice([1, 3, 1000])
        else:
            holder[key] = chance.choice(ODD)
    text = json.dumps(value)
    if chance.random() < 0.3:
        text = chance.choice(
            [
                "[" * 100_000,
                '{"a":' * 50_000,
                text[:-1],
                "\ufeff" + text,
                text.replace('"', "'"),
                "1" * 6000,
                text + " " * (9 << 20),
            ]
        )
    path.write_text(text)


def _place(value: Any, chance: random.Random) -> tuple[Any, Any]:
    holder, key = None, None
    while isinstance(value, dict | list) and value and chance.random() < 0.8:
        holder, key = value, chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value = holder[key]
    return holder, key


def change_yaml(path: Path, chance: random.Random) -> None:
    lines = path.read_text().splitlines()
    for _ in range(chance.choice([1, 1, 2])):
        line = chance.randrange(len(lines))
        head, _, _ = lines[line].partition(":")
        lines[line] = chance.choice(
            [f"{head}: {chance.choice(YAML_VALUES)}", "", head, "  " + lines[line], f"? {head}", "\t" + lines[line]]
        )
    text = "\n".join(lines)
    if chance.random() < 0.2:
        bomb = "a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(9))
        text = chance.choice([bomb + text, text + "\n#" * (1 << 20), "[" * 50_000, "- " * 20_000, "\0" + text])
    path.write_text(text)


def repickle(path: Path, chance: random.Random) -> None:
    """Tensors that a pickle can hold and a safetensors file cannot, and what is no tensor at all."""
    state = torch.load(path, weights_only=True)
    inner = state.get("state_dict", state)
    for key in chance.choices(list(inner), k=chance.choice([1, 2, 4])):
        tensor, old = inner[key], chance.randrange(10)
        kinds: list[Any] = [
            tensor.to(torch.complex64), tensor.to_sparse(), tensor.flatten()[:1].expand(1 << 34), tensor.bool(),
            tensor.mT if tensor.dim() > 1 else tensor, torch.zeros(()), torch.zeros(0), torch.nn.Parameter(tensor), None,
            tensor.to("meta"), [tensor], {key: tensor}, "text", 7,
        ]  # fmt: skip
        inner[chance.choice([key, key, f"{key}.", "x" * 100_000]) if old else 5] = chance.choice(kinds)
    torch.save(state if chance.random() < 0.9 else [state], path, _use_new_zipfile_serialization=chance.random() < 0.7)


def rezip(path: Path, chance: random.Random) -> None:
    """The records of the zip: packed, left out, emptied, renamed or twice."""
    with zipfile.ZipFile(path) as file:
        records = [(name, file.read(name)) for name in file.namelist()]
    packed = chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(path, "w", packed) as file:
        odd = chance.randrange(len(records))
        for number, (name, content) in enumerate(records):
            what = chance.randrange(5) if number == odd else 9
            if what == 0:
                continue
            file.writestr(
                "../" + name if what == 1 else name, b"" if what == 2 else content[: len(content) // 2] if what == 3 else content
            )


ANY: list[Mutator] = [flip_bits, cut, lengthen]
COMMON: list[Mutator] = [change_entries, empty_tensors, change_values, change_keys]
OF = {
    ".safetensors": [*ANY, change_size, leave_out, change_metadata, *2 * COMMON],
    ".json": [flip_bits, cut, change_json, change_json, change_json],
    ".info": [flip_bits, cut, change_json, change_json, change_json],
    ".yaml": [flip_bits, cut, change_yaml, change_yaml, change_yaml],
    ".png": ANY,
    **{end: [*ANY, repickle, repickle, repickle, rezip] for end in (".pt", ".bin", ".ckpt")},
}  # fmt: skip


def mutate(folder: Path, chance: random.Random) -> str:
    """Change one of the files in the folder, once or twice; return what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    small = [path for path in files if path.suffix in (".json", ".info", ".yaml")]
    path = chance.choice(small) if small and chance.random() < 0.6 else chance.choice(files)
    done = []
    for _ in range(chance.choice([1, 1, 1, 2])):
        mutator = chance.choice(OF[path.suffix])
        try:
            mutator(path, chance)
            done.append(mutator.__name__)
        except Exception:  # of what the first one left, the second can make nothing
            flip_bits(path, chance)
            done.append("flip_bits")
    return f"{path.relative_to(folder)}: {', '.join(done)}"
