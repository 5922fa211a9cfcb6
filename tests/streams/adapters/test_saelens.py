"""SAELens' layout: checked against what its own loader does, written out here with `datasets`."""

import datasets
import numpy as np
import pytest
import torch

from jackfield.core.errors import InputError, JackfieldWarning
from jackfield.streams import Stream
from jackfield.streams.adapters import export, open_dataset

HOOK = "blocks.3.hook_resid_post"


def stream_of(lengths):
    """Documents of these lengths, [row, 3], each row unlike any other."""
    documents = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    positions = torch.cat([torch.arange(n) for n in lengths])
    rows = torch.arange(len(documents) * 3.0).reshape(-1, 3)
    tokens = torch.arange(len(documents)) + 50
    return Stream.from_tensor(
        {"x": rows}, tokens=tokens, documents=documents, positions=positions, batch=5
    )


def loaded(folder):
    """As SAELens' ActivationsStore loads it."""
    found = datasets.load_from_disk(str(folder))
    found.set_format(type="torch", columns=[HOOK, "token_ids"], dtype=torch.float32)
    assert found.features[HOOK].shape == (4, 3)
    return found[:][HOOK].reshape(-1, 3), found[:]["token_ids"].reshape(-1)


def test_whole_contexts_are_what_saelens_loads(tmp_path):
    stream = stream_of([8, 4, 12])
    folder = export(stream, tmp_path / "out", "saelens", sites={"x": HOOK}, context=4)
    rows, tokens = loaded(folder)
    assert torch.equal(rows, stream.collect()["x"])
    assert torch.equal(tokens, stream.collect().tokens.float())
    names = {path.name for path in folder.iterdir()}
    assert {"data-00000-of-00001.arrow", "dataset_info.json", "state.json"} <= names
    assert datasets.load_from_disk(str(folder)).features["token_ids"].length == 4
    assert str(datasets.load_from_disk(str(folder)).data.schema.field("token_ids").type) == (
        "fixed_size_list<item: int32>[4]"
    )


def test_what_saelens_caches_is_read(tmp_path):
    acts = np.random.default_rng(0).standard_normal((7, 4, 3)).astype(np.float32)
    tokens = np.arange(28).reshape(7, 4)
    features = datasets.Features(
        {
            HOOK: datasets.Array2D(shape=(4, 3), dtype="float32"),
            "token_ids": datasets.Sequence(datasets.Value("int32"), length=4),
        }
    )
    made = datasets.Dataset.from_dict({HOOK: acts, "token_ids": tokens}, features=features)
    made.save_to_disk(str(tmp_path / "cache"), num_shards=2)
    for source in (tmp_path / "cache", made):
        stream = open_dataset(source, batch=10)
        assert (stream.rows, stream.sites) == (28, (HOOK,))
        batch = stream.collect()
        assert torch.equal(batch[HOOK], torch.from_numpy(acts).flatten(0, 1))
        assert torch.equal(batch.tokens, torch.arange(28))
        assert torch.equal(batch.documents, torch.arange(28) // 4)
        assert torch.equal(batch.positions, torch.arange(28) % 4)
        for start in (1, 4, 11, 27, 28):
            rest = list(stream.batches(start))
            assert sum(map(len, rest)) == 28 - start
            assert all(torch.equal(b[HOOK], batch[HOOK][b.tokens]) for b in rest)
    shuffled = open_dataset(made.shuffle(seed=1)).collect()  # rows by an index
    assert torch.equal(shuffled[HOOK], batch[HOOK][shuffled.tokens])
    assert not torch.equal(shuffled.tokens, batch.tokens)


def test_cells_without_token_ids_have_to_be_explained(tmp_path):
    cells = np.zeros((2, 4, 3), np.float32)
    features = datasets.Features({"h": datasets.Array2D(shape=(4, 3), dtype="float32")})
    made = datasets.Dataset.from_dict({"h": cells}, features=features)
    with pytest.raises(InputError, match="contexts=True for cells"):
        open_dataset(made)
    assert open_dataset(made, contexts=True).collect()["h"].shape == (8, 3)
    assert open_dataset(made, contexts=False).collect()["h"].shape == (2, 4, 3)


def test_there_and_back(tmp_path):
    stream = stream_of([8, 4])
    back = open_dataset(export(stream, tmp_path / "out", "saelens", context=4)).collect()
    assert torch.equal(back["x"], stream.collect()["x"])
    assert back.documents.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("lengths", [[8, 3], [3, 8], [2, 2]], ids=str)
def test_what_is_not_whole_is_refused(lengths, tmp_path):
    with pytest.raises(InputError, match=r"whole contexts of 4 rows.*partial='drop'"):
        export(stream_of(lengths), tmp_path / "out", "saelens", context=4)
    assert not list(tmp_path.iterdir())


def test_a_gap_within_a_document_is_seen(tmp_path):
    whole = stream_of([9]).collect()
    kept = whole.rows(torch.tensor([0, 1, 2, 3, 4, 6, 7, 8]))
    gap = Stream.from_tensor(
        {"x": kept["x"]}, tokens=kept.tokens, documents=kept.documents, positions=kept.positions
    )
    with pytest.raises(InputError, match="a gap within the context that begins at its position 4"):
        export(gap, tmp_path / "out", "saelens", context=4)


def test_rows_that_do_not_fill_a_context_are_dropped_and_counted(tmp_path):
    stream = stream_of([9, 3, 6])
    with pytest.warns(JackfieldWarning, match="6 rows do not fill a context of 4"):
        folder = export(
            stream, tmp_path / "out", "saelens", context=4, partial="drop", sites={"x": HOOK}
        )
    kept = [*range(8), *range(12, 16)]
    assert torch.equal(loaded(folder)[0], stream.collect()["x"][kept])


def test_contexts_can_go_on_in_the_next_document(tmp_path):
    stream = stream_of([9, 3, 6])
    with pytest.warns(JackfieldWarning, match="2 rows do not fill"):
        folder = export(
            stream, tmp_path / "out", "saelens", context=4, partial="join", sites={"x": HOOK}
        )
    assert torch.equal(loaded(folder)[0], stream.collect()["x"][:16])


def test_the_context_is_that_of_the_reading(tmp_path):
    class Read(Stream):
        sites, rows, provenance = ("x",), 8, {"model": {}, "context": 4}

        def batches(self, start=0):
            return stream_of([8]).batches(start)

    store = Read().write(tmp_path / "acts")
    assert open_dataset(export(store, tmp_path / "out", "saelens")).provenance["context"] == 4
    with pytest.raises(InputError, match="context=, as many rows"):
        export(stream_of([8]), tmp_path / "none", "saelens")


def test_rows_of_several_axes_do_not_fit(tmp_path):
    stream = Stream.from_tensor(
        torch.ones(8, 2, 3), documents=torch.zeros(8).long(), positions=torch.arange(8)
    )
    with pytest.raises(InputError, match=r"rows \[d\], got rows \[2, 3\]"):
        export(stream, tmp_path / "out", "saelens", context=4)


def test_nothing_whole_is_an_error(tmp_path):
    with (
        pytest.warns(JackfieldWarning, match="4 rows do not fill"),
        pytest.raises(InputError, match="expected rows to write, got none"),
    ):
        export(stream_of([2, 2]), tmp_path / "out", "saelens", context=4, partial="drop")
