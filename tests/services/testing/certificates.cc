#include "tests/services/testing/certificates.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace kvist::testing {
namespace {

using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

void Need(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "OpenSSL refused: %s\n", what);
  std::abort();
}

Key NewKey() {
  Key key(EVP_EC_gen("P-256"), EVP_PKEY_free);
  Need(key != nullptr, "a key");
  return key;
}

template <typename Write>
std::string ToPem(const Write& write) {
  const std::unique_ptr<BIO, decltype(&BIO_free)> bio(BIO_new(BIO_s_mem()), BIO_free);
  Need(write(bio.get()) == 1, "PEM");
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);
  return std::string(text, static_cast<size_t>(size));
}

std::string CertPem(X509* certificate) {
  return ToPem([&](BIO* bio) { return PEM_write_bio_X509(bio, certificate); });
}

void AddExtension(X509* certificate, int nid, const std::string& value) {
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value.c_str());
  Need(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1, value.c_str());
  X509_EXTENSION_free(extension);
}

Certificate NewCertificate(const std::string& name, EVP_PKEY* key, absl::Duration begins, absl::Duration ends) {
  static std::atomic<long> serial = 1;
  Certificate certificate(X509_new(), X509_free);
  X509_set_version(certificate.get(), X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), serial++);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), absl::ToInt64Seconds(begins));
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), absl::ToInt64Seconds(ends));
  X509_set_pubkey(certificate.get(), key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  return certificate;
}

}  // namespace

struct TestCa::State {
  Key key = NewKey();
  // A name of its own: of two CAs of one name, OpenSSL tries the first alone.
  Certificate certificate =
      NewCertificate("test CA " + std::to_string(++count), key.get(), -absl::Hours(96), absl::Hours(96));
  static inline std::atomic<int> count = 0;
};

TestCa::TestCa() : state_(std::make_unique<State>()) {
  X509* const own = state_->certificate.get();
  X509_set_issuer_name(own, X509_get_subject_name(own));
  AddExtension(own, NID_basic_constraints, "critical,CA:TRUE");
  Need(X509_sign(own, state_->key.get(), EVP_sha256()) > 0, "signing the CA");
}
TestCa::~TestCa() = default;

std::string TestCa::pem() const { return CertPem(state_->certificate.get()); }

Issued TestCa::Issue(const IssueOptions& options) const {
  const Key key = NewKey();
  const Certificate certificate = NewCertificate("test", key.get(), options.begins, options.ends);
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(state_->certificate.get()));
  AddExtension(certificate.get(), NID_subject_alt_name, options.names);
  AddExtension(certificate.get(), NID_ext_key_usage, options.usage);
  Need(X509_sign(certificate.get(), state_->key.get(), EVP_sha256()) > 0, "signing a certificate");
  return {CertPem(certificate.get()), ToPem([&](BIO* bio) {
            return PEM_write_bio_PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
          })};
}

void ReplaceFile(const std::string& path, const std::string& text) {
  const std::string next = path + ".next";
  std::remove(next.c_str());
  std::ofstream(next) << text;
  Need(chmod(next.c_str(), 0600) == 0 && std::rename(next.c_str(), path.c_str()) == 0, "writing a file");
}

TlsOptions WriteTls(const std::string& stem, const Issued& issued, const std::string& ca) {
  TlsOptions options;
  options.cert_file = stem + ".crt";
  options.key_file = stem + ".key";
  options.ca_file = stem + ".ca";
  options.refresh = absl::Milliseconds(20);
  ReplaceFile(options.key_file, issued.key);
  ReplaceFile(options.cert_file, issued.cert);
  ReplaceFile(options.ca_file, ca);
  return options;
}

}  // namespace kvist::testing
