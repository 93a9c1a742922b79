"""Flags, environment and a TOML file, settled into `Settings`: a flag wins over a variable, and that over the file."""

import dataclasses
import ipaddress
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from embedrt.bundle.manifest import MANIFEST, read_manifest
from embedrt.errors import EmbedrtError
from embedrt.inputs.values import shown
from embedrt.server.options import FLAGS, OPTIONS, ORIGINS, PORT, PREFIX, Option, Scope
from embedrt.server.settings import Limits, ModelSettings, Settings

_MODELS = "models"
_LIMITS = "limits"
_NO_EFFECT = "without effect here"
# Kubernetes sets NAME_PORT to an address like this one for every service.
_SERVICE_LINK = "tcp://"
# Ends of model names that select a prompt.
_ROLES = (":query", ":document")
# Of two settings that exclude each other, the one of the source that counts more is taken.
_EXCLUSIVE = (("model.default_prompt", "model.default_prompt_name"),)


@dataclass(frozen=True)
class Given:
    """A valid value and its origin.

    Attributes:
        value: The value.
        place: The origin, for messages, such as "--port" or "PORT".
    """

    value: Any
    place: str


Layer = dict[str, Given]
"""The values of one source by the names of their options."""


@dataclass(frozen=True)
class Settled:
    """A settled configuration.

    Attributes:
        settings: The configuration.
        notes: Lines for the log about what was given and has no effect.
    """

    settings: Settings
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Words:
    """The words of a command line.

    Attributes:
        models: The models: `MODEL` or `NAME=MODEL`.
        flags: The texts of the flags by the names of their options; a switch has "true" or "false".
        file: The configuration file.
    """

    models: tuple[str, ...] = ()
    flags: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    file: Path | None = None


def settle(words: Words, environment: Mapping[str, str]) -> Settled:
    """Settle the configuration of a server.

    Args:
        words: The command line.
        environment: The environment variables.

    Raises:
        ValueError: A value is not valid, or a key of the file is unknown; the message has the place and the remedy.
        OSError: The file cannot be read.
    """
    flags = _of_flags(words.flags)
    variables, notes = _of_environment(environment)
    file = _named_file(words.file, environment)
    content = {} if file is None else _read(file)
    in_file, of_models = ({}, []) if file is None else _of_file(content, file)
    layers = [in_file, variables, flags]
    merged = _merged(layers)
    notes += [
        f"{given.place}: {_NO_EFFECT}: {FLAGS[name].help[:1].lower()}{FLAGS[name].help[1:]}"
        for name, given in merged.items()
        if FLAGS[name].scope == "accepted"
    ]
    for name, given in merged.items():
        if FLAGS[name].scope == "refused":
            raise ValueError(f"{given.place}: {FLAGS[name].help.rstrip('.')}; leave it out")
    models = _models(words, flags, variables, of_models, environment)
    limits = Limits(**_fields(merged, "limits"))
    settings = Settings(models=models, limits=limits, config_file=file, **_fields(merged, "server"))
    _check(settings, merged)
    return Settled(settings, tuple(notes))


def _fields(layer: Layer, scope: Scope) -> dict[str, Any]:
    """The values of one dataclass by field."""
    return {FLAGS[name].field: given.value for name, given in layer.items() if FLAGS[name].scope == scope}


def _merged(layers: Sequence[Layer]) -> Layer:
    """One layer of several; the later ones count more."""
    merged: Layer = {}
    for layer in layers:
        for pair in _EXCLUSIVE:
            both = [layer[name].place for name in pair if name in layer]
            if len(both) == len(pair):
                raise ValueError(f"{both[0]}: excludes {both[1]}; leave out one of them")
            if both:
                merged = {name: given for name, given in merged.items() if name not in pair}
        merged |= layer
    return merged


def _of_flags(flags: Mapping[str, tuple[str, ...]]) -> Layer:
    """The values of the command line."""
    layer: Layer = {}
    for name, texts in flags.items():
        option = FLAGS[name]
        place = option.flags[0]
        values = [_from_text(option, text, place) for text in texts]
        value = tuple(values) if option.many else values[-1]
        if option.kind is ORIGINS:
            value = tuple(origin for origins in values for origin in origins)
        layer[name] = Given(value, place)
    return layer


def _of_environment(environment: Mapping[str, str]) -> tuple[Layer, list[str]]:
    """The values of the environment, and lines for the log."""
    layer: Layer = {}
    for name, option in FLAGS.items():
        for variable in (option.variable, *option.also):
            text = environment.get(variable, "")
            if not text or (option.kind is PORT and text.startswith(_SERVICE_LINK)):
                continue
            if variable == "HOSTNAME" and not _is_address(text):  # the name of this machine, which shells set
                continue
            value = _from_text(option, text, variable)
            layer[name] = Given((value,) if option.many and option.kind is not ORIGINS else value, variable)
            break
    known = {option.variable for option in FLAGS.values()} | {f"{PREFIX}CONFIG"}
    notes = [
        f"{variable}: unknown variable, {_NO_EFFECT}{_near(variable, known)}"
        for variable in sorted(set(environment) - known)
        if variable.startswith(PREFIX) and not environment[variable].startswith(_SERVICE_LINK)
    ]
    keys = FLAGS["server.keys"]
    notes += [
        f"{variable}: empty, so it is no key"
        for variable in (keys.variable, *keys.also)
        if environment.get(variable) == "" and keys.name not in layer
    ]
    return layer, notes


