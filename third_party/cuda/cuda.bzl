"""cuda_library: nvcc as a Bazel rule."""

# Machine code for the two data-centre generations that we tune for; PTX lets later ones compile at load time.
ARCHITECTURES = [
    "-gencode arch=compute_80,code=sm_80",
    "-gencode arch=compute_90,code=sm_90",
    "-gencode arch=compute_90,code=compute_90",
]

# The format is defined without fused multiply-adds (kernels/FORMAT.md).
OPTIONS = [
    "-std=c++20",
    "-O3",
    "--fmad=false",
    "--expt-relaxed-constexpr",
    "-lineinfo",
    "-Xcompiler -fPIC,-Wall,-Wextra,-Wno-unused-parameter,-Wno-sign-compare,-ffp-contract=off",
]

def cuda_library(name, srcs, hdrs = [], headers = [], deps = [], **kwargs):
    """A cc_library of .cu files, each compiled by nvcc on its own.

    hdrs     what users of the library include.
    headers  what the .cu files include beside that, from this package or others; nvcc sees nothing else of ours.
    Tagged "manual": what builds it is whoever depends on it through a select on //third_party/cuda:off.
    """
    objects = []
    for src in srcs:
        out = src[:-len(".cu")] + ".cu.o"
        native.genrule(
            name = name + "_" + src.replace("/", "_").replace(".", "_"),
            srcs = [src] + hdrs + headers,
            tags = ["manual"],
            outs = [out],
            # nvcc finds its own parts beside its real path; the compiler inside must be on the PATH for the wheels.
            cmd = " ".join([
                "root=$$(dirname $$(dirname $$(readlink -f $(location @cuda//:nvcc)))) &&",
                "PATH=$$root/bin:$$root/nvvm/bin:$$PATH",
                "$$root/bin/nvcc -I. -I$$root/include",
            ] + OPTIONS + ARCHITECTURES + ["-c $(location %s) -o $@" % src]),
            tools = ["@cuda//:nvcc"],
        )
        objects.append(out)
    native.cc_library(
        name = name,
        srcs = objects,
        hdrs = hdrs,
        tags = ["manual"],
        deps = deps + ["@cuda//:cudart"],
        **kwargs
    )
