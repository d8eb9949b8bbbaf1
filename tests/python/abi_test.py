"""Goal: the package's ctypes structs and prototypes are those of kvist.h.

Method: a C program prints each struct's size, offsets and field sizes; the header's own text says which fields, functions and
argument types there are, so that one that hides in a struct's padding is missed too.
"""

import ctypes
import pathlib
import re
import subprocess
import tempfile
import unittest

from kvist import _abi

HEADER = pathlib.Path(__file__).resolve().parents[2] / "services/worker/kvist.h"
STRUCTS = {
    "kvist_namespace": _abi.Namespace,
    "kvist_options": _abi.Options,
    "kvist_identity": _abi.Identity,
    "kvist_match_result": _abi.MatchResult,
    "kvist_get_result": _abi.GetResult,
    "kvist_put_result": _abi.PutResult,
    "kvist_shape": _abi.Shape,
    "kvist_encode_options": _abi.EncodeOptions,
    "kvist_decode_options": _abi.DecodeOptions,
    "kvist_block_description": _abi.BlockDescription,
    "kvist_error": _abi.Error,
}


def c_layout() -> dict[str, str]:
    lines = []
    for name, struct in STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for field, *_ in struct._fields_:
            place = f"offsetof({name}, {field}), sizeof((({name}*)0)->{field})"
            lines.append(f'printf("{name}.{field} %zu+%zu\\n", {place});')
    program = "#include <stdio.h>\n#include <stddef.h>\n" + f'#include "{HEADER}"\n' + "int main(void) {" + "".join(lines) + "}"
    with tempfile.TemporaryDirectory() as folder:
        source, binary = pathlib.Path(folder, "layout.c"), pathlib.Path(folder, "layout")
        source.write_text(program, encoding="utf-8")
        subprocess.run(["gcc", "-o", binary, source], check=True)
        output = subprocess.run([binary], check=True, capture_output=True, text=True).stdout
    return dict(line.split() for line in output.splitlines())


def header() -> str:
    """The header without comments and preprocessor lines."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"^#.*$", "", text, flags=re.MULTILINE)


def ctype_of(declaration: str) -> object:
    """The ctypes type of one parameter or result, as the package writes it."""
    base, stars = re.fullmatch(r"(?:const )?(\w+)(\**)(?: \w+)?", declaration.strip()).groups()
    if base == "void" and not stars:
        return None
    if base == "char" and stars:
        return ctypes.c_char_p
    if base in ("kvist_client", "kvist_profile"):  # opaque: a handle
        base, stars = "void_p", stars[1:]
    known = {"kvist_code": ctypes.c_int, "size_t": ctypes.c_size_t, **STRUCTS}
    kind = known.get(base) or getattr(ctypes, "c_" + base.removesuffix("_t"))
    for _ in stars:
        kind = ctypes.POINTER(kind)
    return kind


def fields_of(body: str) -> list[tuple[str, object]]:
    """The names and ctypes types that a struct's body declares, in order."""
    fields = []
    for declaration in (" ".join(part.split()) for part in body.split(";") if part.strip()):
        kind, names = re.fullmatch(r"((?:const )?\w+\**) (.*)", declaration).groups()
        for name, length in re.findall(r"(\w+)(?:\[(\w+)\])?", names):
            count = _abi.ERROR_BYTES if length == "KVIST_ERROR_BYTES" else int(length or 0)
            element = ctypes.c_char if kind == "char" else ctype_of(kind)
            fields.append((name, element * count if count else element))
    return fields


class AbiTest(unittest.TestCase):
    def test_sizes_and_offsets_are_the_headers(self) -> None:
        layout = c_layout()
        for name, struct in STRUCTS.items():
            self.assertEqual(int(layout[name]), ctypes.sizeof(struct), name)
            for field, *_ in struct._fields_:
                ours = getattr(struct, field)
                self.assertEqual(layout[f"{name}.{field}"], f"{ours.offset}+{ours.size}", f"{name}.{field}")

    def test_every_struct_and_field_of_the_header_is_known_in_its_order(self) -> None:
        declared = dict(re.findall(r"struct (\w+) \{(.*?)\}", header(), flags=re.DOTALL))
        self.assertEqual(set(declared), set(STRUCTS))
        for name, body in declared.items():
            self.assertEqual(fields_of(body), STRUCTS[name]._fields_, name)

    def test_every_function_of_the_header_has_its_prototype(self) -> None:
        declared = {}
        for result, name, arguments in re.findall(r"([\w ]+\*?)\s(kvist_\w+)\(([^)]*)\);", header()):
            parameters = [] if arguments == "void" else [ctype_of(" ".join(word.split())) for word in arguments.split(",")]
            declared[name] = (ctype_of(result), parameters)
        self.assertEqual(declared, _abi.PROTOTYPES)

    def test_versions_and_sizes_are_the_headers(self) -> None:
        defined = dict(re.findall(r"^#define (KVIST_\w+) (\d+)$", HEADER.read_text(encoding="utf-8"), flags=re.MULTILINE))
        self.assertEqual(defined, {"KVIST_ABI_VERSION": str(_abi.ABI_VERSION), "KVIST_ERROR_BYTES": str(_abi.ERROR_BYTES)})


if __name__ == "__main__":
    unittest.main()
