"""`batch --ray`: the list over the cards of a Ray cluster. The state of a job is in its folder, not here.

This process keeps a card busy with one job at a time, sends a job that was cut short again (it goes on from its
checkpoint), and begins no other one on a card whose machine will not do. Killed, it takes its cards along; started
again, it finds in the folders what is left.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from backend.batch.ray_card import Card
from backend.batch.ray_progress import Row, Shown
from backend.batch.resident_worker import CRASHED
from backend.batch.share import (
    DONE,
    ENDS_THE_PROCESS,
    FAILED,
    RUNNING,
    SKIPPED,
    STOPPED,
    WAITING,
    Share,
    state_of,
)
from backend.batch.store import Store
from backend.errors import DeviceError, InputError
from backend.interrupts import Interrupts
from dreamflow_blender.contract.protocol import Job, encode_job
from dreamflow_blender.contract.wire import show_text

TRIES = 10  # of a job that is cut short, by its process's or its node's end, before it comes to a checkpoint
HELD = 40  # times that a job is found in other hands before it is left to them
ROOM = 30.0  # seconds until it is said that the cluster has no room
TICK = 1.0  # seconds between two looks at the cards
LOST_SECONDS = 300.0  # to wait for a lost card where there is no other
LEAVE = 60.0  # seconds that running jobs have for their checkpoint
INSTALL = (
    "Install it: .venv/bin/python -m ensurepip, and .venv/bin/python -m pip install -r requirements-ray.txt"
)
EVERY_NODE = "All nodes need this project in this folder, the packages of requirements-ray.txt, and what --store needs."
PASSED = ("DREAMFLOW_", "OMP_NUM_THREADS", "HF_H")  # variables of this process that a card's worker gets
LOCAL = "local"  # --ray without an address: a cluster of this machine alone
OK, SOME_FAILED = 0, 1


def run_on_ray(
    args: argparse.Namespace, jobs: Sequence[Job], share: Share, shown: Shown, interrupts: Interrupts,
    command: tuple[str, ...] = (),
) -> int:  # fmt: skip
    """The exit code. Raises InputError where Ray is missing or nodes have other versions, DeviceError without cards.

    interrupts  what ends the work: a signal, or that no one reads what is said
    command     what a card starts in place of its Python's backend
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own is 15: a job is no background task
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs the package ray, which is not installed.", INSTALL) from error
    if (args.store or "").startswith("memory:"):
        raise InputError(
            f"--store {args.store} is kept by each process for itself.", "Name a place that all nodes reach."
        )
    # named, else Ray joins whatever cluster RAY_ADDRESS or a file in its folder names
    place = {"address": args.ray} | ({"_node_ip_address": "127.0.0.1"} if args.ray == LOCAL else {})
    code = str(Path(__file__).parents[2])
    driver = Driver(args, jobs, share, shown, interrupts, command)
    interrupts.may_wait = True
    try:
        with interrupts:
            ray.init(
                **place, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
                runtime_env={"env_vars": {"PYTHONPATH": code}},
            )  # fmt: skip
            interrupts.listen()  # Ray has put its own there
            return driver.work()
    except KeyboardInterrupt:  # the second one
        return driver.stopped()
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        if ray.is_initialized():
            raise
        raise InputError(
            f"The Ray cluster at {args.ray} cannot be joined: {str(error).splitlines()[0]:.200}",
            "Check the address, and that ~/.ray/auth_token is the cluster's (ray get-auth-token).",
        ) from error
    finally:
        shown.close()
        ray.shutdown()


def at_once(there: Mapping[str, float], device: str, gpus: float, workers: int) -> tuple[int, float]:
    """How many jobs run at a time, and how much of a card each takes: 0 on a cluster without cards.

    there    what Ray says that the cluster has
    gpus     of a card, that a job is to take
    workers  at most, where it is not 1; without cards, exactly

    Raises DeviceError where a job would take more cards than there are.
    """
    found = there.get("GPU", 0)
    if device in ("auto", "cuda") and found >= gpus:
        cards = int(found / gpus)
        return (min(cards, workers) if workers > 1 else cards), gpus
    if device == "cuda" or (device == "auto" and found):
        raise DeviceError(
            f"The Ray cluster has {found:g} cards, and a job takes {gpus:g}.",
            "Start nodes with a card, lower --gpus-per-job, or take --device cpu.",
        )
    return workers, 0


