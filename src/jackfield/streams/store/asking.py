"""Asking: SQL over the sidecars of a store, by DuckDB."""

from typing import TYPE_CHECKING, Any

from jackfield.core.errors import InputError, explain
from jackfield.core.extras import need
from jackfield.streams.store.files import Files, LocalFiles
from jackfield.streams.store.layout import VOCABULARY, Commit
from jackfield.streams.store.remote import RemoteFiles

if TYPE_CHECKING:
    from pyarrow import Table


def ask(files: Files, commits: list[Commit], sql: str) -> "Table":
    """Runs one query; gives an Arrow table.

    Raises:
        MissingExtraError: DuckDB is not installed.
        InputError: DuckDB cannot run it.
    """
    duckdb = need("duckdb", extra="query", purpose="store.query")
    with duckdb.connect(":memory:") as connection:
        if isinstance(files, RemoteFiles):
            connection.register_filesystem(files.filesystem)
        _views(connection, files, commits)
        try:
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            hint = "Tables: rows (row, document, position, token_id, token, …), documents."
            where = f"store {files.url}, query"
            got = " ".join(str(error).split("\n\n")[0].split())
            raise InputError(
                explain(where=where, expected="SQL that DuckDB can run", got=got, hint=hint)
            ) from error


def _views(connection: Any, files: Files, commits: list[Commit]) -> None:
    groups = [group for commit in commits for group in commit.groups]
    tables = [group.files["table"]["file"] for group in groups]
    counts = [group.rows for group in groups]
    firsts = [sum(counts[:number]) for number in range(len(counts))]
    _parquet(connection, "labels", files, tables)
    names = [table.rpartition("/")[2] for table in tables]  # each is its own
    values = ", ".join(f"({_quoted(n)}, {f})" for n, f in zip(names, firsts, strict=True))
    connection.execute(f"create table firsts as select * from (values {values}) as f(name, first)")
    has_tokens = "token_id" in _columns(connection, "labels")
    vocabulary = any(commit.vocabulary is not None for commit in commits)
    told, join = "", ""
    if has_tokens and vocabulary:
        _parquet(connection, "vocabulary", files, [VOCABULARY])
        told, join = ", vocabulary.token", "left join vocabulary using (token_id)"
    connection.execute(
        "create view rows as select first + labels.file_row_number as row, "
        f"labels.* exclude (filename, file_row_number){told} "
        f"from labels join firsts on parse_filename(labels.filename) = firsts.name {join}"
    )
    documents = [g.files["documents"]["file"] for g in groups if "documents" in g.files]
    if documents:
        _parquet(connection, "texts", files, documents)
        connection.execute(
            "create view documents as select * exclude (filename, file_row_number) from texts"
        )


def _parquet(connection: Any, view: str, files: Files, names: list[str]) -> None:
    """A view of Parquet files, each row with its file and number."""
    places = ", ".join(_quoted(_place(files, name)) for name in names)
    connection.execute(
        f"create view {view} as select * from read_parquet([{places}], filename = true, "
        "file_row_number = true, union_by_name = true)"
    )


def _place(files: Files, name: str) -> str:
    return str(files.root / name) if isinstance(files, LocalFiles) else f"{files.url}/{name}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _columns(connection: Any, view: str) -> list[str]:
    return [row[0] for row in connection.execute(f"describe {view}").fetchall()]
