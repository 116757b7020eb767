from pipeline.cohort.events import Workers
from pipeline.cohort.own_process import Here, OwnProcess
from pipeline.cohort.several import SeveralProcesses


def test_all_who_segment_can_be_used_in_the_same_way():
    wanted = {name for name in vars(Workers) if not name.startswith("_")}
    assert wanted == {"capacity", "give", "wait", "close"}
    for kind in (Here, OwnProcess, SeveralProcesses):
        assert wanted <= set(dir(kind))
