"""`jackfield steer fit|run|sweep|card|table|guard|export`: from texts to a steering that is judged.

The methods are those of the catalogue that are fitted from two sides of texts alone.
"""

from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from jackfield.cli import show

app = App(name="steer", help="Fit a steering, try it, judge it, and hand it to other tools.")

Method = Literal[
    "mean-difference", "paired-pca", "logistic-direction", "covariance-aware",
    "directional-ablation", "austeer", "act", "lineas", "ot-map",
    "lqr", "pid-steering", "bipo", "random-filtered-difference", "loreft", "reft-r1",
    "linear-filter",
]  # fmt: skip
Many = Parameter(consume_multiple=True, negative="")
_LAYERS = "layers.*.resid_post"


@app.command
def fit(
    method: Method = "mean-difference",
    *,
    out: Path,
    at: str | None = None,
    behaviour: str | None = None,
    positive: Path | None = None,
    negative: Path | None = None,
    model: str = "smollm2",
) -> None:
    """Fit a steering, or a guard's filter, from two sides of texts, and save it to OUT.

    Parameters
    ----------
    method
        How it is made of the two sides.
    out
        Folder for what was fitted.
    at
        A site, or a pattern of several. Of directions the one that separates held-out texts best
        is kept (of every layer, if not given); other methods act at all of them together.
    behaviour
        Built-in texts: sentiment, formality, french, past, refusal, agreement.
    positive
        A file of texts with the property, one a line.
    negative
        A file of texts without it.
    model
        Alias, hub id, folder or .gguf file.
    """
    import jackfield as jf
    from jackfield import catalogue

    sides, chosen = _sides(behaviour, positive, negative), catalogue.find(method).load()()
    if isinstance(chosen, jf.steering.DirectionMethod):
        found = chosen.fit_all(jf.load(model), **sides, at=at or _LAYERS, progress=True)
        if len(found) > 1:
            show.report(found.report(), as_json=False)
        fitted = found.all[0] if len(found) == 1 else found.best()
    else:
        given = {**_place(chosen, at), **_known(chosen.fit, progress=True)}
        fitted = chosen.fit(jf.load(model), **sides, **given)
    fitted.save(out)
    show.line(fitted.report().summary)
    show.text([str(out)])


