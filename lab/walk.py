"""A random walk: change after change over REST, and after each step real packets must agree with `decide`.

    python -m lab.walk --steps 100 --seed 7

A step is one to three changes, drawn from the policy as REST tells it, so that a seed is a story.  After it every
machine asks every other by tcp, udp and icmp over IPv4 and IPv6, more cases lie at the edges of the rules in force,
and TCP sessions that were opened in earlier steps must be alive or silent as the policy means for their first packet.

A walk that fails prints the calls that lead there, shortened by trying, as `replay` reads them.  It checks that
packets obey the policy that REST tells; whether REST tells what was asked is not its business.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from firewall_app.policy.policy import Policy

from .cloud import WAIT, Cloud
from .controller import Controller
from .draw import TAGS, Call, Draw, Party, meant, party, register
from .machine import Machine
from .network import Lab
from .system import LabError, wait_until
from .truth import OPEN, Case, agrees, disagreements, probe

MOST_SESSIONS = 8


# --------------------------------------------------------------------------------------------- the lab


class Voice(Machine):
    """A machine that speaks from one of its addresses; it shares the agent of the machine itself."""

    def submit(self, command: str, **arguments: Any) -> Any:
        if command in ("tcp", "udp", "icmp"):
            arguments["source"] = self.address(6 if ":" in arguments["address"] else 4)
        return super().submit(command, **arguments)


@dataclass
class Session:
    """A TCP connection that stays.  `guarded`: its opener was behind a firewall when it opened."""

    name: str
    case: Case
    guarded: bool
    silent_since: float | None = None
    looks: int = 0  # at which it was silent, as it should be

    @property
    def ends(self) -> tuple[str, str]:
        return self.case.source, self.case.target.partition("+")[0]


@dataclass
class Seen:
    """What a check found: `wrong` in words, `faults` the cases among them."""

    cases: int = 0
    passing: int = 0
    sessions: int = 0
    late: int = 0  # passed at the second look only
    wrong: list[str] = field(default_factory=list)
    faults: list[Case] = field(default_factory=list)


class Site:
    """A cloud whose machines have several addresses each; knows how to begin anew, and the sessions that are open."""

    def __init__(self, cloud: Cloud, parties: Mapping[str, Party], tags: Mapping[str, Sequence[str]]) -> None:
        self.cloud, self.parties, self.tags = cloud, parties, tags
        self.homes = {name: tap.hypervisor.dpid for name, tap in cloud.lab.taps.items()}
        self.sessions: dict[str, Session] = {}
        self.ids: dict[str, str] = {}
        self.voices: dict[str, Machine] = {}
        for one in parties.values():
            machine = cloud.lab.machines[one.name]
            for number, addresses in enumerate(one.voices):
                name = f"{one.name}+{number}" if number else one.name
                self.voices[name] = Voice(name, machine.netns, machine.mac, addresses, machine.log, machine.agent)
                for text in addresses if number else ():
                    # Deprecated: no connection chooses it as its source by itself.
                    long = f"{text}/{'64 nodad' if ':' in text else '16'}"
                    machine.ip(f"addr add {long} dev eth0 preferred_lft 0")
        for tag in TAGS:
            cloud.call("POST", "/v2/tags", {"name": tag})

    def begin(self) -> None:
        """Everybody at home with the first voice alone, no firewall, no rules of a port, no session."""
        for name in list(self.sessions):
            self._hang_up(name)
        for firewall in self.cloud.call("GET", "/v2/firewalls?per_page=200")["firewalls"]:
            self.cloud.call("DELETE", f"/v2/firewalls/{firewall['id']}")
        for one in self.parties.values():
            if one.droplet_id is not None:
                body = {"name": one.name, "tags": list(self.tags.get(one.name, ()))}
                self.cloud.call("PUT", f"/v1/droplets/{one.droplet_id}", body)
                if self.cloud.lab.taps[one.name].hypervisor.dpid != self.homes[one.name]:
                    self.apply(Call("LAB", f"move/{one.name}/{self.homes[one.name]}"))
                self.apply(register(one, "here", one.voices[0]))
                self.apply(Call("DELETE", f"/v1/ports/{one.name}/rules"))
        self.settle()

    # ---- calls

    def apply(self, call: Call, strict: bool = True) -> None:
        """Does it.  Not strict: a request may be refused, as when an earlier one was left out."""
        what, *names = call.path.strip("/").split("/")
        if call.method == "LAB":
            if what == "move":
                self._move(*names)
            else:
                self._open(*names)
            return
        body = call.body
        if names[:1] == ["ports"] and names[2:] != ["rules"]:
            # A port that goes or moves leaves its connections behind; one that stays, and they, are none the worse.
            here = self.cloud.lab.taps[names[1]].hypervisor.dpid
            if call.method == "DELETE" or body["hypervisor"] not in ("here", here):
                self._leave(names[1])
            if body is not None:
                body = {**body, "hypervisor": here if body["hypervisor"] == "here" else body["hypervisor"]}
        path = re.sub(r"\{(.*?)\}", lambda found: self.ids.get(found[1], "none"), call.path)
        answer = self.cloud.controller.call(call.method, path, body, WAIT if call.wait else None)
        if answer.status >= 300 and strict:
            raise LabError(f"{call} answered {answer.status}: {answer.json}")
        if answer.status < 300 and (call.method, call.path) == ("POST", "/v2/firewalls"):
            self.ids[body["name"]] = answer.json["firewall"]["id"]

    def _leave(self, name: str) -> None:
        for session in [s for s in self.sessions.values() if name in s.ends]:
            self._hang_up(session.name)

    def _move(self, name: str, dpid: str) -> None:
        self._leave(name)
        hosts = {host.dpid: host for host in self.cloud.lab.hypervisors.values()}
        self.cloud.lab.move(name, hosts[dpid])
        self.cloud.lab.plug(name)

    def _open(self, name: str, source: str, target: str, port: str, version: str) -> None:
        case = Case(source, target, "tcp", int(port), int(version))
        self.voices[target].call("listen", tcp=[case.port])
        policy = self.cloud.policy()
        to = self.voices[target].address(case.version)
        if self.voices[source].call("tcp_open", session=name, address=to, port=case.port, timeout=2) == OPEN:
            opener = policy.ports.get(source)
            self.sessions[name] = Session(name, case, bool(opener and policy.rule_sets_of(opener)))

    def _hang_up(self, name: str) -> None:
        self.voices[self.sessions.pop(name).case.source].call("tcp_close", session=name)

    # ---- checks

    def settle(self, absent: bool = False) -> None:
        """Waits until switches hold the policy, and nobody remembers where neighbours were.

        `absent`: machines may be elsewhere than the controller was told.
        """
        good = ("succeeded", "absent") if absent else ("succeeded",)

        def arrived() -> bool:
            ports = self.cloud.call("GET", "/v1/ports?per_page=200")["ports"]
            return all(port["status"] in good for port in ports)

        wait_until("all ports programmed", arrived, 30, 0.05)
        self.cloud.wait_in_sync()
        self.cloud.settle()
        for name in self.parties:
            self.cloud.lab.machines[name].forget_neighbours()

    def check(self, policy: Policy, cases: Sequence[Case]) -> Seen:
        """Probes the cases and speaks in every session; the switches must be settled."""
        expected = {case: meant(policy, self.parties, case) for case in cases}
        passing = {case for case, passes in expected.items() if passes}
        seen = Seen(len(cases), len(passing))
        probed = probe(self.voices, cases, passing, tries=3, timeout=0.5)
        slow = [case for case in disagreements(expected, probed) if expected[case]]
        if slow:  # a busy machine is late now and then; what is closed stays so
            again = probe(self.voices, slow, slow, tries=2, timeout=2)
            seen.late = sum(agrees(True, again[case]) for case in slow)
            probed |= again
        seen.faults = disagreements(expected, probed)
        for case in seen.faults:
            seen.wrong.append(f"{case.text}: expected {'pass' if expected[case] else 'stop'}, probed {probed[case]}")
        self._speak(policy, seen)
        return seen

    def _speak(self, policy: Policy, seen: Seen) -> None:
        for session in list(self.sessions.values()):
            opener = policy.ports.get(session.case.source)
            if not session.guarded and opener and policy.rule_sets_of(opener):
                # The tracker of its opener never saw it open, and a droplet may not begin in mid-stream.
                self._hang_up(session.name)
        seen.sessions = len(self.sessions)
        live = {name: meant(policy, self.parties, one.case) for name, one in self.sessions.items()}
        said = {
            name: self.voices[one.case.source].submit("tcp_say", session=name, timeout=2 if live[name] else 0.4)
            for name, one in self.sessions.items()
        }
        for name, answer in said.items():
            one, found, now = self.sessions[name], answer.result(60), time.monotonic()
            if live[name] and found == "silent":
                # What was sent in vain is sent again after a time that doubles, so at most as long as it was silent.
                until = now + max(8, 3 * (now - (one.silent_since or now)))
                while found == "silent" and time.monotonic() < until:
                    found = self.voices[one.case.source].call("tcp_say", session=name, timeout=2)
            if found != ("alive" if live[name] else "silent"):
                should = "alive" if live[name] else "silent"
                seen.wrong.append(f"session {name}, {one.case.text}: expected {should}, found {found}")
            one.silent_since = None if live[name] else one.silent_since or now
            one.looks = 0 if live[name] else one.looks + 1
            if found == "closed" or one.looks == 3:
                self._hang_up(name)


class Walk:
    """Steps from a seed; `calls` is what was done so far."""

    def __init__(self, site: Site, seed: int, extra: int = 80) -> None:
        self.site, self.extra = site, extra
        self.draw = Draw(random.Random(seed), site.parties)
        self.calls: list[Call] = []
        self.opened = 0
        site.begin()
        self.policy = site.cloud.policy()

    def do(self, *calls: Call) -> None:
        self.calls += calls
        for call in calls:
            self.site.apply(call)

    def step(self) -> Seen:
        rng = self.draw.rng
        hurried = rng.random() < 0.3
        for _ in range(rng.choice((1, 1, 2, 3))):
            while not (calls := self.draw.change(self.policy)):
                pass
            self.do(*(Call(c.method, c.path, c.body, not hurried) for c in calls))
            self.policy = self.site.cloud.policy()
        self.site.settle()
        cases = self.draw.cases(self.policy, self.extra)
        seen = self.site.check(self.policy, cases)
        self.calls.append(Call("LAB", "look"))
        tcp = [case for case in cases if case.protocol == "tcp" and "+" not in case.source]
        passing = [case for case in tcp if meant(self.policy, self.site.parties, case)]
        # Drawn in any case, so that how many sessions live does not change the story.
        for case in rng.sample(passing, min(3, len(passing))):
            self.opened += 1
            if len(self.site.sessions) < MOST_SESSIONS and case not in seen.faults:
                self.do(Call("LAB", f"open/s{self.opened}/{case.source}/{case.target}/{case.port}/{case.version}"))
        return seen


def replay(site: Site, calls: Iterable[Call], cases: Sequence[Case] = ()) -> list[str]:
    """Begins anew, makes the calls, and tells in words which of the cases and of the open sessions are wrong then.

    Calls that are refused are passed over.  At each `LAB look` the open sessions are spoken in, as the walk did.
    """
    site.begin()
    for call in calls:
        if (call.method, call.path) == ("LAB", "look"):
            if site.sessions:
                site.settle(absent=True)
                site.check(site.cloud.policy(), [])
        else:
            site.apply(call, strict=False)
    site.settle(absent=True)
    return site.check(site.cloud.policy(), cases).wrong


def shortened(calls: Sequence[Call], fails: Callable[[list[Call]], bool], tries: int = 30) -> list[Call]:
    """Fewer calls that still fail, by leaving out halves, quarters and so on, and trying at most so often."""
    left, size = list(calls), max(1, len(calls) // 2)
    while tries > 0:
        at, before = 0, len(left)
        while at < len(left) and tries > 0:
            trial = left[:at] + left[at + size :]
            tries -= 1
            if fails(trial):
                left = trial
            else:
                at += size
        if size == 1 and len(left) == before:
            break
        size = max(1, size // 2)
    return left


def script(calls: Iterable[Call], cases: Iterable[Case]) -> str:
    """What `replay` reads, as Python text."""
    lines = ["CALLS = [", *(f"    {call!r}," for call in calls), "]", "CASES = ["]
    return "\n".join([*lines, *(f"    {case!r}," for case in cases), "]"])


@contextmanager
def lab_site(tag: str, hypervisors: int = 2, droplets: int = 4) -> Iterator[Site]:
    """A lab with a controller, its droplets spread over hypervisors, and one host outside."""
    with Lab(tag) as lab:
        hosts = [lab.add_hypervisor() for _ in range(hypervisors)]
        parties, tags = {}, {}
        for number in range(1, droplets + 1):
            name = f"vm{number}"
            machine = lab.add_machine(name, hosts[(number - 1) * hypervisors // droplets])
            parties[name] = party(name, number, 100 + number, machine.mac, lab.taps[name].name)
            tags[name] = TAGS[(number - 1) % (len(TAGS) + 1) :][:1]
        lab.add_outside()
        parties["outside"] = party("outside", droplets + 1, None)
        controller = lab.keep(Controller(lab.directory / "controller", host=lab.address))
        controller.start()
        lab.connect(controller.openflow_port)
        cloud = Cloud(lab, controller)
        cloud.register_hypervisors()
        site = Site(cloud, parties, tags)
        site.begin()
        yield site


def words(calls: Iterable[Call]) -> str:
    found = [f"{call.method} {call.path}" for call in calls if call.path != "look" and not call.path.startswith("open")]
    return "; ".join(found)


def walk(site: Site, steps: int, seed: int, keep_going: bool = False, say: Callable[[str], object] = print) -> int:
    """Walks and tells; how many disagreements there were.  The first ends it unless it is to keep going."""
    say(f"seed {seed}, {steps} steps, {len(site.parties)} machines")
    walked, wrong, cases, begun = Walk(site, seed), 0, 0, time.monotonic()
    for number in range(1, steps + 1):
        started, done = time.monotonic(), len(walked.calls)
        seen = walked.step()
        cases += seen.cases + seen.sessions
        wrong += len(seen.wrong)
        late = f", {seen.late} late" if seen.late else ""
        say(f"{number:4} {words(walked.calls[done:])[:150]}")
        say(f"     {seen.cases} cases ({seen.passing} to pass), {seen.sessions} sessions{late}, "
            f"{len(seen.wrong)} not as expected, {time.monotonic() - started:.1f} s")  # fmt: skip
        if seen.wrong:
            for text in seen.wrong[:20]:
                say(f"     {text}")
            again = site.check(walked.policy, seen.faults).wrong
            say(f"seed {seed}, step {number}; asked once more, {len(again)} are not as expected")
            if not keep_going:
                say(_shortest(site, walked.calls, seen.faults[:5]))
                break
    say(f"seed {seed}: {cases} cases in {time.monotonic() - begun:.0f} s, {wrong} not as expected")
    return wrong


def _shortest(site: Site, calls: Sequence[Call], faults: Sequence[Case]) -> str:
    """The script of a failure; begins with whether it comes again when all is done again."""

    def fails(some: list[Call]) -> bool:
        return bool(replay(site, some, faults))

    # Sessions make a replay slow, and matter to sessions alone.
    plain = [call for call in calls if call.method != "LAB" or call.path.startswith("move")]
    left = plain if faults and fails(plain) else list(calls)
    again = left is plain or fails(left)
    said = f"# replayed: {'the same' if again else 'all as expected'}\n"
    return said + script(shortened(left, fails) if again else left, faults)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.walk", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 16))
    parser.add_argument("--hypervisors", type=int, default=2)
    parser.add_argument("--droplets", type=int, default=4)
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first disagreement")
    parser.add_argument("--tag", default="walk", help="names the namespaces; two walks need two tags")
    options = parser.parse_args()
    try:
        with lab_site(options.tag, options.hypervisors, options.droplets) as site:
            say = lambda text: print(text, flush=True)  # noqa: E731
            return 1 if walk(site, options.steps, options.seed, options.keep_going, say) else 0
    except KeyboardInterrupt:
        return 130
    except LabError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
