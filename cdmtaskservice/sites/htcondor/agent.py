"""The process that speaks to a pool: HTCondor's bindings with one site's configuration.

    python -m cdmtaskservice.sites.htcondor.agent [--collector HOST] [--schedd NAME]

It is a process of its own for three reasons. The bindings hold Python's global lock while they wait for the network, so
that in a thread a schedd which hangs would stop the whole service. Their configuration belongs to the process, and each
site has its own. And only a process can be ended for certain when it takes too long.

Requests come on standard input and answers go to standard output, one at a time: a line with the number of bytes, and
then JSON. A request is `{"call": NAME, "arguments": {...}}`; an answer `{"value": ...}` or `{"error": TEXT, "refused":
BOOL}`, where `refused` says that the pool has answered, and said no. Both carry `schedd`, the name of the one that is
used, which from then on is the only one that will do: another one knows nothing of the jobs.

Standard library and the bindings only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_REFUSALS = ("Failed to create new cluster", "SCHEDD:", "QMGMT:", '"DENIED"')
"""A submission that fails with one of these has been answered before anything was made."""


class Refused(Exception):
    """The pool has answered, and said no."""


class Away(Exception):
    """The schedd that is meant is not there now."""


class Pool:
    """The calls. Each raises what the bindings raise, with the first call after a failure looking for the schedd."""

    def __init__(self, collector: str | None, schedd: str | None) -> None:
        import classad2
        import htcondor2

        self._htcondor = htcondor2
        self._classad = classad2
        self._host = collector
        self._name = schedd
        self._schedd: Any = None
        self.found: str | None = None
        """The name of the schedd that has been used."""

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Make one of the calls by its name."""
        method: Callable[..., Any] = getattr(self, f"do_{name}")
        try:
            return method(**arguments)
        except Exception:
            # It may have moved: a schedd has another address after each start.
            self._schedd = None
            raise

    def do_ping(self) -> dict[str, Any]:
        """Find the schedd anew and ask it something that takes authentication."""
        self._schedd = None
        schedd = self._located()
        schedd.query(constraint="false", projection=["ClusterId"], limit=1)
        return {"schedd": self._ad.get("Name"), "version": self._ad.get("CondorVersion")}

    def do_find(self) -> dict[str, Any]:
        """Which collector this is, and its schedds."""
        host = self._host or self._htcondor.param.get("COLLECTOR_HOST")
        if not host:
            raise Refused("COLLECTOR_HOST is neither in the HTCondor configuration nor in the environment")
        try:
            schedds = [str(ad["Name"]) for ad in self._collector().query(self._htcondor.AdType.Schedd)]
        except self._htcondor.HTCondorException as error:
            raise Refused(f"{error} {_reached(str(host))}") from error
        return {"collector": host, "schedds": schedds}

    def do_identity(self) -> dict[str, Any]:
        """Who the schedd takes us for."""
        self._located()
        answer = self._htcondor.ping(self._ad, "WRITE")
        return {"user": str(answer.get("MyRemoteUserName") or answer.get("User") or "?")}

    def do_query(self, constraint: str, attributes: Sequence[str], clusters: bool = False) -> list[dict[str, Any]]:
        """Ads of the queue, with those of clusters (which have no ProcId) where these are wanted."""
        option = self._htcondor.QueryOpt.IncludeClusterAd if clusters else self._htcondor.QueryOpt.Default
        found = self._located().query(constraint=constraint, projection=list(attributes), opts=option)
        return [self._plain(ad) for ad in found]

    def do_history(self, constraint: str, attributes: Sequence[str], since: str, most: int) -> list[dict[str, Any]]:
        """Ads of jobs that have left the queue, the latest first, back to the first that `since` is true of.

        `since` is tried on everybody's jobs. most: so many ads at most; -1 for all.
        """
        found = self._located().history(constraint, list(attributes), match=most, since=since or None)
        return [self._plain(ad) for ad in found]

    def do_submit(self, description: Mapping[str, str], items: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """Submit one cluster with a proc for each of the items."""
        schedd = self._located()
        submit = self._htcondor.Submit(dict(description))
        try:
            result = schedd.submit(submit, itemdata=iter([dict(item) for item in items]))
        except self._htcondor.HTCondorException as error:
            if any(text in str(error) for text in _REFUSALS):
                raise Refused(str(error)) from error
            raise
        return {"cluster": result.cluster(), "procs": result.num_procs()}

    def do_act(self, action: str, jobs: Sequence[str] | str, reason: str) -> dict[str, Any]:
        """Remove, Release or Hold jobs, by constraint or as `cluster` and `cluster.proc`.

        RemoveX removes what is being removed already, without its worker's confirmation.
        """
        wanted = jobs if isinstance(jobs, str) else list(jobs)
        # With the text alone, the schedd drops it.
        code = 1 if action == "Release" else 0
        answer = self._located().act(getattr(self._htcondor.JobAction, action), wanted, reason=(reason, code))
        return {name: int(answer.get(name, 0)) for name in ("TotalSuccess", "TotalError", "TotalPermissionDenied")}

    def do_edit(self, jobs: Sequence[str], attribute: str, value: str) -> None:
        """Set an attribute, to an expression, in the ads of these jobs."""
        self._located().edit(list(jobs), attribute, value)

    def do_machines(self, constraint: str, attributes: Sequence[str]) -> list[dict[str, Any]]:
        """Ads of the slots that can be given jobs."""
        found = self._collector().query(self._htcondor.AdType.Startd, constraint, list(attributes))
        return [self._plain(ad) for ad in found]

    def do_analyze(self, job: str) -> dict[str, Any] | None:
        """How the pool's slots meet the requirements of a queued job; None where it is not queued any more.

        Each slot is looked at as if nothing were running on it. Returns `slots`, how many there are; `matching`;
        `rejecting`, those that would have the job but for their own policy; `clauses`, the parts of the job's
        requirements with the number of slots that meet each; and `said`, the schedd's own words.
        """
        cluster, _, proc = job.partition(".")
        found = self._located().query(constraint=f"ClusterId == {int(cluster)} && ProcId == {int(proc)}", limit=1)
        if not found:
            return None
        ad = found[0]
        offered = self._collector().query(self._htcondor.AdType.Startd, "DynamicSlot =!= true")
        slots = [self._emptied(slot) for slot in offered]
        requirements = self._classad.ExprTree(str(ad.lookup("Requirements")))
        clauses = [
            {"clause": clause, "slots": sum(self._holds(self._classad.ExprTree(clause), ad, s) for s in slots)}
            for clause in conjuncts(str(requirements))
        ]
        meeting = [s for s in slots if self._holds(requirements, ad, s)]
        willing = [s for s in meeting if "Requirements" not in s or self._holds(s.lookup("Requirements"), s, ad)]
        return {
            "slots": len(slots),
            "matching": len(willing),
            "rejecting": len(meeting) - len(willing),
            "clauses": clauses,
            "said": _text(ad.get("LastRejMatchReason")),
        }

    def _holds(self, expression: Any, mine: Any, target: Any) -> bool:
        return expression.eval(mine, target) is True

    def _emptied(self, slot: Any) -> Any:
        """A partitionable slot advertises what is left of it; here all of it counts."""
        for name in ("Cpus", "Memory", "Disk", "GPUs"):
            total = slot.get(f"TotalSlot{name}")
            if isinstance(total, (int, float)):
                slot[name] = total
        return slot

    def _collector(self) -> Any:
        return self._htcondor.Collector(self._host) if self._host else self._htcondor.Collector()

    def _located(self) -> Any:
        if self._schedd is None:
            self._ad = self._find_schedd()
            self._schedd = self._htcondor.Schedd(self._ad)
        return self._schedd

    def _find_schedd(self) -> Any:
        ads = self._collector().query(self._htcondor.AdType.Schedd)
        if not ads:
            raise self._htcondor.HTCondorException("the collector knows of no schedd")
        ad = choose_schedd(
            ads,
            named=self.found or self._name,
            usual=self._htcondor.param.get("SCHEDD_HOST"),
            here=self._htcondor.param.get("FULL_HOSTNAME"),
        )
        self.found = str(ad["Name"])
        return ad

    def _plain(self, ad: Any) -> dict[str, Any]:
        return {name: self._value(ad, name) for name in ad}

    def _value(self, ad: Any, name: str) -> Any:
        value = ad[name]
        if isinstance(value, self._classad.ExprTree):
            value = value.eval(ad)
        return value if isinstance(value, (str, int, float, bool)) else _text(value)


def choose_schedd(ads: Sequence[Any], named: str | None, usual: str | None, here: str | None) -> Any:
    """The ad of the schedd to use: never of another one because the right one is away.

    named: as in the site's settings, or that was used before. usual: SCHEDD_HOST, by default this machine, `here`,
    which need not have one. Raises Refused, Away.
    """
    names = ", ".join(sorted(str(ad["Name"]) for ad in ads))
    wanted = named or usual
    if wanted:
        exact = [ad for ad in ads if ad["Name"] == wanted]
        found = exact or [ad for ad in ads if ad.get("Machine") == wanted]
        if len(found) > 1:
            raise Refused(f"there are several schedds on {wanted}, so name one as the site's schedd: {names}")
        if found:
            return found[0]
        if named or wanted != here:
            raise Away(f"the collector knows of no schedd {wanted} now; it knows {names}")
    if len(ads) > 1:
        raise Refused(f"the pool has several schedds, so name one of them as the site's schedd: {names}")
    return ads[0]


def conjuncts(expression: str) -> list[str]:
    """The parts of a ClassAd expression that are joined by && at its top, without brackets around the whole."""
    parts: list[str] = []
    depth, start, quote = 0, 0, ""
    at = 0
    while at < len(expression):
        character = expression[at]
        if quote:
            if character == "\\":
                at += 1
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0 and expression.startswith("&&", at):
            parts.append(expression[start:at])
            start, at = at + 2, at + 1
        elif depth == 0 and (expression.startswith("||", at) or character == "?"):
            return [expression.strip()]  # it binds less tightly than &&
        at += 1
    parts.append(expression[start:])
    bare = [part.strip() for part in parts]
    if len(bare) == 1 and bare[0].startswith("(") and _closes_at_end(bare[0]):
        return conjuncts(bare[0][1:-1])
    return [inner for part in bare for inner in (conjuncts(part) if len(bare) > 1 else [part])]


def _closes_at_end(expression: str) -> bool:
    """Whether the bracket that the expression begins with is closed by its last character."""
    depth, quote, skip = 0, "", False
    for at, character in enumerate(expression):
        if skip:
            skip = False
        elif quote:
            skip = character == "\\"
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                return at == len(expression) - 1
    return False


def _text(value: Any) -> str | None:
    text = None if value is None else str(value)
    return None if text in {"Undefined", "Value.Undefined", "undefined"} else text


def _reached(host: str) -> str:
    """Whether something listens at a collector's address: who hears nothing and who is refused look alike."""
    name, _, port = host.split(",")[0].strip().partition(":")
    number = int(port.partition("?")[0]) if port.partition("?")[0].isdigit() else 9618
    try:
        socket.create_connection((name, number), timeout=5).close()
    except OSError as error:
        return f"Nothing answers at {name}:{number}: {error}."
    return f"Something answers at {name}:{number}, so it refuses us: is there a valid token or password for this pool?"


def serve(pool: Pool, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    while line := requests.readline():
        request = json.loads(requests.read(int(line)))
        answer: dict[str, Any]
        try:
            answer = {"value": pool.call(request["call"], request["arguments"])}
        except Exception as error:
            answer = {"error": f"{error}" or type(error).__name__, "refused": isinstance(error, Refused)}
        answer["schedd"] = pool.found
        data = json.dumps(answer).encode()
        answers.write(b"%d\n" % len(data) + data)
        answers.flush()


def main(arguments: Sequence[str]) -> None:
    """Serve on standard input and output."""
    parser = argparse.ArgumentParser(prog="python -m cdmtaskservice.sites.htcondor.agent")
    parser.add_argument("--collector")
    parser.add_argument("--schedd")
    options = parser.parse_args(arguments)
    # However the service ends, nothing must be submitted in its name afterwards.
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What the bindings print must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(Pool(options.collector, options.schedd), sys.stdin.buffer, answers)


if __name__ == "__main__":
    main(sys.argv[1:])