@app.command
def run(
    steering: Path,
    prompt: str,
    *,
    strength: str = "kl:0.3",
    model: str = "smollm2",
    max_new_tokens: int = 60,
    chat: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Continue PROMPT with the steering in the folder STEERING.

    Parameters
    ----------
    steering
        Folder of a saved steering.
    prompt
        The text to go on from.
    strength
        A number, or one with a unit: norm:0.3, sigma:2, kl:0.3; negative steers the other way.
    model
        Alias, hub id, folder or .gguf file.
    max_new_tokens
        At most so many tokens.
    chat
        Put the prompt in the model's chat template, as a user's message.
    """
    import jackfield as jf

    loaded, fitted = jf.load(model), jf.steering.Steering.load(steering)
    dose = fitted.dose(loaded, strength)
    show.line(f"Strength {dose.factor:.3g}: {dose.cost.mean:.3g} nats a token on plain prose.")
    given: Any = _message(prompt) if chat else prompt
    edits = fitted.edits(dose.factor)
    steps = loaded.generate_stream(given, edits=edits, max_new_tokens=max_new_tokens)
    show.text(step.texts[0] for step in steps)


@app.command
def sweep(
    steering: Path,
    *prompts: str,
    strengths: Annotated[list[str], Many],
    model: str = "smollm2",
    max_new_tokens: int = 40,
    out: Path | None = None,
) -> None:
    """Show texts at several strengths side by side, beside a random direction of the same length.

    Parameters
    ----------
    steering
        Folder of a saved direction.
    prompts
        Texts to go on from.
    strengths
        As in `run`: --strengths kl:-0.3 kl:0.1 kl:0.3.
    model
        Alias, hub id, folder or .gguf file.
    max_new_tokens
        Of each text.
    out
        A file for the result: .html, .json, .csv or .png.
    """
    import jackfield as jf

    fitted = jf.steering.SteeringVector.load(steering)
    found = fitted.sweep(
        jf.load(model), list(prompts), tuple(strengths), max_new_tokens=max_new_tokens
    )
    _tell(found, out)


@app.command
def card(
    steering: Path, behaviour: str, *, model: str = "smollm2", out: Path | None = None
) -> None:
    """Judge a steering on a behaviour: its effect beside random ones and a prompt, and its cost.

    Parameters
    ----------
    steering
        Folder of a saved steering.
    behaviour
        sentiment, formality, french, past, refusal or agreement.
    model
        Alias, hub id, folder or .gguf file.
    out
        A file for the result: .html, .json, .csv or .png.
    """
    import jackfield as jf

    fitted = jf.steering.Steering.load(steering)
    _tell(jf.steering.ReportCard().run(jf.load(model), fitted, _behaviour(behaviour)), out)


@app.command
def table(
    *,
    methods: Annotated[list[Method], Many],
    behaviours: Annotated[list[str], Many],
    at: str = "layers.20.resid_post",
    kl: float = 0.3,
    model: str = "smollm2",
    out: Path | None = None,
) -> None:
    """Compare methods at the same KL, on several behaviours, beside random directions.

    Parameters
    ----------

    Methods:
        Names of methods: --methods mean-difference paired-pca lineas.
    behaviours
        Of sentiment, formality, french, past, refusal and agreement.
    at
        Where all of them act.
    kl
        Nats a token, on plain prose.
    model
        Alias, hub id, folder or .gguf file.
    out
        A file for the result: .html, .json, .csv or .png.
    """
    import jackfield as jf
    from jackfield import catalogue

    wanted = [_behaviour(each) for each in behaviours]
    entries = [jf.steering.Entry(each, catalogue.find(each).load()(), at) for each in methods]
    found = jf.steering.MethodTable(kl=kl).run(jf.load(model), entries, wanted, progress=True)
    _tell(found, out)


@app.command
def guard(
    linear_filter: Path,
    *prompts: str,
    action: Literal["stop", "log"] = "stop",
    threshold: float | None = None,
    model: str = "smollm2",
    max_new_tokens: int = 60,
    chat: Annotated[bool, Parameter(negative="")] = False,
    out: Path | None = None,
) -> None:
    """Continue PROMPTS under a guard, which watches every token.

    Parameters
    ----------
    linear_filter
        Folder of a filter: `jackfield steer fit linear-filter …`.
    prompts
        Texts to go on from.
    action
        What is done with a text whose score passes the threshold: it is stopped, or only noted.
    threshold
        The filter's own if not given.
    model
        Alias, hub id, folder or .gguf file.
    max_new_tokens
        At most so many tokens.
    chat
        Put the prompts in the model's chat template, as a user's messages.
    out
        A file for the result: .html, .json, .csv or .png.
    """
    import jackfield as jf

    fitted = jf.steering.guards.FittedFilter.load(linear_filter)
    limit = fitted.threshold if threshold is None else threshold
    given: Any = [_message(each) for each in prompts] if chat else list(prompts)
    watching = jf.steering.guards.Guard(fitted, limit, action)
    _tell(watching.generate(jf.load(model), given, max_new_tokens=max_new_tokens), out)


@app.command
def export(steering: Path, out: Path, *, strength: str = "1", model: str = "smollm2") -> None:
    """Write a direction as a GGUF control vector, as repeng and llama.cpp read it.

    Parameters
    ----------
    steering
        Folder of a saved direction.
    out
        The file, mostly ….gguf.
    strength
        What is baked in: a number, or one with a unit.
    model
        Alias, hub id, folder or .gguf file.
    """
    import jackfield as jf

    loaded, fitted = jf.load(model), jf.steering.Steering.load(steering)
    edits = fitted.edits(strength, where="all", model=loaded)
    show.text([str(jf.steering.formats.write_gguf(out, edits, loaded))])


def _sides(behaviour: str | None, positive: Path | None, negative: Path | None) -> dict[str, Any]:
    """The texts of both sides.

    Raises:
        ConfigError: neither a behaviour nor two files, or both.
    """
    from jackfield.core.errors import ConfigError, explain

    if (behaviour is None) == (positive is None) or (positive is None) != (negative is None):
        expected = "--behaviour, or --positive and --negative"
        given = {"behaviour": behaviour, "positive": positive, "negative": negative}
        got = ", ".join(f"--{name}" for name, value in given.items() if value) or "neither"
        raise ConfigError(explain(where="steer fit", expected=expected, got=got))
    if behaviour is not None:
        found = _behaviour(behaviour)
        return {"positive": found.positive, "negative": found.negative}
    assert positive is not None
    assert negative is not None
    return {"positive": _lines(positive), "negative": _lines(negative)}


def _place(method: Any, at: str | None) -> dict[str, str]:
    """Where a method acts, if that was asked for.

    Raises:
        ConfigError: it was not, and the method has no place of its own.
    """
    from jackfield.core.errors import ConfigError, explain

    if at is None and signature(method.fit).parameters["at"].default is signature(_place).empty:
        where, expected = f"steer fit {type(method).__name__}", "--at SITE, where it acts"
        raise ConfigError(explain(where=where, expected=expected, got="none"))
    return {} if at is None else {"at": at}


def _known(call: Any, **options: Any) -> dict[str, Any]:
    """The options that a call takes."""
    return {name: value for name, value in options.items() if name in signature(call).parameters}


def _message(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _behaviour(name: str) -> Any:
    import jackfield as jf
    from jackfield.core.errors import ConfigError, did_you_mean, explain

    known = jf.steering.BEHAVIOURS
    if name not in known:
        expected, hint = f"one of {', '.join(known)}", did_you_mean(name, known)
        raise ConfigError(explain(where="behaviour", expected=expected, got=name, hint=hint))
    return known[name]


def _lines(path: Path) -> list[str]:
    from jackfield.core.errors import InputError, explain

    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        expected = "a file of texts, one a line"
        raise InputError(explain(where=str(path), expected=expected, got=str(error))) from error
    return [line for line in found if line]


def _tell(result: Any, out: Path | None) -> None:
    """The report in the terminal, and in a file if one is named."""
    report = result.report()
    if out is not None:
        show.line(f"Written to {report.save(out)}.")
    show.report(report, as_json=False)
