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
    Text("glossary", "/usr/share/doc/jargon-text/jargon.txt.gz", "Debian's jargon-text 4.4.7", "none", 300000, 30000,
         "8a0c43c1579461f39a3a6d94b090dc43d458686d34150234c69557d86ff48061"),
    Text("verse", "/usr/share/games/fortunes/songs-poems", "Debian's fortunes 1.99.1", "none", 20000, 24000,
         "f55d006dfafe930ef47c165f1bdd2636210b482de56e7e0992a6b8646ab48dec"),
    Text("quotes", "/usr/share/games/fortunes/startrek", "Debian's fortunes 1.99.1", "none", 5000, 11500,
         "e8206486b8e131f0a08a2df74c72c4c12ef7e1a63e54303879c544926776b340"),
    Text("quotes", "/usr/share/games/fortunes/people", "Debian's fortunes 1.99.1", "none", 5000, 11500,
         "1a8ff1df0f2285a32ff550c19c43eae9d56757f2e9a51ec288cb5426682bbac9"),
    Text("legal", "/usr/share/common-licenses/Artistic", "Debian 12's base-files", "none", 1000, 5000,
         "3d73f354dff786ae50080bf8c42436d81c6b760d4b9746e9eac7678f4f67ce04"),
    Text("legal", "/usr/share/common-licenses/GFDL-1.3", "Debian 12's base-files", "none", 3000, 13000,
         "10f60c535316ea9a7095a27b84efa839d2d3b1898ecf18e239de6e479249e12c"),
    Text("legal", "/usr/share/common-licenses/MPL-2.0", "Debian 12's base-files", "none", 2000, 12500,
         "10351ea634e5efb6b62c3a0d95276ce5cd6d420d8eaa1ddfc3f8d703a10f5b5a"),
    Text("html", "/usr/share/doc/debian-handbook/html/en-US/sect.virtualization.html", "Debian's debian-handbook 11.20220922", "none", 4000, 13000,
         "2b23b49c70f022ff9c142f4cc6691cfd0378d0ddb3538ee4682d64bfee2723e1"),
    Text("html", "/usr/share/doc/debian-handbook/html/en-US/sect.installation-steps.html", "Debian's debian-handbook 11.20220922", "none", 4000, 13000,
         "caf84ceb00b7f68b8df29e979818bbcb7441713f916eed6f300e01e998b70d42"),
    Text("xml", "/usr/share/mime/packages/freedesktop.org.xml", "Debian's shared-mime-info 2.2", "xml", 20000, 20000,
         "4b4f3d61c5f79b9f3f4dee313a099871a0ff7b6476046b4b2c4fc4c93914115f"),
    Text("table", "/usr/share/misc/pci.ids", "Debian's pci.ids 0.0~2023.04.11", "none", 200000, 8000,
         "c030652f604686d48f858370c2faf8a428be8d1c62dd43622b09382d8687a05f"),
    Text("table", "/usr/share/ieee-data/oui.csv", "Debian's ieee-data 20220827", "none", 100000, 8000,
         "cc1fdb575cceb7793a7ce2693091ea0d2e9e62927148c2e89e991ea4f224a54e"),
    Text("foreign", "/usr/share/doc/debian-handbook/html/fr-FR/sect.debian-internals.html", "Debian's debian-handbook 11.20220922", "html", 3000, 8000,
         "e17b63a4501f72107041eb3b20818bee9bb18f0488578c4561b24e09a18a59bb"),
    Text("foreign", "/usr/share/doc/debian-handbook/html/de-DE/sect.installation-steps.html", "Debian's debian-handbook 11.20220922", "html", 3000, 8000,
         "3be854c94438312bd61d08506fb13af471902786f1a6d80fbb1a713782753310"),
    Text("foreign", "/usr/share/doc/debian-handbook/html/es-ES/sect.installation-steps.html", "Debian's debian-handbook 11.20220922", "html", 3000, 8000,
         "fee540a9858ab20a80608d976a4fbbd840b2957eb92744bd699fe5cd18119911"),
    # From the end: it grows at its beginning, with every point release.
    Text("changelog", "/usr/share/doc/dpkg/changelog.gz", "Debian 12's dpkg", "none", -730922, 24000,
         "211b97c4ce25bd8b5d78af7c25ead7133a068be69cfc70f424befee57571ea2c"),
    Text("faq", "/usr/share/doc/debian/FAQ/debian-faq.en.txt.gz", "Debian's debian-faq 11.1", "none", 15000, 30000,
         "0bb3bde30fa51efc542f08668bdf164597f84afd6930bef0202d9ac92b9861d4"),
    Text("config", "/usr/share/containers/containers.conf", "Debian 12's golang-github-containers-common", "none", 2000, 22000,
         "d9659913a66e54423515eb0350150672f12cc9c9df8644d60e7f1904cdf5b6df"),
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
