"""Python in a process of its own, for what happens once in a process: imports, and what they leave behind."""

import os
import subprocess
import sys
import textwrap


def run_python(code, *arguments, path=None, timeout=120, cwd=None, **environment):
    """Run `code`; what is in the folder `path` is imported first, and a variable that is None is unset."""
    variables = {**os.environ, **environment}
    if path is not None:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(path), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env={name: value for name, value in variables.items() if value is not None},
    )


def output_of(code, *arguments, **options):
    """What the code prints; it must end well."""
    done = run_python(code, *arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
