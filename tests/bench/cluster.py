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

ROLES = pathlib.Path(__file__).resolve().parents[2] / "roles"


def modules():
    """(role, pattern of the task's name, module) of each task in roles/. Events do not name the module."""
    found = []
    for path in sorted(ROLES.glob("*/*/*.yml")):
        lines = path.read_text().splitlines()
        for line, after in zip(lines, lines[1:]):
            name = re.match(r"\s*- name: (.*)", line)
            module = re.match(r"\s+([a-z_.]+):", after)
            if name and module:
                pattern = ".*".join(re.escape(part) for part in re.split(r"{{.*?}}", name[1].strip("\"'")))
                found.append((path.parts[-3], re.compile(pattern), module[1]))
    return found


def module(event, table=modules()):
    for role, pattern, name in table:
        if role == event["role"] and pattern.fullmatch(event["task"]):
            return name
    return "other"


def totals(events, key):
    sums = collections.Counter()
    for event in events:
        sums[key(event)] += event["seconds"]
    return sums


def table(sums, most=20):
    for name, seconds in sums.most_common(most):
        if seconds >= 0.005:
            print(f"    {seconds:8.2f} s  {name}")


def report(title, run):
    tasks = run.of("task")
    hosts = totals(tasks, lambda e: e["host"])
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
    critical, busy = hosts.most_common(1)[0]
    of_it = [event for event in tasks if event["host"] == critical]
    print(f"  critical host {critical}: in tasks for {busy:.2f} s of {run.stage('plays'):.2f} s; by role")
    table(totals(of_it, lambda e: e["role"] or "(no role)"))
    print("  on it, by module (artifact: upload and installation; systemd: waiting for services)")
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


def main():
    kprov, inventory, artifacts = sys.argv[1:]
    common = ["-i", inventory, "-e", json.dumps({"artifact_sources": [artifacts]}), "--format", "json"]

    plan = Run([kprov, "plan", *common])
    print(f"\n== plan on fresh nodes: {plan.seconds:.2f} s, exit code {plan.code},"
          f" connect {plan.stage('connect'):.2f} s, controller peak memory {plan.memory / 2**20:.1f} MiB")
    if plan.code:
        print(plan.why())
    # The plan leaves nothing but the agent on a node; without it the node is fresh for apply.
    for node in "n1", "n2", "n3":
        remove = ["rm", "-rf", "/var/lib/kprov/agent"]
        subprocess.run([kprov, "lab", "exec", "--name", "bench3", node, "--", *remove], check=True)

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

    agent = pathlib.Path(kprov).with_name("kprov-agent")
    size = f"{agent.stat().st_size / 2**20:.2f} MiB" if agent.exists() else "of unknown size"
    upload = first.stage("connect") - second.stage("connect")
    print(f"\n== agent: {size}; upload to 3 nodes {upload:.2f} s"
          f" (connect {first.stage('connect'):.2f} s without it on the node, {second.stage('connect'):.2f} s with it)")
    if second.code or again:
        print(second.why())
        sys.exit(1)


main()
