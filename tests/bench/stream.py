"""Runs kprov and notes when each of its events arrives."""

import json
import os
import subprocess
import tempfile
import time


class Run:
    """One finished run: wall-clock seconds, peak memory in bytes, and events as (seconds since start, object)."""

    def __init__(self, argv):
        self.events = []
        with tempfile.TemporaryFile("w+") as errors:
            started = time.monotonic()
            # No buffer of ours between kprov and the clock.
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1)
            for line in process.stdout:
                arrived = time.monotonic() - started
                self.events.append((arrived, json.loads(line)))
            _, status, usage = os.wait4(process.pid, 0)
            self.seconds = time.monotonic() - started
            process.returncode = self.code = os.waitstatus_to_exitcode(status)
            errors.seek(0)
            self.errors = errors.read()
        # ru_maxrss is in KiB on Linux, see getrusage(2).
        self.memory = usage.ru_maxrss * 1024

    def of(self, kind):
        return [event for _, event in self.events if event["event"] == kind]

    def stage(self, name):
        return sum(event["seconds"] for event in self.of("stage") if event["stage"] == name)

    def first_task(self):
        """Seconds from the start of the process to its first task; None if there was none."""
        return next((arrived for arrived, event in self.events if event["event"] == "task"), None)

    def why(self):
        """What went wrong, in a few lines."""
        failed = [e for e in self.of("task") if e["status"] in ("failed", "unreachable")]
        lines = [f"  {e['host']}: {e['role']}: {e['task']}: {e.get('message', '')}" for e in failed]
        lines += [f"  {e['host']}: {e['message']}" for e in self.of("finding") if e["fatal"]]
        return "\n".join(lines[:12] + [self.errors[-2000:]])
