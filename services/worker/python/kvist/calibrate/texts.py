"""The registers that profiles of this project are calibrated on, as kvist.eval's texts.py has those that codecs are judged on.

No document and no register is in both. A user's own profile comes from a user's own texts (--text).
"""

import hashlib
import pathlib
import re

from ..eval import texts as judged
from ..eval.texts import Text, TextError


def strip_translations(page: str) -> str:
    """Of shared-mime-info: the comments in other languages, which are most of the file."""
    return re.sub(r"\n\s*<comment xml:lang.*", "", page)


judged.STRIP["xml"] = strip_translations

# Entries of one name are parts of one register.
CALIBRATED = (
    Text("glossary", "/usr/share/doc/jargon-text/jargon.txt.gz", "Debian's jargon-text 4.4.7", "none", 300000, 20000,
         "e4227c8504a304319bee49e6c11ec9053a416299c833e6b1de66e1a1b56f4af5"),
    Text("verse", "/usr/share/games/fortunes/songs-poems", "Debian's fortunes 1.99.1", "none", 20000, 20000,
         "12a4545ddb17fb57abfc1d45d74336c6517170007110a71323054835a2f39c30"),
    Text("quotes", "/usr/share/games/fortunes/startrek", "Debian's fortunes 1.99.1", "none", 5000, 10000,
         "677fa0706a99366a0e8643e386ea7e278016fd02f70039aeea4afaad411245ef"),
    Text("quotes", "/usr/share/games/fortunes/people", "Debian's fortunes 1.99.1", "none", 5000, 10000,
         "c4dd6895a6254e0c6c59c0b7b07e62e98ed2187919e702ca1be0c6047905bbac"),
    Text("legal", "/usr/share/common-licenses/Artistic", "Debian 12's base-files", "none", 1000, 5000,
         "3d73f354dff786ae50080bf8c42436d81c6b760d4b9746e9eac7678f4f67ce04"),
    Text("legal", "/usr/share/common-licenses/GFDL-1.3", "Debian 12's base-files", "none", 3000, 10000,
         "53509b69b61ad40c683b818952b8e8e293ae9c1100cc806e30042d4811cb8424"),
    Text("legal", "/usr/share/common-licenses/MPL-2.0", "Debian 12's base-files", "none", 2000, 10000,
         "4c04ae558e70c47cc97ce3f14b0c931ef678503c3c600a791db78c531d4ab824"),
    Text("html", "/usr/share/doc/debian-handbook/html/en-US/sect.virtualization.html", "Debian's debian-handbook 11.20220922", "none", 4000, 10000,
         "6ab409852dad8df3e14cb2eba2a54e3625ab70cc1ca9d60db42dfe1e6a784bf5"),
    Text("html", "/usr/share/doc/debian-handbook/html/en-US/sect.installation-steps.html", "Debian's debian-handbook 11.20220922", "none", 4000, 10000,
         "b63de5979d91e4b9df2d2efc0fa5fc558744cb2acdfe8f7bf6c77986d17b6913"),
    Text("xml", "/usr/share/mime/packages/freedesktop.org.xml", "Debian's shared-mime-info 2.2", "xml", 20000, 20000,
         "4b4f3d61c5f79b9f3f4dee313a099871a0ff7b6476046b4b2c4fc4c93914115f"),
    Text("table", "/usr/share/misc/pci.ids", "Debian's pci.ids 0.0~2023.04.11", "none", 200000, 8000,
         "c030652f604686d48f858370c2faf8a428be8d1c62dd43622b09382d8687a05f"),
    Text("table", "/usr/share/ieee-data/oui.csv", "Debian's ieee-data 20220827", "none", 100000, 8000,
         "cc1fdb575cceb7793a7ce2693091ea0d2e9e62927148c2e89e991ea4f224a54e"),
    Text("foreign", "/usr/share/doc/debian-handbook/html/fr-FR/sect.debian-internals.html", "Debian's debian-handbook 11.20220922", "html", 3000, 7000,
         "6ac2929296dcc078b02b65ccb775ff70489bae8c7b737c08147dbf38ecac7394"),
    Text("foreign", "/usr/share/doc/debian-handbook/html/de-DE/sect.installation-steps.html", "Debian's debian-handbook 11.20220922", "html", 3000, 7000,
         "704928d567bddf23bdda9ee3f107b944658e254b529236a54dd9f600278601eb"),
    Text("foreign", "/usr/share/doc/debian-handbook/html/es-ES/sect.installation-steps.html", "Debian's debian-handbook 11.20220922", "html", 3000, 7000,
         "f2a4a450e3158dc063b9b67648061a05c0303babf3c09344e5bcc975679a9f6f"),
    Text("changelog", "/usr/share/doc/dpkg/changelog.gz", "Debian 12's dpkg", "none", 20000, 16000,
         "2712d280c1719d587902a8667762e89513f5580a698368846e0dde883ef3c97e"),
    Text("faq", "/usr/share/doc/debian/FAQ/debian-faq.en.txt.gz", "Debian's debian-faq 11.1", "none", 15000, 20000,
         "ea631aa6ac383f213350d75b79c8af2a8c536cd657fb947822245277b69c0cf2"),
    Text("config", "/usr/share/containers/containers.conf", "Debian 12's golang-github-containers-common", "none", 2000, 20000,
         "9cbe528e5ad4a6bd0f90bb4b35f0676cd1696815215487fea51952fdc56d4113"),
)  # fmt: skip


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def registers(names: str) -> list[tuple[str, str]]:
    """(register, text) of "default", or of names with commas."""
    known = list(dict.fromkeys(text.name for text in CALIBRATED))
    asked = known if names == "default" else names.split(",")
    if unknown := [name for name in asked if name not in known]:
        raise TextError(f"{', '.join(unknown)}: no register; there are {', '.join(known)}")
    return [(name, "\n\n".join(judged.load(text) for text in CALIBRATED if text.name == name)) for name in asked]


def refuse_judged(calibrated: list[pathlib.Path], judges: list[pathlib.Path]) -> None:
    """A profile that is judged on what it has seen says nothing. judges: empty for kvist.eval's registers."""
    known = judges or [judged.path_of(text).resolve() for text in judged.JUDGED]
    if shared := [str(path) for path in calibrated if path in known]:
        raise TextError(f"{', '.join(shared)}: a text to calibrate on must not be one that the profile is judged on")
