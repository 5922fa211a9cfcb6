"""The Hugging Face hub: a model's data files, fetched into the hub's own cache."""

from pathlib import Path

from jackfield.core.errors import SourceError, explain, nearest
from jackfield.model.embedded import EMBEDDED

DATA = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
# Sub-folders and "consolidated" files hold the same weights once more, in other layouts.
TWICE = ("*/*", "consolidated*")


def hub_snapshot(name: str, *, revision: str | None = None, code: bool = False) -> Path:
    """The folder with a hub model's safetensors, config and tokenizer; it is named by the commit.

    Args:
        name: the hub id.
        revision: branch, tag or commit; None is the main branch.
        code: fetch Python files too.

    Raises:
        SourceError: no connection, no such model or revision, no access.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=[*DATA, "*.py"] if code else list(DATA),
            ignore_patterns=list(TWICE),
        )
    except (OSError, ValueError) as error:
        raise _not_on_hub(name, error) from error
    return Path(folder)


def _not_on_hub(name: str, error: Exception) -> SourceError:
    return SourceError(
        explain(
            where=name,
            expected="an embedded model, a local folder, a .gguf file or a hub id",
            got=_reason(error),
            hint=f"Embedded, without the hub: {', '.join(_embedded_near(name))}.",
        )
    )


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    reasons: dict[type[Exception], str] = {
        errors.GatedRepoError: "a hub model whose terms must be accepted on its page first",
        errors.RevisionNotFoundError: "a hub model without that revision",
        errors.RepositoryNotFoundError: "no model of that name on the hub",
        errors.LocalEntryNotFoundError: "no connection to the hub, and no copy in its cache",
    }
    for kind, reason in reasons.items():
        if isinstance(error, kind):
            return reason
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _embedded_near(name: str) -> list[str]:
    """Aliases whose name, or whose model's name on the hub, is like `name`; else all."""
    by_name = {alias: alias for alias in EMBEDDED}
    by_name |= {_last(model.hub): model.name for model in EMBEDDED.values() if model.hub}
    near = [by_name[match] for match in nearest(_last(name), by_name)]
    return list(dict.fromkeys(near)) or list(EMBEDDED)


def _last(hub_id: str) -> str:
    return hub_id.rpartition("/")[2].lower()
