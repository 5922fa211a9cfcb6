"""Columns: blocks beside one another; and what a list of blocks may hold."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jackfield.core.errors import InputError, explain
from jackfield.reports.block import Block, Row, fields_json, put


@dataclass(frozen=True, repr=False)
class Columns(Block, kind="columns"):
    """Blocks beside one another where there is room, else below one another.

    Attributes:
        blocks: of equal width.
    """

    blocks: Sequence[Block]

    def __post_init__(self) -> None:
        put(self, blocks=checked_blocks(self.blocks, where="Columns"))

    def html(self, level: int) -> str:
        """A row that wraps."""
        cells = "".join(f"<div>{block.html(level)}</div>" for block in self.blocks)
        return f"<div class=jf-columns>{cells}</div>"

    @property
    def text(self) -> str:
        """One below the other."""
        return "\n\n".join(block.text for block in self.blocks)

    @property
    def rich(self) -> Any:
        """Side by side as the terminal allows."""
        from rich.columns import Columns as RichColumns

        return RichColumns([block.rich for block in self.blocks], padding=(0, 3))

    @property
    def table(self) -> list[Row]:
        """That of the first block that has one."""
        return first_table(self.blocks)

    def to_json(self) -> dict[str, Any]:
        """The blocks."""
        return fields_json(self)


def checked_blocks(blocks: Any, *, where: str) -> tuple[Block, ...]:
    """`blocks` as a tuple.

    Raises:
        InputError: something in it is not a block.
    """
    if isinstance(blocks, Block):
        expected = "a list of blocks"
        raise InputError(explain(where=where, expected=expected, got=f"one {blocks.kind}"))
    blocks = tuple(blocks)
    for i, block in enumerate(blocks):
        if not isinstance(block, Block):
            hint = "Wrap a string in Text(...)." if isinstance(block, str) else None
            raise InputError(
                explain(
                    where=f"{where}, block {i}",
                    expected="a Block (Text, Table, HeatMap, …) or a Report",
                    got=f"a {type(block).__name__}",
                    hint=hint,
                )
            )
    return blocks


def walk(blocks: Iterable[Block]) -> Iterator[Block]:
    """Every block, those inside others too, in the order in which they are shown."""
    for block in blocks:
        yield block
        yield from walk(getattr(block, "blocks", ()))


def first_table(blocks: Sequence[Block]) -> list[Row]:
    """The rows of the first Table, else of the first block that has rows."""
    leaves = [block for block in walk(blocks) if not hasattr(block, "blocks")]
    leaves.sort(key=lambda block: block.kind != "table")
    return next((rows for block in leaves if (rows := block.table)), [])
