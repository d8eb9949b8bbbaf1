// The inputs of client_fuzz and abi_fuzz; part of make_corpus.
#ifndef KVIST_TESTS_FUZZ_CLIENT_CORPUS_H_
#define KVIST_TESTS_FUZZ_CLIENT_CORPUS_H_

#include <functional>
#include <string>

namespace kvist {

using WriteInput = std::function<void(const std::string& target, const std::string& name, const std::string& bytes)>;

void WriteClientScripts(const WriteInput& write);
void WriteAbiScripts(const WriteInput& write);

}  // namespace kvist

#endif  // KVIST_TESTS_FUZZ_CLIENT_CORPUS_H_
