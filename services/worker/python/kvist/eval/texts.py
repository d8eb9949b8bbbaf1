"""The texts that codecs are judged on: where each comes from, which characters of it, and the digest that says it is the same one.

Four registers, from files that every machine has on which tools/setup ran: two Debian packages that hardly change and two pinned
wheels. A codec's profile must never be calibrated on these documents, nor on their registers where it is to be judged on unseen ones.
"""

import dataclasses
import gzip
import hashlib
import html.parser
import importlib.util
import pathlib
import re
from collections.abc import Callable


class TextError(Exception):
    """A text is not there, or is another one: the message says what to install."""


@dataclasses.dataclass(frozen=True)
class Text:
    name: str  # the register
    file: str  # absolute, or a Python package's name and the path in it: "numpy:lib/x.py"
    source: str  # what to install
    strip: str  # how markup goes: a name in STRIP
    offset: int  # characters, after stripping; below 0: from the end
    length: int
    sha256: str  # of those characters as UTF-8


JUDGED = (
    Text("prose", "/usr/share/doc/anarchism/html/secB1.html", "Debian's anarchism 15.3", "html", 1000, 16384,
         "6dbd4627654d42e9a5ce4414ba1c669eaa24fd2f13f2b6f3a147b33e41962006"),
    Text("manual", "/usr/share/perl/5.36.0/pod/perlipc.pod", "Debian 12's perl-doc", "pod", 1000, 16384,
         "7158eed0359fa27305f317ff57e92b75ccf3048dea244f34ae95cadd24454ab0"),
    Text("code", "numpy:lib/_function_base_impl.py", "numpy==2.4.6", "none", 50000, 16384,
         "d30e0950f43c6c24eb817cd4b9da0f3e639b431ace5ae0fed4baddb53cad46dc"),
    Text("json", "kubernetes_validate:kubernetes-json-schema/v1.35.0-local-strict/_definitions.json",
         "kubernetes-validate==1.37.0", "none", 200000, 16384,
         "6632ad28422b474cf7015fa326a18c81a77621d6482264c73258f018f080760f"),
)  # fmt: skip


class _Words(html.parser.HTMLParser):
    """The text of a page's body; a paragraph, heading or list item begins a line of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self._inside = self._inside or tag == "body"
        if tag in ("p", "h1", "h2", "h3", "li", "br"):
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.pieces.append(re.sub(r"\s+", " ", data))


def strip_html(page: str) -> str:
    words = _Words()
    words.feed(page)
    lines = (" ".join(line.split()) for line in "".join(words.pieces).split("\n"))
    return "\n".join(line for line in lines if line) + "\n"


def strip_pod(page: str) -> str:
    """Headings and items without their commands; of X<...> and X<< ... >> what is between; index entries go."""
    page = re.sub(r"X<[^<>]*>", "", page)
    for _ in range(3):  # codes stand within codes
        page = re.sub(r"[A-Z]<<+\s(.*?)\s>>+", r"\1", page)
        page = re.sub(r"[BCEFILS]<([^<>]*)>", r"\1", page)
    page = re.sub(r"^=(?:head\d|item) +", "", page, flags=re.MULTILINE)
    page = re.sub(r"^=\w+.*\n", "", page, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", page)


STRIP: dict[str, Callable[[str], str]] = {"html": strip_html, "pod": strip_pod, "none": lambda page: page}


def path_of(text: Text) -> pathlib.Path:
    package, _, inside = text.file.rpartition(":")
    if not package:
        return pathlib.Path(text.file)
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise TextError(f"text {text.name!r} comes from {text.source}, which is not installed; tools/setup installs it")
    return pathlib.Path(spec.origin).parent / inside


def load(text: Text) -> str:
    """Exactly the characters that the definition names."""
    path = path_of(text)
    try:
        content = path.read_bytes()
        page = (gzip.decompress(content) if path.suffix in (".gz", ".dz") else content).decode("utf-8", "replace")
    except (OSError, EOFError) as error:
        raise TextError(f"text {text.name!r} comes from {text.source}: {error}; tools/setup installs it") from error
    taken = STRIP[text.strip](page)[text.offset : text.offset + text.length]
    digest = hashlib.sha256(taken.encode()).hexdigest()
    if digest != text.sha256:
        raise TextError(f"text {text.name!r}: {path} is not that of {text.source} (SHA-256 {digest}, not {text.sha256})")
    return taken


def of_file(path: pathlib.Path) -> tuple[str, str]:
    """(name, text) of a user's own file."""
    try:
        return path.stem, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{path} cannot be read as UTF-8 text: {error}") from error
