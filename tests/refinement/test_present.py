from rich.console import Console
from rich.table import Table

from pipeline.refinement import describe_refinement, refine_files


def test_a_row_for_each_label_and_where_the_files_lie(case):
    request = case.request(picture=case.folder / "out" / "a.png")
    record = refine_files(request)
    table, *lines = describe_refinement(record, request.outputs)
    assert isinstance(table, Table)
    console = Console(width=120)
    with console.capture() as printed:
        console.print(table)
    rows = [
        line.split() for line in printed.get().splitlines() if line.split()[:1] in (["3"], ["300"])
    ]
    change = record.labels[300]
    assert rows[1][1:5] == [
        str(number)
        for number in (change.voxels_before, change.voxels_after, change.gained, change.lost)
    ]
    assert f"{record.changed_voxels} of 5760 voxels changed" in lines[0]
    assert [line.partition(": ")[2] for line in lines[1:]] == [
        str(path)
        for path in (request.outputs.mask, request.outputs.record, request.outputs.picture)
    ]
