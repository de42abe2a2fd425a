"""What reaches the terminal, from whatever file or model its words are, and how a command ends."""

import os
import sys
from contextlib import suppress

import torch
import torch.distributed as dist
from tqdm import tqdm

from plumbing.processes import rank
from plumbing.text import printable


def say(text):
    """Print it above the progress bar, from whatever file its words are."""
    tqdm.write(printable(text))


def report_errors(
    function, left="--resume goes on from the last checkpoint if any",
    memory="see --dry-run; lower --max-response-tokens or --kv-cache-gb",
):  # fmt: skip
    """Run it; what a person can mend becomes one line. Returns the exit code.

    2: a mistake, or a failure explained; 1: another process is gone; 130: a second Ctrl-C.
    left, memory  what to say to one who left at once, and where memory ran out
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack characters that a text has
        stream.reconfigure(errors="backslashreplace")
    try:
        function()
        return 0
    except BrokenPipeError:  # of dsrl.py | head
        with suppress(OSError, ValueError):  # else Python fails once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code, message = 2, f"error: nobody reads the output any more; {left}"
    except (ValueError, FloatingPointError, OSError) as error:
        code, message = 2, "error: " + " ".join(str(error).split())
    except KeyboardInterrupt:
        code, message = 130, f"\nleft at once; {left}"
    except torch.OutOfMemoryError:
        code, message = 2, f"error: out of memory: {memory}"
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        lost = f"error: process {rank()} lost the others ({str(error).splitlines()[0]})"
        code, message = 1, f"{lost}; go on with --resume"
    tqdm.write(printable(message), file=sys.stderr)  # below the progress bar
    return code
