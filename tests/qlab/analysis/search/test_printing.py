"""What HiGHS prints unasked is left out; other lines go to standard error, results stay alone."""

import subprocess
import sys

import pytest

HEAD = """
import ctypes, os, sys, threading
from qlab.analysis.search.printing import without_remarks
printf = ctypes.CDLL(None).printf
"""
ONE = """
print("before")
printf(b"c before\\n")
with without_remarks():
    printf(b"remark\\n")
    print("python")
print("after")
"""
NESTED = """
ready, done = threading.Event(), threading.Event()
def other():
    with without_remarks():
        ready.set()
        done.wait(30)
        printf(b"remark\\n")
thread = threading.Thread(target=other)
with without_remarks():
    thread.start()
    ready.wait(30)
printf(b"python\\n")
done.set()
thread.join()
print("before\\nc before\\nafter")
"""
RAISING = """
print("before")
printf(b"c before\\n")
try:
    with without_remarks():
        printf(b"remark\\n")
        print("python")
        raise ValueError
except ValueError:
    print("after")
"""


def run(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + code], text=True, check=False, timeout=120, **options
    )


@pytest.mark.skipif(sys.platform == "win32", reason="asks the C library of the process")
@pytest.mark.parametrize("code", [ONE, NESTED, RAISING], ids=["one", "nested", "raising"])
def test_only_what_is_printed_inside_goes_to_standard_error(code: str):
    done = run(code, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["before", "c before", "after", ""]
    assert sorted(done.stderr.split()) == ["python", "remark"]


REMARKS = """
with without_remarks():
    for index in range(3000):  # more than a pipe holds
        printf(b"HighsMipSolverData::%d\\n" % index)
    printf(b"other %d\\n", 7)
    printf(b"HighsSearch::cut")
    ctypes.CDLL(None).fflush(None)
    printf(b" in two\\nno line end")
print("after")
"""
CHILD = """
import subprocess
with without_remarks():
    child = subprocess.Popen(["sh", "-c", "read x; echo HighsA::b; echo child"], stdin=-1)
print("after", flush=True)
child.communicate(b"go\\n")
import time
for _ in range(600):
    if not any(t.name == "without_remarks" for t in threading.enumerate()):
        break
    time.sleep(0.1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="asks the C library of the process")
def test_remarks_of_highs_are_left_out():
    done = run(REMARKS, capture_output=True)
    assert (done.returncode, done.stdout) == (0, "after\n")
    assert done.stderr == "other 7\nno line end"


@pytest.mark.skipif(sys.platform == "win32", reason="asks the C library of the process")
def test_what_a_process_started_meanwhile_writes_later_is_not_lost():
    done = run(CHILD, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "after\n", "child\n")


@pytest.mark.skipif(sys.platform == "win32", reason="asks the C library of the process")
def test_a_process_without_standard_output_is_left_alone():
    code = "os.close(1)\nwith without_remarks():\n    pass\nos.write(2, b'done')"
    done = run(code, stderr=subprocess.PIPE)
    assert done.stderr.startswith("done")
