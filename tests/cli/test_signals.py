"""An interruption arrives, also where Python would drop or misread it."""

import subprocess
import sys

import pytest
from command_line import environment

START = """
import os, signal, sys, time
from flashbias_fold.cli import signals

def send():
    os.kill(os.getpid(), signal.NAME)

signals.catch()
try:
    {}
    time.sleep(30)
except KeyboardInterrupt:
    sys.exit(130)
"""
PLACES = {
    "plain code": "send()",
    # Python's own handling would end the process by the signal although it was caught.
    "exec, as imports use it": "exec('send()')",
    "a destructor, where exceptions are dropped": "type('D', (), {'__del__': lambda self: send()})()",
    "several, one after the other": "[type('D', (), {'__del__': lambda self: send()})() for _ in range(3)]",
}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_an_interruption_arrives_from(place, name):
    script = START.replace("{}", place).replace("NAME", name)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=environment(),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_ignored_sigint_stays_ignored():
    """As it is for a job that a shell runs in the background."""
    script = START.replace("{}", "send(); sys.exit(0)").replace("NAME", "SIGINT")
    script = script.replace(
        "signals.catch()", "signal.signal(signal.SIGINT, signal.SIG_IGN); signals.catch()"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=20, check=False, env=environment())
    assert done.returncode == 0
