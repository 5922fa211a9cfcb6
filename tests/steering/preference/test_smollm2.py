"""On the default model: a mood learned from single words shows after other prompts."""

import torch

from jackfield.steering import BEHAVIOURS
from jackfield.steering.matched import RandomDirections
from jackfield.steering.preference import BiPO

AT = "layers.26.resid_post"
PROMPTS = ["The garden is", "Our holiday was", "My brother is", "The soup was", "The concert was"]
GLAD = [" wonderful", " great", " happy", " lovely", " amazing"]
SAD = [" terrible", " awful", " sad", " horrible", " painful"]


def test_a_learned_mood_carries_over_and_reverses(smollm2):
    given = {"prompts": PROMPTS, "positive": GLAD, "negative": SAD, "at": AT}
    found = BiPO(epochs=4).fit(smollm2, **given)
    mood, prompts = BEHAVIOURS["sentiment"], BEHAVIOURS["sentiment"].prompts[:4]
    drawn = torch.randn(576, generator=torch.Generator().manual_seed(0))
    random = RandomDirections({AT: drawn * (0.2 * found.residual_norm / drawn.norm())})
    plain, more, less, other = (
        mood.odds(smollm2, edits, prompts=prompts)
        for edits in ((), found.edits("norm:0.2"), found.edits("norm:-0.2"), random.edits(1.0))
    )
    assert bool((more > plain).all())
    assert bool((less < plain).all())
    assert float((more - plain).mean()) > 3 * abs(float((other - plain).mean()))
