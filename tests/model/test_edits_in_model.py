"""Edits that read other sites, hold state, or own parameters: one of each, and their bounds."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from jackfield import edits as E
from jackfield.core.errors import BusyError, EditError, SiteError


class TestReading:
    def test_an_edit_sees_another_site_of_the_same_forward(self, tiny, tokens):
        """The MLP's output becomes the attention's: by an edit that reads, and by hand."""
        edit = E.Function(
            lambda x, context: context.read("layers.1.attn_out"),
            at="layers.1.mlp_out",
            reads=["layers.1.attn_out"],
        )
        run = tiny.run(tokens, edits=[edit], sites=["layers.1.mlp_out", "layers.1.attn_out"])
        assert torch.equal(run["layers.1.mlp_out"], run["layers.1.attn_out"])
        clean = tiny.run(tokens, sites="layers.1.attn_out")["layers.1.attn_out"]
        by_hand = tiny.run(tokens, edits=[E.Replace(clean, at="layers.1.mlp_out")])
        assert torch.equal(run.logits, by_hand.logits)

    def test_it_sees_what_earlier_edits_left_there(self, tiny, tokens):
        v = torch.randn(32)
        edits = [
            E.Function(
                lambda x, context: context.read("layers.0.mlp_out"),
                at="layers.1.mlp_out",
                reads=["layers.0.mlp_out"],
            ),
            E.Add(v, at="layers.0.mlp_out"),
        ]
        run = tiny.run(tokens, edits=edits, sites=["layers.*.mlp_out"])
        clean = tiny.run(tokens, sites="layers.0.mlp_out")["layers.0.mlp_out"]
        assert torch.equal(run["layers.1.mlp_out"], clean + v)

    def test_attention_and_selections_can_be_read(self, tiny, tokens):
        seen = {}

        def note(x, context):
            for name in ("layers.0.pattern[head=1]", "layers.0.v", "embed"):
                seen[name] = context.read(name)
            return x

        names = ["layers.0.pattern[head=1]", "layers.0.v", "embed"]
        tiny.run(tokens, edits=[E.Function(note, at="layers.1.z", reads=names)])
        run = tiny.run(tokens, sites=names)
        assert all(torch.equal(seen[name], run[name]) for name in names)

    def test_what_is_read_is_the_edits_own(self, tiny, tokens):
        def writes(x, context):
            return x + context.read("layers.0.mlp_out").zero_()

        edit = E.Function(writes, at="layers.1.z[head=0,unit=0]", reads=["layers.0.mlp_out"])

        def fits(x, context):
            return x + 0 * writes(x[..., None], context)[..., 0]

        edit = E.Function(fits, at="layers.1.mlp_out[unit=0]", reads=["layers.0.mlp_out"])
        run = tiny.run(tokens, edits=[edit], sites=["layers.0.mlp_out"])
        clean = tiny.run(tokens, sites=["layers.0.mlp_out"])
        assert torch.equal(run["layers.0.mlp_out"], clean["layers.0.mlp_out"])

    def test_gradients_pass_through_what_was_read(self, tiny64, tokens):
        edit = E.Function(
            lambda x, context: x * context.read("layers.0.attn_out").tanh(),
            at="layers.1.mlp_out",
            reads=["layers.0.attn_out"],
        )
        name = "layers.0.attn_out"
        run = tiny64.run(tokens, edits=[edit], sites=[name], grad=True)
        got = run.gradients(run.logits.sin().sum())[name]
        step = 1e-4 * torch.randn_like(got)
        ends = [
            tiny64.run(tokens, edits=[E.Add(sign * step, at=name), edit]).logits.sin().sum()
            for sign in (1, -1)
        ]
        # the norms of this model are float32 inside
        assert torch.allclose((ends[0] - ends[1]) / 2, (got * step).sum(), rtol=1e-3)

    def test_a_site_later_in_the_forward_is_refused(self, tiny, tokens):
        edit = E.Function(
            lambda x, context: context.read("layers.2.mlp_out"),
            at="layers.1.mlp_out",
            reads=["layers.2.mlp_out"],
        )
        for _ in range(2):
            with pytest.raises(EditError, match="that comes earlier in the forward"):
                tiny.run(tokens, edits=[edit])
        with tiny.editing([edit]):
            for _ in range(2):  # the second time it must not be the value of the first
                with pytest.raises(EditError, match="that comes earlier in the forward"):
                    tiny.module(tokens)

    def test_a_site_that_is_not_listed_or_unknown_is_refused(self, tiny, tokens):
        def read(x, context):
            return context.read("layers.0.mlp_out")

        with pytest.raises(EditError, match=r"listed in its reads.* got layers\.0\.mlp_out"):
            tiny.run(tokens, edits=[E.Function(read, at="layers.1.mlp_out")])
        with pytest.raises(SiteError, match=r"Did you mean layers\.0\.mlp_out"):
            tiny.run(tokens, edits=[E.Function(read, at="layers.1.z", reads=["layers.0.mlp_uot"])])


@dataclass(frozen=True, eq=False, repr=False)
class RunningMean(E.Edit):
    """Subtracts the mean of all tokens of the row so far: an edit that remembers."""

    stateful: ClassVar[bool] = True

    def apply(self, x: Tensor, context: E.Context) -> Tensor:
        before = context.state.get("sum", torch.zeros_like(x[:, :1])), context.state.get("count", 0)
        sums = before[0] + x.cumsum(1)
        counts = before[1] + torch.arange(1, x.shape[1] + 1).reshape(1, -1, 1)
        context.state.update(sum=sums[:, -1:], count=before[1] + x.shape[1])
        return x - sums / counts


class TestCallingTheModel:
    """From inside an edit its parts may be called, and not the whole."""

    def test_parts_may(self, tiny, tokens):
        def lens(x, context):
            return x + 0 * tiny.module.lm_head(tiny.module.model.norm(x)).sum()

        edit = E.Function(lens, at="layers.1.resid_post")
        assert torch.equal(tiny.run(tokens, edits=[edit]).logits, tiny.run(tokens).logits)

    @pytest.mark.parametrize("site", ["layers.1.resid_post", "layers.1.mlp_out", "logits"])
    def test_the_whole_may_not(self, site, tiny, tokens):
        calls = [lambda: tiny.run(tokens), lambda: tiny.module(tokens)]
        for call in calls:
            edit = E.Function(lambda x, context, call=call: (call(), x)[1], at=site)
            with pytest.raises(BusyError, match="no call of the whole model from inside an edit"):
                tiny.run(tokens, edits=[edit])
            with tiny.editing([edit]):
                for _ in range(2):
                    with pytest.raises(BusyError, match="from inside an edit"):
                        tiny.module(tokens)

    def test_after_a_call_that_failed_the_next_one_goes_well(self, tiny, tokens):
        fails = [True]

        def once(x, context):
            if fails:
                fails.clear()
                raise ZeroDivisionError
            return x

        with tiny.editing([E.Function(once, at="layers.1.z")]), torch.no_grad():
            with pytest.raises(ZeroDivisionError):
                tiny.module(tokens)
            assert torch.equal(tiny.module(tokens).logits, tiny.run(tokens).logits)


class TestState:
    def test_it_lasts_a_sequence_and_no_longer(self, tiny, tokens):
        edits = [RunningMean(at="layers.1.resid_post")]
        cached, whole = (
            tiny.generate(tokens, edits=edits, max_new_tokens=6, cache=cache, logits=True)
            for cache in ("dynamic", "none")
        )
        assert torch.allclose(cached.logits, whole.logits, atol=1e-4)
        again = tiny.generate(tokens, edits=edits, max_new_tokens=6, logits=True)
        assert torch.equal(again.logits, cached.logits)

    def test_each_run_and_each_call_in_a_block_begins_anew(self, tiny, tokens):
        edits = [RunningMean(at="layers.1.resid_post")]
        expected = tiny.run(tokens, edits=edits).logits
        assert torch.equal(tiny.run(tokens, edits=edits).logits, expected)
        with tiny.editing(edits), torch.no_grad():
            for _ in range(2):
                assert torch.equal(tiny.module(tokens).logits, expected)

    def test_each_site_and_each_edit_has_its_own(self, tiny, tokens):
        seen = []

        @dataclass(frozen=True, eq=False, repr=False)
        class Counts(E.Edit):
            stateful: ClassVar[bool] = True

            def apply(self, x, context):
                context.state["n"] = context.state.get("n", 0) + 1
                seen.append(context.state["n"])
                return x

        tiny.run(tokens, edits=[Counts(at="layers.*.z"), Counts(at="layers.*.z")])
        assert seen == [1] * 6

    def test_noise_differs_between_layers(self, tiny, tokens):
        added = []
        for layer in (0, 1):
            name = f"layers.{layer}.mlp_out"
            clean = tiny.run(tokens, sites=name)[name]
            noisy = tiny.run(tokens, sites=name, edits=[E.Noise(1.0, at="layers.*.mlp_out")])
            if layer == 0:
                added.append(noisy[name] - clean)
            else:
                base = tiny.run(tokens, sites=name, edits=[E.Noise(1.0, at="layers.0.mlp_out")])
                added.append(noisy[name] - base[name])
        assert not torch.allclose(added[0], added[1], atol=0.1)


class TestParameters:
    def test_a_steering_vector_trains_in_plain_runs(self, tiny, tokens):
        """A vector at one layer learns to make one token likely; the model learns nothing."""
        vector = nn.Parameter(torch.zeros(32))
        edit = E.Add(vector, at="layers.1.resid_post", where="last")
        weights = {n: p.detach().clone() for n, p in tiny.module.named_parameters()}
        optimizer = torch.optim.Adam([vector], lr=0.2)
        losses = []
        for _ in range(25):
            run = tiny.run(tokens, edits=[edit], grad=True)
            loss = -run.logits[:, -1].log_softmax(-1)[:, 42].mean()
            optimizer.zero_grad()
            (vector.grad,) = torch.autograd.grad(loss, [vector])
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]
        after = tiny.run(tokens, edits=[edit]).logits[:, -1].argmax(-1)
        assert after.tolist() == [42, 42]
        assert all(torch.equal(p, weights[n]) for n, p in tiny.module.named_parameters())

    def test_several_kinds_of_edit_train_at_once(self, tiny, tokens):
        edits = [
            E.Scale(nn.Parameter(torch.ones(8)), at="layers.0.z"),
            E.Affine(
                nn.Parameter(torch.eye(32)), nn.Parameter(torch.zeros(32)), at="layers.1.mlp_out"
            ),
            E.Project(nn.Parameter(torch.randn(1, 32)), at="layers.2.resid_pre"),
        ]
        parameters = [p for edit in edits for p in edit.parameters()]
        assert len(parameters) == 4
        run = tiny.run(tokens, edits=edits, grad=True)
        gradients = torch.autograd.grad(run.logits.sin().sum(), parameters)
        assert all(gradient.abs().max() > 0 for gradient in gradients)

    def test_without_grad_they_are_only_numbers(self, tiny, tokens):
        edit = E.Add(nn.Parameter(torch.ones(32)), at="layers.1.resid_post")
        assert not tiny.run(tokens, edits=[edit]).logits.requires_grad
        assert not tiny.generate(
            tokens, edits=[edit], max_new_tokens=1, logits=True
        ).logits.requires_grad
