"""What a guarded generation gives: the texts, the scores behind them, and who fired when."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.study import Result
from jackfield.reports import Lines, Report, Table

_SHOWN = 8  # rows in the picture
_SHORT = 60  # characters


@dataclass(frozen=True)
class Guarded(Result):
    """A generation under a guard.

    Attributes:
        prompts: the prompts as text.
        texts: the new text of each row, to its end of sequence or to where it was stopped.
        tokens: [batch, step] new ids, padded after a row's end.
        scores: [batch, step]; step 0 is the prompt's, and the last is read from the text's last
            token but one. NaN after a row's end.
        fired_at: the step at which each row fired, None if it did not.
        threshold: of the score.
        action: what was done with rows that fired.
    """

    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    tokens: Int[Tensor, "batch step"]
    scores: Float[Tensor, "batch step"]
    fired_at: tuple[int | None, ...]
    threshold: float
    action: str

    @property
    def fired(self) -> tuple[bool, ...]:
        """Which rows fired."""
        return tuple(each is not None for each in self.fired_at)

    @property
    def highest(self) -> Float[Tensor, "batch"]:  # noqa: F821
        """The highest score of each row; NaN where there is none.

        Of benign prompts, these are what a threshold for whole generations is set on.
        """
        top = self.scores.nan_to_num(nan=-torch.inf).amax(dim=1)
        return top.masked_fill(self.scores.isnan().all(dim=1), torch.nan)

    def report(self) -> Report:
        """The scores token by token beside the threshold, and what became of each row."""
        steps = self.scores.shape[1]
        series = {
            f"row {index}": [float(x) for x in row]
            for index, row in enumerate(self.scores[:_SHOWN])
        }
        if abs(self.threshold) != torch.inf:
            series["threshold"] = [self.threshold] * steps
        lines = Lines(range(steps), series, x_title="tokens after the prompt", y_title="score")
        rows = [
            [index, _end(prompt), _short(text), at, None if score.isnan() else float(score)]
            for index, (prompt, text, at, score) in enumerate(
                zip(self.prompts, self.texts, self.fired_at, self.highest, strict=True)
            )
        ]
        table = Table(["row", "prompt", "text", "fired at", "highest score"], rows)
        done = {"stop": "stopped", "steer": "steered from there on", "log": "noted"}[self.action]
        summary = f"{sum(self.fired)} of {len(self.texts)} rows passed {self.threshold:.3g}" + (
            f" and were {done}." if any(self.fired) else "."
        )
        return Report("Guard", [lines, table], summary=summary)

    def __repr__(self) -> str:
        pairs = zip(self.prompts, self.texts, self.fired_at, strict=True)
        return "\n\n".join(
            f"{prompt}⟶{text}" + ("" if at is None else f"⟶[fired at {at}: {self.action}]")
            for prompt, text, at in pairs
        )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHORT else line[: _SHORT - 1] + "…"


def _end(text: str) -> str:
    """A prompt's end tells it from the others; a chat's begins with the system's words."""
    line = " ".join(text.split())
    return line if len(line) <= _SHORT else "…" + line[1 - _SHORT :]
