import subprocess
import sys

LIGHT = """
import sys
import pipeline.processes
print("torch" in sys.modules)
"""

READY = """
import sys

def answer(connection):
    connection.send("pipeline.cohort.child" in sys.modules)

if __name__ == "__main__":
    from pipeline.processes import warm_up, worker_context
    warm_up()
    context = worker_context()
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs,))
    process.start()
    assert ours.poll(60)
    print(ours.recv(), "pipeline.cohort.child" in sys.modules)
    process.join()
"""


def run(path, code):
    path.write_text(code)
    words = [sys.executable, str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_it_is_light_so_that_both_can_import_at_once(tmp_path):
    assert run(tmp_path / "light.py", LIGHT) == "False\n"


def test_a_worker_has_its_imports_from_the_start(tmp_path):
    """The process that started it has not."""
    assert run(tmp_path / "ready.py", READY) == "True False\n"
