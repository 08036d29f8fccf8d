"""What C prints during a search goes to standard error; results stay alone on standard output."""

import subprocess
import sys

import pytest

HEAD = """
import ctypes, os, sys, threading
from qlab.analysis.search.printing import printing_to_stderr
printf = ctypes.CDLL(None).printf
"""
ONE = """
print("before")
printf(b"c before\\n")
with printing_to_stderr():
    printf(b"remark\\n")
    print("python")
print("after")
"""
NESTED = """
ready, done = threading.Event(), threading.Event()
def other():
    with printing_to_stderr():
        ready.set()
        done.wait(30)
        printf(b"remark\\n")
thread = threading.Thread(target=other)
with printing_to_stderr():
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
    with printing_to_stderr():
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


@pytest.mark.skipif(sys.platform == "win32", reason="asks the C library of the process")
def test_a_process_without_standard_output_is_left_alone():
    code = "os.close(1)\nwith printing_to_stderr():\n    pass\nos.write(2, b'done')"
    done = run(code, stderr=subprocess.PIPE)
    assert done.stderr.startswith("done")
