"""A service as a program of its own, for ``gpu_acceptance.py``."""

import json
import re
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from gpu_figures import wait_for


class Service:
    """A service as a program of its own, and what it was sent."""

    def __init__(self, process, port, log):
        self.process, self.port, self.log = process, port, log

    def send(self, config, scan, parameters=None, *, realtime=False):
        from isocenter.commands.client import Client, connect, replay
        from isocenter.wire import ConfigFile, ConfigScript

        message = ConfigScript(config) if isinstance(config, bytes) else ConfigFile(config)
        text = json.dumps({"parameters": parameters}) if parameters else None
        client = Client(connect("localhost", self.port, 60))
        result = replay(client, scan.header.encode(), scan.items, message, parameters=text, realtime=realtime)
        if not result.images:
            raise RuntimeError(f"{config!r} gave no image: {result.texts}")
        return result

    def together(self, count, *arguments, **options):
        with ThreadPoolExecutor(count) as pool:
            pending = [pool.submit(self.send, *arguments, **options) for _ in range(count)]
            return [each.result() for each in pending]

    def loaded(self, bundle):
        return f"loaded bundle {bundle} " in self.log.read_text()


@contextmanager
def running(device, bundles, **settings):
    """Start a service on a device, wait until it has loaded the bundles, and stop it; its log is shown if something fails."""
    import yaml
    from isocenter.service.settings import default_home

    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "bundles").symlink_to(default_home() / "bundles")
        values = {"home": name, "port": 0, "device": str(device), "log_private": True, **settings}
        (home / "settings.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        log = home / "service.log"
        command = [sys.executable, "-W", "ignore", "-m", "isocenter.commands.cli", "serve", "--verbose"]
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, "--config", str(home / "settings.yaml")], stdout=stderr, stderr=stderr
            )
        try:
            found = []

            def listens():
                if process.poll() is not None:
                    raise RuntimeError(f"the service has ended with status {process.returncode}")
                found[:] = re.findall(r"listening on \S+:(\d+)", log.read_text())
                return found

            wait_for(listens, 300, f"that the service on {device} listens")
            service = Service(process, int(found[0]), log)
            wait_for(lambda: all(map(service.loaded, bundles)), 300, f"that {', '.join(bundles)} are loaded")
            yield service
            process.send_signal(signal.SIGTERM)
            if status := process.wait(30):
                raise RuntimeError(f"the service on {device} ended with status {status}")
        except BaseException:
            print(f"--- log of the service on {device}\n{log.read_text()[-12000:]}\n---", flush=True)
            raise
        finally:
            process.kill()
            process.wait()


def pixels(result):
    import numpy as np

    return np.stack([image.data for image in result.images])


def deviation(result, reference):
    """Relative deviation of all images together, 2-norm; infinite if there are others."""
    import numpy as np

    a, b = pixels(result), pixels(reference)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)) if a.shape == b.shape else float("inf")
