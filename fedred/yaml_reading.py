"""YAML as it is written: what says more than it shows, or is read differently elsewhere, is refused.

Values without quotes are read by the core schema of YAML 1.2. PyYAML, and with it Snakemake, reads them
by YAML 1.1, where `010` is 8, `1:00` is 60 and `no` is false: such spellings are refused.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fedred.errors import UserError, printable, shortened
from fedred.paths import shown, without_waiting

MOST_BYTES = 1_000_000
"""Of a file of settings; the largest one here has 3,000."""
MOST_VALUES = 100_000
"""In a file of settings, aliases written out."""
LONGEST_PLAIN = 1_000
"""Characters of a value without quotes, which YAML may take for a number of as many digits."""
DEEPEST = 64
"""Groups inside groups; settings need 20, were every rule built on the one above it."""
LARGEST = 2**63 - 1
"""Whole number that files and libraries can hold."""
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where it is built

TEXT = "tag:yaml.org,2002:str"
FLOAT = "tag:yaml.org,2002:float"
CORE = {
    f"tag:yaml.org,2002:{kind}": re.compile(pattern)
    for kind, pattern in {
        "null": r"~|null|Null|NULL|",
        "bool": r"true|True|TRUE|false|False|FALSE",
        "int": r"[-+]?(0|[1-9][0-9]*)",
        "float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    }.items()
}
"""What is no text without quotes, by YAML 1.2; whole numbers in the spelling that all versions share."""
OTHER_NUMBERS = ((r"[-+]?[0-9]+", 10), (r"0o[0-7]+", 8), (r"0x[0-9a-fA-F]+", 16))
"""Spellings of whole numbers by YAML 1.2, with their base, that YAML 1.1 may read as something else."""


def parse_yaml(text: str, source: str) -> Any:
    """Return YAML text as plain values.

    Raises:
        UserError: naming the source, when it is not YAML, or YAML that says more than it shows: a
            key twice, a tag, an alias to itself, more values than any settings have; or a value
            that versions of YAML read differently.
    """
    _require_small(len(text), source)
    _require_text(text, source)
    loader = LOADER(text)
    try:
        _refuse_traps(text)
        node = loader.get_single_node()
        _refuse_doubled(node)
        _read_by_core_schema(node)
        return loader.construct_document(node) if node else None
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise UserError(f"{source} is not valid YAML: {_reason(error)}") from None
    finally:
        loader.dispose()


def _reason(error: Exception) -> str:
    """Return what a parser says in one line, with the line of the text where it knows it."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character #x{int(error.character):04x} is not allowed"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(printable(str(error).replace("\n", " ")).split())
    told = ", ".join(part for part in (error.context, error.problem) if part)
    return f"line {error.problem_mark.line + 1}: {printable(told)}"


def decoded(content: bytes, source: str) -> str:
    """Return the text of a file, which must be UTF-8, with or without a mark of byte order.

    Raises:
        UserError: naming the source, the line, and what to do.
    """
    _require_small(len(content), source)
    try:
        text = content.decode("utf-8-sig")
        wrong = content.find(b"\0")  # as in UTF-16 without a mark
    except UnicodeDecodeError as error:
        text, wrong = "", error.start
    if wrong < 0:
        return text
    line = content.count(b"\n", 0, wrong) + 1
    raise UserError(f"{source} is no text in UTF-8 (line {line}): save it in UTF-8")


def _require_small(size: int, source: str) -> None:
    if size > MOST_BYTES:
        raise UserError(f"{source} is too large for settings: at most {MOST_BYTES} bytes")


def _require_text(text: str, source: str) -> None:
    """Refuse what Python makes of arguments of the command line that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{source} is no text in UTF-8") from None


def parse_settings(text: str, source: str) -> dict[str, Any]:
    """Return YAML text that holds a mapping.

    Raises:
        UserError: naming the source, when it is not YAML or not a mapping.
    """
    raw = parse_yaml(text, source)
    if not isinstance(raw, dict):
        raise UserError(f"{source} holds no settings: it must be a mapping of keys to values")
    return raw


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        UserError: when it is not there, not readable as YAML, or not a mapping.
    """
    try:
        with open(path, "rb", opener=without_waiting) as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"there is no file {shown(path)}") from None
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror}") from None
    return parse_settings(decoded(content, shown(path)), shown(path))


