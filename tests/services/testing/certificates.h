// Certificate authorities and certificates for tests, made anew in each run, and the files that kvistd reads them from.
#ifndef KVIST_TESTS_SERVICES_TESTING_CERTIFICATES_H_
#define KVIST_TESTS_SERVICES_TESTING_CERTIFICATES_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "services/transport/tls.h"

namespace kvist::testing {

struct Issued {
  std::string cert, key;  // PEM
};

struct IssueOptions {
  std::string names = "IP:127.0.0.1";                               // as OpenSSL writes subjectAltName
  std::string usage = "serverAuth,clientAuth";                      // as it writes extendedKeyUsage
  absl::Duration begins = -absl::Hours(48), ends = absl::Hours(1);  // from now
};

// Ends the test's process if OpenSSL refuses.
class TestCa {
 public:
  TestCa();
  ~TestCa();
  std::string pem() const;
  Issued Issue(const IssueOptions& options = {}) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Replaces one file by rename.
void ReplaceFile(const std::string& path, const std::string& text);

// Writes `issued` and `ca` as files `stem`.crt, `stem`.key and `stem`.ca, looked at every 20 ms.
TlsOptions WriteTls(const std::string& stem, const Issued& issued, const std::string& ca);

}  // namespace kvist::testing

#endif  // KVIST_TESTS_SERVICES_TESTING_CERTIFICATES_H_
