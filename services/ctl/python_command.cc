#include "services/ctl/python_command.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

// Says what is missing before it runs the module as `python -m` would.
constexpr const char* kRunModule = R"(import importlib.util, runpy, sys
name = sys.argv.pop(1)
if importlib.util.find_spec("kvist") is None:
    sys.exit(f"kvist {name}: {sys.executable} has no Python package kvist: install services/worker/python with pip, or "
             "name an interpreter that has it with KVIST_PYTHON")
try:
    runpy.run_module("kvist." + name, run_name="__main__", alter_sys=True)
except ModuleNotFoundError as missing:
    sys.exit(f"kvist {name}: {sys.executable} lacks {missing.name}: pip install {missing.name}, or name an interpreter "
             "that has it with KVIST_PYTHON")
)";

struct Place {
  std::filesystem::path package_root;  // for PYTHONPATH; empty = none beside this program
  std::filesystem::path interpreter;   // of the source tree; empty = none
};

// argv[0] with a slash is the path as it was called, so that a link into a build folder leads back to its source tree.
std::filesystem::path Program(const char* called) {
  std::error_code error;
  if (std::strchr(called, '/') != nullptr) return std::filesystem::absolute(called, error).lexically_normal();
  return std::filesystem::read_symlink("/proc/self/exe", error);
}

Place FindPlace(const std::filesystem::path& program) {
  std::error_code error;
  std::filesystem::path folder = program.parent_path();
  for (; folder.has_relative_path(); folder = folder.parent_path()) {
    for (const char* root : {"services/worker/python", "lib/kvist/python"}) {
      if (!std::filesystem::exists(folder / root / "kvist/__init__.py", error)) continue;
      const std::filesystem::path interpreter = folder / "build/venv/bin/python";
      return {folder / root, std::filesystem::exists(interpreter, error) ? interpreter : std::filesystem::path()};
    }
  }
  return {};
}

void AddToPythonPath(const std::filesystem::path& root) {
  const char* const given = std::getenv("PYTHONPATH");
  const std::string path = given == nullptr || *given == '\0' ? root.string() : absl::StrCat(root.string(), ":", given);
  ::setenv("PYTHONPATH", path.c_str(), /*overwrite=*/1);
}

}  // namespace

bool IsPythonCommand(std::string_view name) { return name == "eval" || name == "calibrate"; }

absl::Status BecomePython(int argc, char** argv) {
  const Place place = FindPlace(Program(argv[0]));
  if (!place.package_root.empty()) AddToPythonPath(place.package_root);
  const char* const named = std::getenv("KVIST_PYTHON");
  const std::string interpreter = named != nullptr && *named != '\0' ? named
                                  : place.interpreter.empty()        ? "python3"
                                                                     : place.interpreter.string();
  std::vector<std::string> words = {interpreter, "-c", kRunModule};
  words.insert(words.end(), argv + 1, argv + argc);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  return absl::NotFoundError(absl::StrCat("kvist ", argv[1], " is Python, and '", interpreter,
                                          "' cannot be run: ", std::strerror(errno),
                                          "; install python3 and numpy, or name an interpreter with KVIST_PYTHON"));
}

}  // namespace kvist