def read_texts(raw: Any, source: str) -> Any:
    """Return data whose texts are read as values without quotes; `--config` hands over texts alone.

    Raises:
        UserError: naming the source, for a text that versions of YAML read differently.
    """
    try:
        return _with_texts(raw, _plain)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def read_floats(raw: Any) -> Any:
    """Return data read by YAML 1.1, with the numbers that it takes for texts, such as `1e-3`, as numbers.

    All other texts were in quotes, or mean texts: they stay as they are.
    """
    return _with_texts(raw, lambda text: _plain(text) if _is_float_since_1_2(text) else text)


def _with_texts(raw: Any, read: Callable[[str], Any]) -> Any:
    """Return data with a function of each text in its place; keys are left alone."""
    if isinstance(raw, Mapping):
        return {key: _with_texts(value, read) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_with_texts(value, read) for value in raw]
    return read(raw) if isinstance(raw, str) else raw


def written_yaml(raw: Mapping[str, Any]) -> str:
    """Return YAML text that `parse_yaml`, and any reader of YAML 1.1 or 1.2, reads as these values."""
    return str(yaml.dump(raw, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


class _Dumper(yaml.SafeDumper):
    """Writes the texts in quotes that a reader could take for something else."""


def _in_quotes_if_needed(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    quotes = None if _means_a_text(text) else "'"
    return dumper.represent_scalar(TEXT, text, style=quotes)


_Dumper.add_representer(str, _in_quotes_if_needed)


def means_a_number(text: str) -> bool:
    """Tell whether a text would be a number without its quotes."""
    return any(CORE[f"tag:yaml.org,2002:{kind}"].fullmatch(text) for kind in ("int", "float"))


def _plain(text: str) -> Any:
    """Return the value of a text that stands without quotes."""
    loader = yaml.SafeLoader("")
    if len(text) > LONGEST_PLAIN:
        return text
    node = yaml.ScalarNode(_tag_by_yaml_1_1(text), text)
    _retag(node)
    return loader.construct_object(node)


def _means_a_text(text: str) -> bool:
    return _tag_by_yaml_1_1(text) == TEXT == _core_tag(text) and not _other_number(text)


def _is_float_since_1_2(text: str) -> bool:
    return _tag_by_yaml_1_1(text) == TEXT and _core_tag(text) == FLOAT


def _tag_by_yaml_1_1(text: str) -> str:
    return str(yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False)))  # type: ignore[no-untyped-call]


def _core_tag(text: str) -> str:
    return next((tag for tag, pattern in CORE.items() if pattern.fullmatch(text)), TEXT)


def _other_number(text: str) -> str:
    """Return in decimal digits a whole number that is spelled in another way, by YAML 1.2, or nothing."""
    bases = (base for pattern, base in OTHER_NUMBERS if re.fullmatch(pattern, text))
    return next((str(int(text, base)) for base in bases), "")


def _read_by_core_schema(root: yaml.Node | None) -> None:
    for node in _nodes(root):
        if isinstance(node, yaml.ScalarNode) and not node.style:
            try:
                _retag(node)
            except UserError as error:
                raise UserError(f"line {_line(node)}: {error}") from None


def _retag(node: yaml.ScalarNode) -> None:
    """Give a value without quotes the tag that the core schema gives it.

    Raises:
        UserError: when YAML 1.1, whose tag it has, reads another value, or it is no plain number.
    """
    if node.tag.endswith(":merge"):
        return
    by_core = _core_tag(node.value)
    if by_core == TEXT and (node.tag != TEXT or _other_number(node.value)):
        raise UserError(_disputed(node))
    node.tag = by_core


def _disputed(node: yaml.ScalarNode) -> str:
    """Return the sentence for a value that is read in two ways: which, and how each is written."""
    quoted = f"'{shortened(node.value)}'"
    old, new = _by_yaml_1_1(node), _other_number(node.value)
    choices = dict.fromkeys([*(reading for reading in (old, new) if _is_plain(reading)), quoted])
    *others, last = map(shortened, choices)
    readings = f"{shortened(old)} in YAML 1.1 and {shortened(new or 'a text')} in YAML 1.2"
    readings = f"{shortened(old)} in YAML" if old == new else readings
    write = f"{', '.join(others)} or {last}" if others else last
    return f"{shortened(node.value)} is {readings}: write {write}"


def _is_plain(reading: str) -> bool:
    return _core_tag(reading) not in (TEXT, "tag:yaml.org,2002:null")


def _by_yaml_1_1(node: yaml.ScalarNode) -> str:
    """Return in words what a value is to YAML 1.1."""
    kind = node.tag.rpartition(":")[2]
    if kind not in ("int", "float", "bool"):
        return {"str": "a text", "timestamp": "a date"}.get(kind, "a mark")
    try:
        value = yaml.SafeLoader("").construct_object(node)
    except (ValueError, OverflowError):
        return "no number"
    return str(value).lower()


def _refuse_traps(text: str) -> None:
    """Refuse tags, deep nesting and endless aliases, before anything is built of them."""
    values = 0  # so far, aliases written out
    sizes: dict[str | None, int] = {}  # values below an anchor
    opened: list[tuple[str | None, int]] = []  # anchors of the groups around, and values before
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.AliasEvent):
            _refuse_loop(event, [anchor for anchor, _ in opened])
            values += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.NodeEvent):
            values += 1
            sizes[event.anchor] = 1
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes[anchor] = values - before + 1
        _refuse_excess(event, len(opened), values)


