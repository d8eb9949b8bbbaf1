#include "services/transport/tls_files.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "services/transport/secret_file.h"

namespace kvist {
namespace {

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using PrivateKey = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

absl::Status Wrong(absl::string_view what, const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("the TLS ", what, " file '", path, "' ", why));
}

Bio Read(const std::string& text) { return {BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), BIO_free}; }

absl::StatusOr<Certificate> ParseCertificate(absl::string_view what, const std::string& path, const std::string& text) {
  Certificate certificate(PEM_read_bio_X509(Read(text).get(), nullptr, nullptr, nullptr), X509_free);
  ERR_clear_error();
  if (certificate == nullptr) {
    return Wrong(what, path, "holds no certificate: name a PEM file with -----BEGIN CERTIFICATE-----");
  }
  return certificate;
}

absl::StatusOr<PrivateKey> ParseKey(const std::string& path, const std::string& text) {
  // Without this OpenSSL would ask the terminal for the password of an encrypted key.
  const auto no_password = [](char*, int, int, void*) { return -1; };
  PrivateKey key(PEM_read_bio_PrivateKey(Read(text).get(), nullptr, no_password, nullptr), EVP_PKEY_free);
  ERR_clear_error();
  if (key == nullptr) return Wrong("key", path, "holds no key that can be read: name a PEM file, not encrypted");
  return key;
}

absl::Time ToTime(const ASN1_TIME* time) {
  std::tm parts = {};
  return ASN1_TIME_to_tm(time, &parts) == 1 ? absl::FromTimeT(timegm(&parts)) : absl::InfinitePast();
}

std::string Written(absl::Time time) { return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone()); }

absl::Status CheckUse(const std::string& path, X509* certificate, absl::Time now) {
  const absl::Time begins = ToTime(X509_get0_notBefore(certificate)), ends = ToTime(X509_get0_notAfter(certificate));
  if (ends <= now) return Wrong("certificate", path, absl::StrCat("expired at ", Written(ends), ": issue a new one"));
  if (begins > now) {
    return Wrong("certificate", path,
                 absl::StrCat("is valid only from ", Written(begins), ": set this host's clock, or issue a new one"));
  }
  if (X509_check_purpose(certificate, X509_PURPOSE_SSL_CLIENT, 0) != 1) {
    return Wrong("certificate", path, "may not be used by a client: issue it with the extended usage clientAuth too");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TlsFiles> ReadTlsFiles(const TlsOptions& options, absl::Time now) {
  if (options.ca_alone()) {
    const absl::StatusOr<std::string> ca_text = ReadWholeFile("TLS CA file", options.ca_file);
    if (!ca_text.ok()) return ca_text.status();
    if (absl::Status status = ParseCertificate("CA", options.ca_file, *ca_text).status(); !status.ok()) return status;
    return TlsFiles{"", *ca_text, absl::InfiniteFuture()};
  }
  const absl::StatusOr<std::string> cert_text = ReadWholeFile("TLS certificate file", options.cert_file);
  if (!cert_text.ok()) return cert_text.status();
  const absl::StatusOr<std::string> key_text = ReadWholeFile("TLS key file", options.key_file);
  if (!key_text.ok()) return key_text.status();
  const absl::StatusOr<std::string> ca_text = ReadWholeFile("TLS CA file", options.ca_file);
  if (!ca_text.ok()) return ca_text.status();
  if (absl::Status status = CheckPrivate("TLS key file", options.key_file); !status.ok()) return status;
  const absl::StatusOr<Certificate> certificate = ParseCertificate("certificate", options.cert_file, *cert_text);
  if (!certificate.ok()) return certificate.status();
  const absl::StatusOr<PrivateKey> key = ParseKey(options.key_file, *key_text);
  if (!key.ok()) return key.status();
  if (absl::Status status = ParseCertificate("CA", options.ca_file, *ca_text).status(); !status.ok()) return status;
  const bool belongs = X509_check_private_key(certificate->get(), key->get()) == 1;
  ERR_clear_error();
  if (!belongs) {
    return Wrong("key", options.key_file,
                 absl::StrCat("does not belong to the certificate in '", options.cert_file, "': name a matching pair"));
  }
  if (absl::Status status = CheckUse(options.cert_file, certificate->get(), now); !status.ok()) return status;
  return TlsFiles{absl::StrCat(*key_text, "\n", *cert_text), *ca_text, ToTime(X509_get0_notAfter(certificate->get()))};
}

}  // namespace kvist
