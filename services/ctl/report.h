// Prints what a command found: one JSON object, or lines and tables for people. Internal to services/ctl.
#ifndef KVIST_SERVICES_CTL_REPORT_H_
#define KVIST_SERVICES_CTL_REPORT_H_

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "services/worker/json_text.h"

namespace kvist {

// "name   value" for each field of an object, in its order; empty texts and zero counts of failures say nothing and
// stay.
inline void PrintFields(const nlohmann::ordered_json& object, std::ostream& out) {
  size_t width = 0;
  for (const auto& [name, value] : object.items()) width = std::max(width, name.size());
  for (const auto& [name, value] : object.items()) {
    const std::string text = value.is_string() ? value.get<std::string>() : JsonText(value);
    out << name << std::string(width + 2 - name.size(), ' ') << text << "\n";
  }
}

// Columns as wide as their widest cell, the first row being the head.
inline void PrintTable(const std::vector<std::vector<std::string>>& rows, std::ostream& out) {
  std::vector<size_t> widths;
  for (const std::vector<std::string>& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const std::vector<std::string>& row : rows) {
    for (size_t i = 0; i + 1 < row.size(); ++i) out << row[i] << std::string(widths[i] + 2 - row[i].size(), ' ');
    out << row.back() << "\n";
  }
}

inline void Print(const nlohmann::ordered_json& object, bool json, std::ostream& out) {
  if (json) {
    out << JsonText(object, 2) << "\n";
  } else {
    PrintFields(object, out);
  }
}

}  // namespace kvist

#endif  // KVIST_SERVICES_CTL_REPORT_H_
