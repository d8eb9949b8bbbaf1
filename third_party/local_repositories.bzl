"""The repositories that Bazel and our rules need, all found on this machine (Debian packages) or in third_party/."""

def kvist_local_repositories():
    native.local_repository(name = "rules_java", path = "/usr/share/bazel/rules/java")
    native.local_repository(name = "rules_proto", path = "/usr/share/bazel/rules/proto")
    native.local_repository(name = "bazel_skylib", path = "/usr/share/bazel/tools/skylib")
    native.local_repository(name = "platforms", path = "/usr/share/bazel/tools/platforms")
    native.local_repository(name = "rules_cc", path = "third_party/rules_cc")
    native.local_repository(name = "com_google_protobuf", path = "third_party/protobuf")
    native.local_repository(name = "remote_coverage_tools", path = "third_party/coverage_tools")
    native.new_local_repository(
        name = "system",
        path = "/usr",
        build_file = "//third_party/system:system.BUILD",
    )

    # Looked for only by what needs it: nothing with --config=cpu.
    native.new_local_repository(
        name = "cuda",
        path = "build/cuda",
        build_file = "//third_party/cuda:cuda.BUILD",
    )
