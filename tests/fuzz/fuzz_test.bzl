"""fuzz_test: one fuzz target in two forms."""

def fuzz_test(name, srcs, deps, size = "small"):
    """A test that replays the target's inputs; under --config=fuzz the same name is a libFuzzer program.

    Its inputs lie in corpus/<name>/ and regressions/<name>/.

    Args:
      name: of the target.
      srcs: with LLVMFuzzerTestOneInput, and LLVMFuzzerCustomMutator where random bytes would not get far.
      deps: of the sources.
      size: of the replay.
    """
    folders = [folder for folder in ["corpus/" + name, "regressions/" + name] if native.glob([folder + "/*"])]
    native.cc_test(
        name = name,
        size = size,
        srcs = srcs,
        args = ["-runs=0", "--test"] + ["tests/fuzz/" + folder for folder in folders],
        data = native.glob([folder + "/*" for folder in folders]),
        linkopts = select({
            "//tests/fuzz:fuzzing": ["-fsanitize=fuzzer"],
            "//conditions:default": [],
        }),
        linkstatic = True,
        deps = deps + ["//tests/fuzz"] + select({
            "//tests/fuzz:fuzzing": [],
            "//conditions:default": ["//tests/fuzz:replay_main"],
        }),
    )
