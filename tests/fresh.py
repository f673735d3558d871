"""Runs programs in children of a process that has imported what is slow to import.

Not skembft: a program that loads a model without it does so. A request a line on
stdin: {"program": str, "arguments": list of str, "environment": dict}. Computed with
one thread only, as others would be missing in the children.
"""

import json
import os
import sys
import tempfile
import traceback

import joblib  # noqa: F401
import sentence_transformers  # noqa: F401
import sklearn  # noqa: F401


def run(program, arguments, environment):
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR may be another one
    sys.argv = ["-c", *arguments]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})


def fork(request, output, errors):
    """Run a request in a child; return its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        run(**request)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve():
    for line in sys.stdin:
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            status = fork(json.loads(line), output, errors)
            told = {"status": status}
            for name, file in ("output", output), ("errors", errors):
                file.seek(0)
                told[name] = file.read().decode()
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    serve()
