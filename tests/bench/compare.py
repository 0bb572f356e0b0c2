"""The same 100 small tasks on five nodes by kprov and by ansible-core, in seconds.

compare.py KPROV ANSIBLE_PLAYBOOK INVENTORY
"""

import json
import os
import pathlib
import subprocess
import sys
import time

from stream import Run

HERE = pathlib.Path(__file__).resolve().parent
PLAYBOOK = HERE / "small.yml"
NODES = [f"n{i}" for i in range(1, 6)]
TARGET = 50


def wipe(kprov):
    """Takes back what the playbook made, and kprov's agent: both programs start on the same nodes."""
    for node in NODES:
        command = ["rm", "-rf", "/srv/bench", "/var/lib/kprov/agent"]
        subprocess.run([kprov, "lab", "exec", "--name", "bench5", node, "--", *command], check=True)


def by_kprov(kprov, inventory):
    run = Run([kprov, "apply", "-i", inventory, "--playbook", str(PLAYBOOK), "--format", "json"])
    recap = [event["hosts"] for event in run.of("recap")]
    if run.code or not recap:
        sys.exit(f"kprov failed with exit code {run.code}\n{run.why()}")
    counts = {host: (n["ok"], n["changed"]) for host, n in recap[-1].items()}
    return run.seconds, counts, run


def by_ansible(ansible, inventory):
    environment = {**os.environ, "ANSIBLE_CONFIG": str(HERE / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default"}
    started = time.monotonic()
    done = subprocess.run([ansible, "-i", inventory, str(PLAYBOOK)], env=environment, capture_output=True, text=True)
    seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(f"ansible-playbook failed with exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    counts = {}
    for line in done.stdout.split("PLAY RECAP")[-1].splitlines():
        host, _, rest = line.partition(" : ")
        columns = dict(column.split("=") for column in rest.split() if "=" in column)
        if columns:
            counts[host.strip()] = (int(columns["ok"]), int(columns["changed"]))
    return seconds, counts


def main():
    kprov, ansible, inventory = sys.argv[1:]
    wipe(kprov)
    ours = [by_kprov(kprov, inventory) for _ in range(2)]
    print(f"\nkprov: {ours[0][0]:.2f} s and {ours[1][0]:.2f} s; ansible-core may take minutes")
    wipe(kprov)
    theirs = [by_ansible(ansible, inventory) for _ in range(2)]

    print("\n== 100 small tasks on 5 nodes (ansible-core: pipelining, 20 forks, ControlPersist)")
    print(f"  {'':12}{'ansible-core':>14}{'kprov':>10}{'ratio':>9}   of kprov's: connect, plays, to first task")
    met = True
    for name, (their_seconds, their_counts), (seconds, counts, run) in zip(["first run", "second run"], theirs, ours):
        ratio = their_seconds / seconds
        met = met and ratio >= TARGET
        print(f"  {name:12}{their_seconds:12.2f} s{seconds:8.2f} s{ratio:8.1f}x   "
              f"{run.stage('connect'):.2f} s, {run.stage('plays'):.2f} s, {run.first_task():.2f} s;"
              f" {run.memory / 2**20:.1f} MiB at most")
        if their_counts != counts:
            print(f"  NOT THE SAME WORK: (ok, changed) by host: ansible-core {json.dumps(their_counts)}, kprov {json.dumps(counts)}")
            sys.exit(1)
        print(f"  {'':12}both say (ok, changed) = {sorted(set(counts.values()))} of each host")
    print(f"  target {TARGET}x: {'met' if met else 'NOT met'}")


main()