def _is_address(text: str) -> bool:
    """Return True for an address to listen on, False for the name of a machine."""
    if text == "localhost":
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _from_text(option: Option, text: str, place: str) -> Any:
    """The value of a text of the command line or the environment."""
    try:
        value = option.kind.of_text(text)
    except ValueError:
        raise _refusal(option, text, place) from None
    return _valid(option, value, place)


def _valid(option: Option, value: Any, place: str) -> Any:
    """Validate a value."""
    try:
        return option.kind.check(value)
    except (TypeError, ValueError):
        raise _refusal(option, value, place) from None


def _refusal(option: Option, value: Any, place: str) -> ValueError:
    found = "another value" if option.secret else shown(value)
    return ValueError(f"{place}: expected {option.kind.expected}, got {found}")


def _named_file(file: Path | None, environment: Mapping[str, str]) -> Path | None:
    """The configuration file of the command line or the environment."""
    named = environment.get(f"{PREFIX}CONFIG")
    return Path(named) if file is None and named else file


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected TOML, got something else: {error}") from None


def _of_file(content: Mapping[str, Any], file: Path) -> tuple[Layer, list[Layer]]:
    """The values of a file: those of the server, and those of each model."""
    server = {key: value for key, value in content.items() if key not in {_MODELS, _LIMITS}}
    limits, models = content.get(_LIMITS, {}), content.get(_MODELS, [])
    if not isinstance(limits, dict):
        raise ValueError(f"{file}: {_LIMITS}: expected a table, got {shown(limits)}")  # noqa: TRY004 - of the file
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        raise ValueError(f"{file}: {_MODELS}: expected tables [[{_MODELS}]], got {shown(models)}")
    layer = _of_table(server, "server", str(file), file) | _of_table(limits, "limits", f"{file}: {_LIMITS}", file)
    return layer, [_of_table(model, "model", f"{file}: {_MODELS}[{i}]", file) for i, model in enumerate(models)]


def _of_table(table: Mapping[str, Any], scope: Scope, place: str, file: Path) -> Layer:
    """The values of one table of a file."""
    known = {option.field: option for option in OPTIONS if option.scope == scope and option.in_file}
    layer: Layer = {}
    for key, found in table.items():
        where = f"{place}: {key}" if place == str(file) else f"{place}.{key}"
        if key not in known:
            raise ValueError(f"{where}: unknown key{_other_table(key, scope) or _near(key, known)}")
        option = known[key]
        value = _valid(option, found, where)
        if option.kind.is_path:
            value = file.parent / value.expanduser()
        elif option.name == "model.source":
            value = _located(value, file.parent, where)
        layer[option.name] = Given(value, where)
    return layer


def _other_table(key: str, scope: Scope) -> str:
    """A hint for a key of another table."""
    tables = {"server": "the top of the file", "limits": f"[{_LIMITS}]", "model": f"[[{_MODELS}]]"}
    for option in OPTIONS:
        if option.field == key and option.in_file and option.scope != scope:
            return f"; it belongs into {tables[option.scope]}"
    return ""


