"""gRPC stubs from a .proto of //proto."""

def cc_grpc_library(name, src, deps, imports = []):
    """Generates and compiles NAME.grpc.pb.{h,cc} for `src`, a path below proto/; include it as "kvist/v1/x.grpc.pb.h".

    `imports` are the .proto files that it imports."""
    stem = src[:-len(".proto")]
    outs = ["%s.grpc.pb.h" % stem, "%s.grpc.pb.cc" % stem]
    native.genrule(
        name = name + "_generate",
        srcs = [src] + imports,
        outs = outs,
        cmd = "/usr/bin/protoc -I proto --plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin --grpc_out=$(GENDIR)/proto $(location %s)" % src,
    )
    native.cc_library(
        name = name,
        srcs = [outs[1]],
        hdrs = [outs[0]],
        includes = ["."],
        deps = deps + ["@system//:grpcpp"],
    )
