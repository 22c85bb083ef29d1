"""Which pages of the KV cache are free. The same numbers hold on every node."""

from __future__ import annotations

from dllama.errors import ContextFullError


class PagePool:
    """Hands out page numbers, lowest first."""

    def __init__(self, n_pages: int) -> None:
        self._free = list(range(n_pages - 1, -1, -1))

    @property
    def n_free(self) -> int:
        return len(self._free)

    def take(self, n: int) -> list[int]:
        """`n` pages. Raises ContextFullError, and takes none, when fewer are free."""
        if n > len(self._free):
            raise ContextFullError(
                f"the KV cache has {len(self._free)} free pages and {n} are needed; "
                f"start again with a larger --max-seq-len"
            )
        return [self._free.pop() for _ in range(n)]

    def give_back(self, pages: list[int]) -> None:
        self._free.extend(reversed(pages))
