"""Certificate authorities and certificates for tests, made anew in each run by the openssl command line."""

import dataclasses
import itertools
import pathlib
import subprocess
from collections.abc import Sequence

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclasses.dataclass(frozen=True)
class Files:
    cert: pathlib.Path
    key: pathlib.Path  # its owner alone may read it
    ca: pathlib.Path

    def flags(self) -> list[str]:
        """Of kvistd and of kvist."""
        return [f"--tls-cert={self.cert}", f"--tls-key={self.key}", f"--tls-ca={self.ca}"]


class Ca:
    """Keeps its own files, and those that it issues, in `folder`."""

    _numbers = itertools.count(1)  # a name of its own: of two of one name, OpenSSL tries the first alone

    def __init__(self, folder: pathlib.Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.cert, self._key = folder / "ca.crt", folder / "ca.key"
        own = ("-keyout", self._key, "-out", self.cert, "-subj", f"/CN=test CA {next(self._numbers)}")
        _openssl("req", "-x509", *_KEY, *own, "-days", "60", "-addext", "keyUsage=critical,keyCertSign")

    def issue(
        self, stem: str, names: Sequence[str] = ("IP:127.0.0.1",), usages: Sequence[str] = ("serverAuth", "clientAuth")
    ) -> Files:
        """As files `stem`.crt and `stem`.key, good for 30 days. `names` and `usages` are as OpenSSL writes them."""
        issued = Files(self._folder / f"{stem}.crt", self._folder / f"{stem}.key", self.cert)
        _openssl(
            "req", "-x509", *_KEY, "-CA", self.cert, "-CAkey", self._key, "-days", "30", "-subj", "/CN=test",
            "-keyout", issued.key, "-out", issued.cert,
            "-addext", f"subjectAltName={','.join(names)}",
            "-addext", f"extendedKeyUsage={','.join(usages)}",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip
        return issued


def _openssl(*words: str | pathlib.Path) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"openssl refused: {done.stderr}")
