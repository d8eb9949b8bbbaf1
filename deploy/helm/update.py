"""Makes anew what is derived in the chart: the table of values in its README, its copies of deploy's rules and boards, and
the golden files of its tests. `make chart` runs it; what it changed is to be looked at before it is committed."""

import shutil

import chart
import values_table


def update_table() -> None:
    readme = chart.CHART / "README.md"
    table = values_table.table((chart.CHART / "values.yaml").read_text(encoding="utf-8"))
    readme.write_text(values_table.with_table(readme.read_text(encoding="utf-8"), table), encoding="utf-8")


def update_files() -> None:
    for folder, kind in (("rules", "*.yaml"), ("dashboards", "*.json")):
        for path in (chart.CHART / "files" / folder).glob(kind):
            path.unlink()
    for source, place in chart.shipped_files():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)


def update_golden() -> None:
    for path in (chart.CI / "golden").glob("*.yaml"):
        path.unlink()
    with chart.WithExampleFiles() as copy:
        for values in chart.good_values():
            chart.golden_of(values).write_text(chart.render(3, copy, values), encoding="utf-8")


if __name__ == "__main__":
    update_table()
    update_files()
    update_golden()