def _line(part: Any) -> int:
    return int(part.start_mark.line) + 1


def _refuse_loop(alias: yaml.AliasEvent, around: list[str | None]) -> None:
    if alias.anchor in around:
        name = shortened(str(alias.anchor))
        raise UserError(f"line {_line(alias)}: the alias *{name} stands inside what it repeats")


def _refuse_excess(event: Any, depth: int, values: int) -> None:
    if getattr(event, "tag", None):
        raise UserError(f"line {_line(event)} has the tag {shortened(event.tag)}: none is allowed")
    if (
        isinstance(event, yaml.ScalarEvent)
        and event.implicit[0]
        and len(event.value) > LONGEST_PLAIN
    ):
        raise UserError(f"line {_line(event)} has {len(event.value)} characters without quotes")
    if depth > DEEPEST:
        raise UserError(f"line {_line(event)} is nested too deep: at most {DEEPEST} levels")
    if values > MOST_VALUES:
        raise UserError(f"more than {MOST_VALUES} values up to line {_line(event)}: too many")


def _refuse_doubled(root: yaml.Node | None) -> None:
    """Refuse a key that stands twice in a mapping; YAML would silently take the last value."""
    for node in _nodes(root):
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name, line = str(key.value), _line(key)
            if name in lines:
                told = f"line {line}: the key '{shortened(name)}' stands already in line"
                raise UserError(f"{told} {lines[name]}: keep one")
            lines[name] = line


def _nodes(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield every node once, in the order of the text, whatever aliases repeat it."""
    waiting, seen = [root] if root else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        for part in reversed(parts):
            waiting += reversed(part) if isinstance(part, tuple) else [part]


def within_limits(raw: Any, path: tuple[object, ...] = ()) -> Any:
    """Return data as they are, when a setting could be so.

    Raises:
        UserError: for data that no setting could be: endless groups, and numbers beyond 64 bits.
    """
    if len(path) > DEEPEST:
        raise UserError(f"{dotted(path[:3])} is nested too deep: at most {DEEPEST} levels")
    if isinstance(raw, Mapping):
        return {_key(key, path): within_limits(value, (*path, key)) for key, value in raw.items()}
    if isinstance(raw, list):
        return [within_limits(value, (*path, index)) for index, value in enumerate(raw)]
    if isinstance(raw, int) and abs(raw) > LARGEST:
        raise UserError(f"{dotted(path)} is {_huge(raw)}: it must lie between -2^63 and 2^63")
    return raw


def _key(key: object, path: tuple[object, ...]) -> object:
    """Return a key, unless it is a number that cannot even be written."""
    if isinstance(key, int) and abs(key) > LARGEST:
        raise UserError(f"{dotted(path)}: the key {_huge(key)} is not the name of a setting")
    return key


def _huge(number: int) -> str:
    """Return the magnitude of a whole number that may be too long to be written."""
    return f"about {'-' if number < 0 else ''}2^{abs(number).bit_length()}"


def dotted(path: Iterable[object]) -> str:
    """Return the path of a setting as it is written, for a sentence."""
    return ".".join(shortened(str(part)) for part in path) or "the configuration"
