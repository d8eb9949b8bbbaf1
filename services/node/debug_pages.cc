#include "services/node/debug_pages.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvist {
namespace {

constexpr char kBegin[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>kvistd</title><style>"
    "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse;margin:1em 0}"
    "caption{text-align:left;font-weight:bold;padding:4px 0}th,td{border:1px solid #999;padding:2px "
    "8px;text-align:left}"
    "th{background:#eee}</style></head><body>\n";
constexpr char kEnd[] = "</body></html>\n";

std::string Cell(const char* tag, const std::string& text) {
  const bool cut = text.size() > DebugPages::kMaxCellBytes;
  return absl::StrCat("<", tag, ">", EscapeHtml(cut ? text.substr(0, DebugPages::kMaxCellBytes) : text),
                      cut ? "..." : "", "</", tag, ">");
}

void AppendTable(const DebugTable& table, std::string* html) {
  absl::StrAppend(html, "<table><caption>", EscapeHtml(table.caption), "</caption>\n<tr>");
  for (const std::string& column : table.columns) absl::StrAppend(html, Cell("th", column));
  absl::StrAppend(html, "</tr>\n");
  for (size_t i = 0; i < std::min(table.rows.size(), DebugPages::kMaxRows); ++i) {
    absl::StrAppend(html, "<tr>");
    for (const std::string& cell : table.rows[i]) absl::StrAppend(html, Cell("td", cell));
    absl::StrAppend(html, "</tr>\n");
  }
  absl::StrAppend(html, "</table>\n");
  if (table.rows.empty()) absl::StrAppend(html, "<p>none</p>\n");
  if (table.rows.size() > DebugPages::kMaxRows) {
    absl::StrAppend(html, "<p>and ", table.rows.size() - DebugPages::kMaxRows, " more</p>\n");
  }
}

}  // namespace

std::string EscapeHtml(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
  }
  return escaped;
}

void DebugPages::Add(const std::string& page, std::function<DebugTable()> read) {
  pages_[page].push_back(std::move(read));
}

std::optional<std::string> DebugPages::Render(const std::string& page) const {
  std::string html = kBegin;
  absl::StrAppend(&html, "<p>");
  for (const auto& [name, tables] : pages_) absl::StrAppend(&html, "<a href=\"/debug/", name, "\">", name, "</a> ");
  absl::StrAppend(&html, "</p>\n");
  if (!page.empty()) {
    const auto found = pages_.find(page);
    if (found == pages_.end()) return std::nullopt;
    for (const std::function<DebugTable()>& read : found->second) AppendTable(read(), &html);
  }
  return absl::StrCat(html, kEnd);
}

}  // namespace kvist