class Driver:
    """The cards of a cluster and what is left of the list."""

    def __init__(
        self, args: argparse.Namespace, jobs: Sequence[Job], share: Share, shown: Shown, interrupts: Interrupts,
        command: tuple[str, ...],
    ) -> None:  # fmt: skip
        self._args, self._share, self._shown, self._command = args, share, shown, command
        self._interrupts = interrupts
        self._places = {job.folder: number for number, job in enumerate(jobs, 1)}
        self._store = Store(args.store) if args.store else None
        self._left: deque[Job] = deque(jobs)
        self._tries: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Job]] = {}  # by Ray's reference
        self._lost: dict[Any, Any] = {}  # cards, by the reference that says that they are there again
        self._ended: Counter[str] = Counter()  # by their state

    def work(self) -> int:
        """The exit code."""
        import ray

        if self._interrupts.asked:
            return self._stop()
        self._left = deque(job for job in self._left if self._is_due(job))
        self._ended[SKIPPED] = len(self._places) - len(self._left)
        if not self._left:
            return OK
        count, gpus = at_once(
            ray.cluster_resources(), self._args.device, self._args.gpus_per_job, self._args.workers
        )
        self._idle = self._cards(min(len(self._left), count), gpus)
        if self._interrupts.asked:
            return self._stop()
        worked = time.monotonic()
        while self._running or (self._left and (self._idle or self._lost)):
            while (
                self._left and self._idle and not self._interrupts.asked
            ):  # one job a card: no queue builds up in Ray
                card, job = self._idle.pop(), self._left.popleft()
                self._running[card.work.remote(encode_job(job))] = card, job
                self._shown.started(self._labelled(job, f"{show_text(job.prompt)}: {show_text(job.folder)}"))
            ended, _ = ray.wait([*self._running, *self._lost], timeout=TICK)
            for reference in ended:
                self._look_for(reference) if reference in self._lost else self._take(reference)
            if self._interrupts.asked:
                return self._stop()
            now = time.monotonic()
            if self._running:
                worked = now
            elif now - worked > LOST_SECONDS:
                break
            counts = {**self._ended, RUNNING: len(self._running), WAITING: len(self._left)}
            self._shown.show(counts, self._rows)
        if self._left:
            self._shown.say("No card is left that can work. The same command goes on when that is mended.")
        return SOME_FAILED if self._left or self._ended[FAILED] else OK

    def _look_for(self, reference: Any) -> None:
        """A card that was lost: whether Ray has started it again, on another node where there is room."""
        import ray

        card = self._lost.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.ActorUnavailableError:
            time.sleep(TICK)
            self._lost[card.about.remote()] = card
        except ray.exceptions.RayActorError:
            return  # never
        else:
            self._idle.append(card)

    def _is_due(self, job: Job) -> bool:
        if self._store:
            self._store.pull(Path(job.folder))
        state = state_of(job, self._share.record(job))
        return state in (WAITING, STOPPED) or (self._args.retry and state != DONE)

    def _cards(self, count: int, gpus: float) -> list[Any]:
        """Actors, on whichever nodes have room. InputError where their versions are not this process's."""
        import ray

        from backend.jobs.folder import versions

        actor = ray.remote(Card).options(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_concurrency=4)
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
        place = str(self._args.out), self._args.store or "", str(Path.cwd())
        given = (*place, self._args.retry, self._command, json.dumps(passed))
        cards = [actor.remote(*given) for _ in range(count)]
        own = {**versions(), "ray": ray.__version__}
        asked = [card.about.remote() for card in cards]
        began = time.monotonic()
        while len(started := ray.wait(asked, num_returns=count, timeout=TICK)[0]) < count:
            if self._interrupts.asked:
                return []
            if began and time.monotonic() - began > ROOM:
                began = 0.0  # said once
                self._shown.say(f"{count - len(started)} of {count} processes wait for room on the cluster.")
        try:
            abouts = [json.loads(text) for text in ray.get(asked)]
        except ray.exceptions.RayActorError as error:
            *_, last = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise InputError(f"A node's process did not start: {last:.300}", EVERY_NODE) from error
        for about in abouts:
            if other := {name: found for name, found in about["versions"].items() if own[name] != found}:
                said = ", ".join(f"{name} {found} (here {own[name]})" for name, found in other.items())
                raise InputError(
                    f"Node {about['node']} has {said}.", "Install the same versions on all nodes."
                )
        self._shown.say(f"{count} at a time, on {', '.join(sorted({about['node'] for about in abouts}))}.")
        return cards

    def _take(self, reference: Any) -> None:
        """What became of a job that has come back."""
        import ray

        card, job = self._running.pop(reference)
        try:
            said = json.loads(ray.get(reference))
        except ray.exceptions.RayActorError as error:
            self._lost[card.about.remote()] = card
            self._again(job, f"its node or process was lost ({type(error).__name__})")
            return
        state, node = said["state"], said["node"]
        if said.get("kind") in ENDS_THE_PROCESS:
            ray.kill(card)
            self._left.append(job)
            self._line(job, f"{node} is given no other job: {said['message']} {said['todo']}")
            return
        self._idle.insert(0, card)
        if state == RUNNING:  # another process has it
            self._held[job.folder] += 1
            if self._held[job.folder] < HELD:
                self._left.append(job)
        elif said.get("kind") == CRASHED and not self._interrupts.asked:
            if said["kept"]:
                del self._tries[job.folder]
            self._again(job, f"{said['message']} on {node}", said["log"])
        elif state in (DONE, SKIPPED):
            self._ended[state] += 1
            if self._store:
                self._store.pull(Path(job.folder))
            took = (
                f" in {said['seconds']:.1f} s, {said['read']} networks read"
                if "seconds" in said
                else " already"
            )
            self._line(job, f"Done{took} on {node}: {job.prompt}")
        elif "kind" in said:
            self._ended[FAILED] += 1
            self._line(
                job,
                f"Failed on {node}: {job.prompt}: {said['message']} {said['todo']}\n{said['log']}".rstrip(),
            )

    def _again(self, job: Job, why: str, log: str = "") -> None:
        self._tries[job.folder] += 1
        if self._tries[job.folder] < TRIES:
            self._left.appendleft(job)
            self._line(job, f"Cut short, {why}. It goes on from its checkpoint.")
            return
        self._ended[FAILED] += 1
        self._line(job, f"Given up after {TRIES} tries: {job.prompt}: {why}\n{log}".rstrip())

    def _stop(self) -> int:
        import ray

        self._shown.say("Stopping, and keeping what there is. Sent again, it stops at once.")
        for card, _ in self._running.values():
            card.stop.remote()
        ray.wait(
            list(self._running), num_returns=len(self._running), timeout=LEAVE
        ) if self._running else None
        return self.stopped()

    def stopped(self) -> int:
        """The exit code after a signal, or where no one reads what is said."""
        self._shown.say("Stopped. The same command goes on.")
        return 128 + self._interrupts.signal if self._interrupts.signal else SOME_FAILED

    def _rows(self) -> list[Row]:
        """The jobs that run, of those cards that answer: one that was lost is being started again."""
        import ray

        asked = {card.progress.remote(): job for card, job in self._running.values()}
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=TICK) if asked else ([], [])
        rows = []
        for reference in answered:
            with suppress(ray.exceptions.RayError):
                if now := json.loads(ray.get(reference)):
                    where = now["stage"], now["iteration"], now["total"], now["node"]
                    rows.append(Row(self._labelled(asked[reference]), show_text(now["prompt"]), *where))
        return rows

    def _line(self, job: Job, text: str) -> None:
        self._shown.say(self._labelled(job, "\n".join(map(show_text, text.split("\n")))))

    def _labelled(self, job: Job, text: str = "") -> str:
        return f"[{self._places[job.folder]}/{len(self._places)}] {text}".rstrip()