def _near(name: str, known: Mapping[str, Any] | set[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _models(
    words: Words, flags: Layer, variables: Layer, of_file: Sequence[Layer], environment: Mapping[str, str]
) -> tuple[ModelSettings, ...]:
    """The models of the command line, else of the environment, else of the file; a name may be one of the file's."""
    by_name = {layer["model.name"].value: layer for layer in of_file if "model.name" in layer}
    specs = [*words.models]
    if "model.source" in flags:
        specs.append(flags["model.source"].value)
    elif not specs and "model.source" in variables:
        specs.append(variables["model.source"].value)
    elif not specs and not of_file and environment.get("EMBEDRT_MODEL"):
        specs.append(environment["EMBEDRT_MODEL"])
    chosen = [by_name.get(spec) or _of_spec(spec) for spec in specs] if specs else list(of_file)
    if not chosen:
        raise ValueError(
            "expected at least one model: run `embedrt serve MODEL`, or name models in a file for --config"
        )
    shared = _of_scope(_merged([variables, flags]), "model")
    if "model.name" in shared and len(chosen) > 1:
        raise ValueError(
            f"{shared['model.name'].place}: expected one model, got {len(chosen)}; name each by NAME=MODEL instead"
        )
    models = tuple(_model(_merged([layer, shared])) for layer in chosen)
    _check_names(models)
    return models


def _of_scope(layer: Layer, scope: Scope) -> Layer:
    """The values of one scope, without the source, which is a list of models here."""
    return {name: given for name, given in layer.items() if name.startswith(f"{scope}.") and name != "model.source"}


def _of_spec(spec: str) -> Layer:
    """The source, and the name if there is one, of `MODEL` or `NAME=MODEL`."""
    name, separator, source = spec.partition("=")
    if not separator or Path(spec).is_dir():
        name, source = "", _valid(FLAGS["model.source"], spec, "MODEL")
    elif not name or not source:
        raise ValueError(f"MODEL: expected a name or a folder, or NAME=MODEL, got {shown(spec)}")
    layer = {"model.source": Given(_located(source, Path(), "MODEL"), "MODEL")}
    return layer | ({"model.name": Given(_valid(FLAGS["model.name"], name, "MODEL"), "MODEL")} if name else {})


def _model(layer: Layer) -> ModelSettings:
    """The settings of one model."""
    values = {name.partition(".")[2]: given.value for name, given in layer.items()}
    if "source" not in values:
        place = next((given.place.rpartition(".")[0] for given in layer.values()), _MODELS)
        raise ValueError(f"{place}: expected the key source, a bundle folder or a model name; add it")
    place = layer["model.source"].place
    source = values.pop("source")
    name = values.pop("name", None) or _name_of(source)
    if name.endswith(_ROLES):
        raise ValueError(f"{place}: expected a name that ends with neither of {', '.join(_ROLES)}, got {shown(name)}")
    return ModelSettings(name=name, source=source, **values)


def _located(source: str, base: Path, place: str) -> str:
    """A source; a relative path starts at `base`."""
    inside = base / os.path.expanduser(source)  # noqa: PTH111 - pathlib raises where there is no such user
    if inside.is_dir():
        return str(inside)
    if source.startswith((".", "/", "~")):
        raise ValueError(f"{place}: expected a bundle folder, got {shown(source)}, where no folder is")
    return source


def _name_of(source: str) -> str:
    """The name of a model whose settings have none: the one of its bundle, or the source without a revision."""
    folder = Path(source)
    if (folder / MANIFEST).is_file():
        try:
            return read_manifest(folder).name
        except EmbedrtError:  # opening it has the better message
            return folder.resolve().name
    return folder.resolve().name if folder.is_dir() else source.partition("@")[0]


def _check_names(models: Sequence[ModelSettings]) -> None:
    """Check that no two models have a name in common."""
    owners: dict[str, str] = {}
    for model in models:
        for name in (model.name, *model.aliases):
            if name in owners:
                raise ValueError(
                    f"{name}: expected a name of one model, got it for {owners[name]} and {model.source}; choose other "
                    "names by NAME=MODEL, or by name and aliases in the file"
                )
            owners[name] = model.source


def _check(settings: Settings, layer: Layer) -> None:
    """Check settings that depend on each other."""
    needs = [model.name for model in settings.models if model.token_ids == "cl100k_base"]  # noqa: S105 - a setting
    if needs and settings.cl100k_vocabulary is None:
        raise ValueError(
            f"token_ids: cl100k_base, for {needs[0]}, needs the vocabulary in tiktoken's format; add "
            "--cl100k-vocabulary FILE"
        )
    if settings.socket is not None and (given := layer.get("server.port")) is not None:
        raise ValueError(f"{given.place}: excludes {layer['server.socket'].place}; leave out one of them")
    if settings.metrics_port is not None and not settings.metrics:
        raise ValueError(f"{layer['server.metrics_port'].place}: expected metrics, but they are off; leave out one")
    limits = settings.limits
    if limits.request_texts > limits.waiting_texts:
        raise ValueError(
            f"waiting_texts: expected at least request_texts, {limits.request_texts}, got {limits.waiting_texts}; such "
            "a request would never be accepted"
        )
    for given in (layer.get("server.key_file"), layer.get("server.cl100k_vocabulary")):
        if given is not None and not os.access(given.value, os.R_OK):
            raise ValueError(
                f"{given.place}: expected a file that this process can read, got {shown(str(given.value))}"
            )


def shown_as_toml(settings: Settings) -> str:
    """The whole configuration as a file for `--config`; keys and tokens are left out."""
    lines = [*_lines(settings, "server"), "", f"[{_LIMITS}]", *_lines(settings.limits, "limits")]
    for model in settings.models:
        lines += ["", f"[[{_MODELS}]]", *_lines(model, "model")]
    return "\n".join(lines)


def _lines(record: Any, scope: Scope) -> Iterator[str]:
    """The lines of a table."""
    known = {option.field for option in OPTIONS if option.scope == scope and option.in_file}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.name in known and value is not None:
            yield f"{field.name} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_toml(key)} = {_toml(text)}" for key, text in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
