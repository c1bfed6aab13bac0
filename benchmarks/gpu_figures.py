"""How the parts of ``gpu_acceptance.py`` say what they found."""

import time


def wait_for(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} has not happened within {seconds} s")
        time.sleep(0.02)


def figure(name, value):
    print(f"figure {name} {value:.4g}", flush=True)


def check(problems, holds, text):
    """Note what is wrong, and go on."""
    if not holds:
        print(f"WRONG: {text}", flush=True)
        problems.append(text)
