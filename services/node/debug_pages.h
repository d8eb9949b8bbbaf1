// Pages for people who look at one node: tables that the node's parts fill, as self-contained HTML without scripts.
//
// Parts give plain text, and only Render writes HTML: what a worker or another node has said (a namespace's fields, a node's
// id) is escaped in one place, and cannot be forgotten in another.
//
// Bounds   of a table kMaxRows rows, of a cell kMaxCellBytes bytes; the rest is cut and said to be.
// Threads  Add before the first Render; then any.
#ifndef KVIST_SERVICES_NODE_DEBUG_PAGES_H_
#define KVIST_SERVICES_NODE_DEBUG_PAGES_H_

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvist {

struct DebugTable {
  std::string caption;
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;
};

class DebugPages {
 public:
  static constexpr size_t kMaxRows = 1024, kMaxCellBytes = 512;

  // A table of this page ([a-z]+), read whenever the page is looked at. A page shows its tables in the order of adding.
  void Add(const std::string& page, std::function<DebugTable()> read);

  // HTML of the page, or of the list of pages for ""; nothing if there is no such page.
  std::optional<std::string> Render(const std::string& page) const;

 private:
  std::map<std::string, std::vector<std::function<DebugTable()>>> pages_;
};

// Text as it stands in HTML, in or between quotes; control characters become spaces.
std::string EscapeHtml(std::string_view text);

}  // namespace kvist

#endif  // KVIST_SERVICES_NODE_DEBUG_PAGES_H_
