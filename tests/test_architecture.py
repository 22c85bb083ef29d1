"""Imports point downward only, and packages on one floor do not import each other (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "dllama"
FLOORS = {
    "cli": 7, "__main__": 8,
    "server": 6, "bench": 6,
    "engine": 5, "node": 5, "calibration": 5,
    "checkpoint": 4, "planner": 4,
    "families": 3, "answers": 3,
    "model": 2, "tokenizer": 2, "hub": 2,
    "kernels": 1, "formats": 1, "fabric": 1, "host": 1, "sharding": 1,
    "errors": 0, "dtypes": 0, "plain_text": 0, "_native": 0, "": 0,
}  # fmt: skip


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "dllama":
                names = [f"dllama.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name == "dllama" or name.startswith("dllama."):
                room = name.split(".")[1] if "." in name else ""
                rooms.add("" if room == "__version__" else room)
    return rooms


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_downward(path: Path) -> None:
    own = room_of(path)
    for room in imported_rooms(path) - {own}:
        assert FLOORS[room] < FLOORS[own], f"{path.relative_to(SOURCE)} (floor {FLOORS[own]}) imports {room}"


def test_every_room_has_a_floor() -> None:
    rooms = {path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= set(FLOORS), rooms - set(FLOORS)


def test_only_the_command_line_prints() -> None:
    for path in SOURCE.rglob("*.py"):
        if room_of(path) != "cli":
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
            assert "print" not in names, path
