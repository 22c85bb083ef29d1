"""What pages hold: a tree of texts, each node the tokens of one page after those of its parent.

So the way to a node stands for exactly one text, and a page is found by its tokens, not by a hash that might collide.
"""

from __future__ import annotations

import dataclasses
import weakref


@dataclasses.dataclass(eq=False)
class Node:
    """`above` is its parent, which holds it: a strong reference back would keep the tree when its owner is gone.

    `pages`: for each page group the page that holds the node's tokens, or None where none does any longer. Fewer
    tokens than a page's are a text's end. `n_texts` are at this node: what they seal next goes below it."""

    above: weakref.ref[Node] | None
    token_ids: tuple[int, ...]
    pages: list[int | None]
    children: dict[tuple[int, ...], Node] = dataclasses.field(default_factory=dict)
    n_texts: int = 0

    @property
    def parent(self) -> Node | None:
        return None if self.above is None else self.above()


class PageTrie:
    """Nodes by their tokens and by their pages. One that holds no page and leads to none is gone."""

    def __init__(self, n_groups: int) -> None:
        self._n_groups = n_groups
        self._node_of: list[dict[int, Node]] = [{} for _ in range(n_groups)]  # by page
        self.root = Node(None, (), [None] * n_groups)

    def holds(self, group: int, page: int) -> bool:
        return page in self._node_of[group]

    def below(self, parent: Node, token_ids: tuple[int, ...]) -> Node:
        """The node of these tokens after those of `parent`, made if there is none."""
        node = parent.children.get(token_ids)
        if node is None:
            node = parent.children[token_ids] = Node(weakref.ref(parent), token_ids, [None] * self._n_groups)
        return node

    def put(self, node: Node, group: int, page: int) -> None:
        """`page` holds the node's tokens from now on."""
        assert node.pages[group] is None
        node.pages[group] = page
        self._node_of[group][page] = node

    def forget(self, group: int, page: int) -> None:
        """`page` is about to hold something else."""
        node = self._node_of[group].pop(page)
        node.pages[group] = None
        self._prune(node)

    def remove(self, node: Node) -> list[int]:
        """Takes a node that leads nowhere out, for good; returns its pages, of which it has one in each group."""
        pages = [page for page in node.pages if page is not None]
        assert len(pages) == self._n_groups
        for group, page in enumerate(pages):
            self.forget(group, page)
        return pages

    def move(self, source: Node, target: Node) -> None:
        """A text goes from one node to another."""
        target.n_texts += 1
        source.n_texts -= 1
        self._prune(source)

    def _prune(self, node: Node) -> None:
        parent = node.parent
        while parent and not (node.children or node.n_texts or any(p is not None for p in node.pages)):
            del parent.children[node.token_ids]
            node, parent = parent, parent.parent
