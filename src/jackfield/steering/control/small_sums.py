"""Small sums in words: pairs of a concise and a verbose answer, and problems to be solved.

The pairs and the problems have no sum in common. A pair is one question with both answers as plain
text, so that both end in the same full stop. Problems are chats that ask and say nothing of length.
"""

from dataclasses import dataclass
from typing import Any

_VERBOSE = (
    "To solve this problem, we need to break it down step by step. First, we look at the two "
    "numbers, which are {a} and {b}. Then, we add {b} to {a}. This means that we count up from {a} "
    "by {b}. When we do this, we find that {a} + {b} = {c}. So, the answer is {c}.",
    "Let us think about this carefully. The question asks us to add {a} and {b}. Addition means "
    "that we put two amounts together. We start with {a}, and we put {b} to it. Step by step, we "
    "come to {c}. To check, {c} - {b} = {a}, which is what we had. So, the answer is {c}.",
    "First, let me understand the question. We have {a} of something. Next, we get {b} more. Now "
    "we have to find the total. The total is the sum of both, so we write {a} + {b}. Finally, we "
    "work it out, and we see that it is {c}. Therefore, after all these steps, the answer is {c}.",
)
_CONCISE = ("{a} + {b} = {c}.", "The answer is {c}.", "{c}.")
_ASKED = (
    "What is {a} + {b}?",
    "How much is {a} plus {b}?",
    "Tom has {a} apples and gets {b} more. How many apples does he have?",
    "There are {a} birds in a tree, and {b} more come. How many birds are there?",
)
_TAUGHT = (
    (2, 3), (4, 4), (6, 1), (3, 5), (7, 2), (5, 5), (8, 3), (9, 2), (4, 6), (1, 8), (6, 6), (2, 9),
    (12, 3), (10, 7), (11, 4), (5, 13), (3, 14), (15, 2), (20, 5), (6, 12), (13, 6), (8, 8),
    (9, 9), (16, 3),
)  # fmt: skip
_POSED = (
    (7, 5), (3, 4), (6, 2), (8, 1), (5, 4), (9, 3), (2, 6), (7, 7), (10, 4), (3, 8), (6, 5), (1, 9),
    (8, 4), (10, 10), (2, 5), (9, 6), (12, 5), (4, 7), (11, 2), (5, 8), (3, 3), (14, 1), (6, 9),
    (7, 8),
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A prompt and what its answer has to come to.

    Attributes:
        prompt: a text, a chat, or token ids [position].
        answer: a number, or words that have to be said.
    """

    prompt: Any
    answer: str


def _pairs(frames: tuple[str, ...]) -> tuple[str, ...]:
    """Each sum, asked in one way and answered in one frame."""
    made = []
    for index, (a, b) in enumerate(_TAUGHT):
        asked, answered = _ASKED[index % len(_ASKED)], frames[index % len(frames)]
        made.append(f"{asked.format(a=a, b=b)}\n{answered.format(a=a, b=b, c=a + b)}")
    return tuple(made)


CONCISE = _pairs(_CONCISE)
VERBOSE = _pairs(_VERBOSE)

SMALL_SUMS = tuple(
    Problem([{"role": "user", "content": _ASKED[index % len(_ASKED)].format(a=a, b=b)}], str(a + b))
    for index, (a, b) in enumerate(_POSED)
)
