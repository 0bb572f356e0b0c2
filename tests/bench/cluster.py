"""A cluster on fresh nodes: where the seconds go, and whether the plan said what happened.

cluster.py KPROV INVENTORY ARTIFACTS
"""

import collections
import json
import pathlib
import re
import subprocess
import sys

from stream import Run

HERE = pathlib.Path(__file__).resolve().parent
ROLES = HERE.parents[1] / "roles"
NODES = ["n1", "n2", "n3"]


def modules():
    """(role, pattern of the task's name, module) of each task in roles/. Events do not name the module."""
    found = []
    for path in sorted(ROLES.glob("*/*/*.yml")):
        lines = path.read_text().splitlines()
        for line, after in zip(lines, lines[1:]):
            name = re.match(r"\s*- name: (.*)", line)
            module = re.match(r"\s+([a-z0-9_.]+):", after)
            if name and module:
                pattern = ".*".join(re.escape(part) for part in re.split(r"{{.*?}}", name[1].strip("\"'")))
                found.append((path.parts[-3], re.compile(pattern), module[1]))
    return found


def module(event, table=modules()):
    for role, pattern, name in table:
        if role == event["role"] and pattern.fullmatch(event["task"]):
            return name
    return "other"


def spent(run):
    """The task events of each host, each with the seconds since the one before it on that host.

    kprov hands a host many tasks at once, so an event's own `seconds` contain those of the tasks that it waited for; these
    add up to the time at which the host was done.
    """
    last = {event["host"]: 0.0 for event in run.of("task")}
    start = next((at for at, event in run.events if event["event"] == "stage" and event["stage"] == "preconditions"), 0.0)
    hosts = collections.defaultdict(list)
    for arrived, event in run.events:
        # Preconditions are reported before plays start.
        if event["event"] == "task" and arrived >= start:
            host = event["host"]
            hosts[host].append((event, arrived - max(last[host], start)))
            last[host] = arrived
    return hosts


def totals(events, key):
    sums = collections.Counter()
    for event, seconds in events:
        sums[key(event)] += seconds
    return sums


def table(sums, most=20):
    for name, seconds in sums.most_common(most):
        if seconds >= 0.005:
            print(f"    {seconds:8.2f} s  {name}")


def report(title, run):
    tasks = run.of("task")
    hosts = spent(run)
    print(f"\n== {title}: {run.seconds:.2f} s, exit code {run.code}")
    first = run.first_task()
    print(f"  time to first task      {first:.2f} s" if first is not None else "  time to first task      no task was run")
    print(f"  controller peak memory  {run.memory / 2**20:.1f} MiB")
    staged = sum(event["seconds"] for event in run.of("stage"))
    for event in run.of("stage"):
        print(f"  stage {event['stage']:<17} {event['seconds']:.2f} s")
    print(f"  outside of stages       {run.seconds - staged:.2f} s (reading inventory and playbooks, output)")
    counts = collections.Counter(event["status"] for event in tasks)
    print(f"  tasks                   {', '.join(f'{n} {status}' for status, n in counts.most_common())}")
    if not hosts:
        return
    done = {host: sum(seconds for _, seconds in events) for host, events in hosts.items()}
    # The host whose last task ends last is the one that the others' seconds do not matter to.
    critical = max(done, key=done.get)
    of_it = hosts[critical]
    print(f"  critical host {critical}: done after {done[critical]:.2f} s of plays; by role")
    table(totals(of_it, lambda e: e["role"] or "(no role)"))
    print("  on it, by module (artifact: upload and installation; systemd: services, and waiting for them)")
    table(totals(of_it, module))
    print("  on it, the slowest tasks")
    table(totals(of_it, lambda e: f"{e['role']}: {e['task']}"), 10)


def fidelity(plan, apply):
    def about(events):
        return {(event["task_id"], event["host"]): f"{event['role']}: {event['task']}" for event in events}

    planned = about(plan.of("change"))
    changed = about(event for event in apply.of("task") if event["status"] == "changed")
    both, either = len(planned.keys() & changed.keys()), len(planned.keys() | changed.keys())
    grades = collections.Counter(event["grade"] for event in plan.of("change"))
    print(f"\n== plan fidelity: {100 * both / either if either else 100:.1f} %"
          f" ({both} of {either} (task, host) pairs in both the plan and what apply changed)")
    print(f"  changes in the plan by grade: {', '.join(f'{n} {grade}' for grade, n in grades.most_common())}")
    for title, one, other in ("planned, not changed", planned, changed), ("changed, not planned", changed, planned):
        odd = collections.Counter(one[key] for key in one.keys() - other.keys())
        print(f"  {title}: {sum(odd.values())}")
        for name, n in odd.most_common(15):
            print(f"    {n} x {name}")


def remove_agent(kprov):
    for node in NODES:
        remove = ["rm", "-rf", "/var/lib/kprov/agent"]
        subprocess.run([kprov, "lab", "exec", "--name", "bench3", node, "--", *remove], check=True)


def upload(kprov, inventory):
    """Connects with and without the agent on the nodes in turns; the quickest of each is the least disturbed one."""
    argv = [kprov, "apply", "-i", inventory, "--playbook", str(HERE / "connect.yml"), "--format", "json"]
    there, absent = [], []
    for _ in range(3):
        there.append(Run(argv).stage("connect"))
        remove_agent(kprov)
        absent.append(Run(argv).stage("connect"))
    agent = pathlib.Path(kprov).with_name("kprov-agent")
    size = f"{agent.stat().st_size / 2**20:.2f} MiB" if agent.exists() else "of unknown size"
    print(f"\n== agent: {size}; upload to {len(NODES)} nodes {min(absent) - min(there):.2f} s"
          f" (connect {min(absent):.2f} s without it on the node, {min(there):.2f} s with it; best of 3)")


def main():
    kprov, inventory, artifacts = sys.argv[1:]
    common = ["-i", inventory, "-e", json.dumps({"artifact_sources": [artifacts]}), "--format", "json"]

    plan = Run([kprov, "plan", *common])
    print(f"\n== plan on fresh nodes: {plan.seconds:.2f} s, exit code {plan.code},"
          f" connect {plan.stage('connect'):.2f} s, controller peak memory {plan.memory / 2**20:.1f} MiB")
    if plan.code:
        print(plan.why())
    # The plan leaves nothing but the agent on a node; without it the node is fresh for apply.
    remove_agent(kprov)

    first = Run([kprov, "apply", *common])
    report("first apply on fresh nodes", first)
    if first.code:
        print("first apply failed, so there is nothing to say about a second one:")
        print(first.why())
    fidelity(plan, first)
    if first.code:
        sys.exit(1)

    second = Run([kprov, "apply", *common])
    report("apply without changes", second)
    again = [event for event in second.of("task") if event["status"] == "changed"]
    print(f"  changed although nothing had to be: {len(again)}")
    for event in again[:10]:
        print(f"    {event['host']}: {event['role']}: {event['task']}")

    upload(kprov, inventory)
    if second.code or again:
        print(second.why())
        sys.exit(1)


main()
