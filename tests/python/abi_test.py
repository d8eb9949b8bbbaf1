"""Goal: the package's ctypes structs are those of kvist.h. Method: a C program prints each struct's size and offsets."""

import ctypes
import pathlib
import subprocess
import tempfile
import unittest

from kvist import _abi

HEADER = pathlib.Path(__file__).resolve().parents[2] / "services/worker/kvist.h"
STRUCTS = {
    "kvist_namespace": _abi.Namespace,
    "kvist_options": _abi.Options,
    "kvist_match_result": _abi.MatchResult,
    "kvist_get_result": _abi.GetResult,
    "kvist_put_result": _abi.PutResult,
    "kvist_error": _abi.Error,
}


def c_layout() -> dict[str, str]:
    lines = []
    for name, struct in STRUCTS.items():
        lines.append(f'printf("{name} size %zu\\n", sizeof({name}));')
        lines += [f'printf("{name} {field} %zu\\n", offsetof({name}, {field}));' for field, *_ in struct._fields_]
    program = "#include <stdio.h>\n#include <stddef.h>\n" + f'#include "{HEADER}"\n' + "int main(void) {" + "".join(lines) + "}"
    with tempfile.TemporaryDirectory() as folder:
        source, binary = pathlib.Path(folder, "layout.c"), pathlib.Path(folder, "layout")
        source.write_text(program, encoding="utf-8")
        subprocess.run(["gcc", "-o", binary, source], check=True)
        output = subprocess.run([binary], check=True, capture_output=True, text=True).stdout
    return {" ".join(line.split()[:2]): line.split()[2] for line in output.splitlines()}


class AbiTest(unittest.TestCase):
    def test_sizes_and_offsets_are_the_headers(self) -> None:
        layout = c_layout()
        for name, struct in STRUCTS.items():
            self.assertEqual(int(layout[f"{name} size"]), ctypes.sizeof(struct), name)
            for field, *_ in struct._fields_:
                self.assertEqual(int(layout[f"{name} {field}"]), getattr(struct, field).offset, f"{name}.{field}")

    def test_every_function_of_the_header_has_a_prototype(self) -> None:
        text = HEADER.read_text(encoding="utf-8")
        for name in _abi.PROTOTYPES:
            self.assertIn(f"{name}(", text)
        declared = {word.split("(")[0] for word in text.replace("\n", " ").split() if word.startswith("kvist_") and "(" in word}
        self.assertEqual(declared - set(_abi.PROTOTYPES), set())


if __name__ == "__main__":
    unittest.main()
