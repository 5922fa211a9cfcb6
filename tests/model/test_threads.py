"""Two threads: each with its own model, or both with one."""

import copy
import threading

import pytest
import torch

import jackfield as jf
from jackfield import edits as E
from jackfield.core.errors import BusyError


def in_thread(work):
    """Runs `work` in another thread to its end; gives its result or its exception."""
    found = []

    def run():
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    return found[0]


EDITS = [E.Scale(0.5, at="layers.1.pattern"), E.ZeroOut(at="layers.0.mlp_out", where=[1])]


def test_two_threads_with_two_models_are_right(tiny, tokens):
    """Both edit inside attention, where what they share is patched, at the same time."""
    models = [jf.wrap(copy.deepcopy(tiny.module)) for _ in range(2)]
    edits = [EDITS, [E.Scale(3.0, at="layers.*.z"), E.Scale(2.0, at="layers.2.k")]]
    expected = [m.run(tokens, edits=e).logits for m, e in zip(models, edits, strict=True)]
    meet, wrong = threading.Barrier(2), []

    def work(index):
        torch.set_num_threads(1)
        meet.wait()
        for _ in range(25):
            run = models[index].run(tokens, edits=edits[index], sites=["layers.1.pattern"])
            with models[index].editing(edits[index]), torch.no_grad():
                bare = models[index].module(tokens).logits
            wrong.extend(x for x in (run.logits, bare) if not torch.equal(x, expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("outer", ["editing", "swapping"])
class TestOneModel:
    def block(self, model, outer):
        if outer == "editing":
            return model.editing(EDITS)
        return model.swapping("model.layers.1.mlp", lambda module, path: module)

    def test_another_thread_cannot_use_it_meanwhile(self, outer, tiny, tokens):
        def edit():
            with tiny.editing(EDITS):
                pass

        works = [
            edit,
            lambda: tiny.run(tokens),
            lambda: jf.wrap(tiny.module).run(tokens),
            lambda: tiny.generate(tokens, max_new_tokens=1),
        ]
        with self.block(tiny, outer):
            for work in works:
                found = in_thread(work)
                assert isinstance(found, BusyError), found
                assert "Give each thread its own copy" in str(found)
            expected = tiny.module(tokens).logits
        assert torch.equal(
            in_thread(lambda: tiny.run(tokens, edits=EDITS).logits), in_here(tiny, tokens)
        )
        assert expected.shape == (2, 7, 101)

    def test_nor_this_thread_while_another_has_it(self, outer, tiny, tokens):
        inside, leave = threading.Event(), threading.Event()

        def hold():
            with self.block(tiny, outer):
                tiny.module(tokens)
                inside.set()
                assert leave.wait(60)

        thread = threading.Thread(target=hold)
        thread.start()
        assert inside.wait(60)
        try:
            with pytest.raises(BusyError, match="no other thread reads or edits now"):
                tiny.run(tokens)
            with pytest.raises(BusyError), tiny.editing(EDITS):
                pass
        finally:
            leave.set()
            thread.join()
        tiny.run(tokens)


def in_here(model, tokens):
    return model.run(tokens, edits=EDITS).logits


def test_a_bare_forward_of_another_thread_under_edits_is_refused(tiny, tokens):
    with tiny.editing(EDITS):
        found = in_thread(lambda: tiny.module(tokens))
        assert isinstance(found, BusyError), found
        assert "calls from the thread that edits this model" in str(found)
        tiny.module(tokens)
    assert in_thread(lambda: tiny.module(tokens).logits.shape) == (2, 7, 101)


def test_the_model_is_free_after_an_exception(tiny, tokens):
    def fails(x, context):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tiny.run(tokens, edits=[E.Function(fails, at="layers.0.z")])
    with pytest.raises(ZeroDivisionError), tiny.editing(EDITS):
        fails(tiny.module(tokens), None)
    assert in_thread(lambda: tiny.run(tokens).logits.shape) == (2, 7, 101)


def test_between_the_steps_of_a_generation_it_is_free(tiny, tokens):
    steps = tiny.generate_stream(tokens, edits=EDITS, max_new_tokens=4)
    made = [next(steps).tokens]
    assert in_thread(lambda: tiny.run(tokens).logits.shape) == (2, 7, 101)
    made += [step.tokens for step in steps]
    expected = tiny.generate(tokens, edits=EDITS, max_new_tokens=4).tokens
    assert torch.equal(torch.stack(made, 1), expected)
