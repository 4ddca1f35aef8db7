"""Random lives of jobs on a real database, each step compared with a model in plain Python.

Clients, workers of several device classes and the sweeper act in any order; attempts that lost
their lease go on as if nothing had happened. The clock stands still between steps, so every
moment in every row is predicted too. The run is the same each time; `APIQ_MACHINE_EXAMPLES=2000`
makes a longer one of fresh random examples.
"""

import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck
from hypothesis import settings as budget
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr
from sqlalchemy import Connection

from jobs import checkpoints, intake, leases, maintenance, repository, schema, secrets
from jobs.artifacts import MANIFEST, Stored, block_key
from jobs.database import Database
from jobs.errors import IdempotencyKeyReused, JobError, LeaseLost
from jobs.intake import Order, RequestName
from jobs.job import Artifact, Job
from jobs.requests import FinetuneRequest, QuantizeRequest
from jobs.settings import Settings
from tests.integration.jobs import job_rows
from tests.integration.jobs.frozen_clock import START_MS, FrozenClock
from tests.integration.jobs.job_model import Model, Refusal, Wish

LEASE_TTL_S = 10.0
ERROR = {"code": "it_broke", "message": "it broke", "fault": "infra", "retryable": True}
TOKEN = "hf_canary"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
EXAMPLES = os.environ.get("APIQ_MACHINE_EXAMPLES")
BUDGET = budget(
    stateful_step_count=60,
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

OWNERS = ("", "one", "two")
DATASETS = {owner: f"ds_{number:032}" for number, owner in enumerate(OWNERS)}

seconds = st.sampled_from([None, None, None, 5, 60])
wishes = st.builds(
    Wish,
    owner=st.sampled_from(["", "one", "one", "two"]),
    priority=st.sampled_from([0, 0, 5, -5]),
    device_class=st.sampled_from(["any", "cpu", "cuda"]),
    max_pending_s=seconds,
    max_runtime_s=seconds,
)


block = st.sampled_from([None, None, 0, 2])  # how far an attempt gets

# one of the youngest jobs, forgotten ones too; an attempt that has its job
any_job = st.runner().flatmap(lambda machine: st.sampled_from(machine.accepted[-5:]))
any_holder = st.runner().flatmap(lambda machine: st.sampled_from(machine.holders()))


def holder_rule(**arguments: Any) -> Callable[[Any], Any]:
    """A rule for `held`, an attempt that has its job; others: `go_on_late`."""
    applies = precondition(lambda machine: bool(machine.holders()))
    held_rule: Callable[[Any], Any] = rule(held=any_holder, **arguments)
    return lambda method: applies(held_rule(method))


def dataset(owner: str) -> dict[str, Any]:
    """The one of an owner, as a row."""
    numbers = {"size_bytes": 10_000, "characters": 10_000, "created_at": LONG_AGO}
    return {"id": DATASETS[owner], "owner": owner, "kind": "text", "sha256": "0" * 64} | numbers


def fields_of(wish: Wish) -> dict[str, Any]:
    return {name: value for name, value in vars(wish).items() if name != "owner"}


def finetune(wish: Wish, base: str, **fields: Any) -> FinetuneRequest:
    asked = {"type": "finetune", "base": base, "dataset": DATASETS[wish.owner]}
    return FinetuneRequest.model_validate(asked | fields_of(wish) | fields)


class JobMachine(RuleBasedStateMachine):
    """`accepted` are ids, of forgotten jobs too; `claimed` are what claims returned."""

    def __init__(self, database: Database, clock: FrozenClock, settings: Settings) -> None:
        super().__init__()
        self.database, self.clock, self.settings = database, clock, settings
        with database.begin() as connection:
            connection.exec_driver_sql("DELETE FROM jobs")
            connection.exec_driver_sql("DELETE FROM datasets")
            connection.execute(schema.datasets.insert(), [dataset(owner) for owner in OWNERS])
        clock.set(START_MS)
        self.model = Model(settings, START_MS)
        self.rows: dict[str, job_rows.JobRows] = {}
        self.was_refused = False
        self.accepted: list[str] = []
        self.claimed: list[Job] = []

    def holders(self) -> list[Job]:
        return [job for job in self.claimed if self.model.holder(job.id, job.attempt)]

    # every life begins with a job that waits and one that runs, maybe with one that waits for that

    @initialize(first=wishes, second=wishes, chain=st.booleans())
    def start(self, first: Wish, second: Wish, chain: bool) -> None:
        self.accept(first, None, True, "m", chain)
        self.wait(1)
        self.take("w1", "cuda" if first.device_class == "cuda" else "cpu")
        self.accept(second, None, False, "m")

    # clients

    @rule(
        wish=wishes,
        key=st.none() | st.sampled_from(["a", "b"]),
        token=st.booleans(),
        model=st.sampled_from(["m", "n"]),
        chain=st.booleans(),
    )
    def accept(
        self, wish: Wish, key: str | None, token: bool, model: str, chain: bool = False
    ) -> None:
        """As POST /jobs does it: an idempotency key is looked up first."""
        shared = fields_of(wish)
        quantize = QuantizeRequest(
            model=model, bits=2, hub_token=SecretStr(TOKEN) if token else None, **shared
        )
        request = finetune(wish, model, bits=2) if chain else quantize
        name = None if key is None else RequestName(key, request.body_sha256())
        first = self.model.with_key(wish.owner, key)
        if name is not None:
            reused = first is not None and self.rows[first].job["body_sha256"] != name.body_sha256
            with self.refused(IdempotencyKeyReused if reused else None):
                earlier = self.run(lambda c: intake.earlier(c, wish.owner, name))
                assert (earlier and earlier.id) == first
        if first is not None:
            return
        order = Order(request, wish.owner, name)
        if chain:
            order = replace(order, base=Order(quantize, wish.owner))
        with self.refused(self.model.may_accept(wish.owner, len(order.parts))):
            job = self.run(lambda c: intake.accept(c, order, self.settings))
            self.add(job, wish, token, key=key, made=chain)

    @rule(base=any_job, wish=wishes)
    def train(self, base: str, wish: Wish) -> None:
        """Submit a finetune job on a job that is there, ended or not; others: `POST` tests."""
        if not self.model.may_be_trained_on(base):
            return
        wish = replace(wish, owner=self.model.jobs[base].wish.owner)
        with self.refused(self.model.may_accept(wish.owner)):
            order = Order(finetune(wish, base), wish.owner)
            job = self.run(lambda c: intake.accept(c, order, self.settings))
            self.add(job, wish, token=False)

    @rule(old=any_job, token=st.booleans())
    def retry(self, old: str, token: bool) -> None:
        hub_token = SecretStr(TOKEN) if token else None
        repeated = self.model.visible(old)
        takes_base = repeated is not None and self.model.is_base_lost(repeated)
        base = None if repeated is None or takes_base else repeated.base
        if base is not None and not self.model.may_be_trained_on(base):
            return  # it was deleted
        with self.refused(self.model.may_retry(old)):
            job = self.run(lambda c: intake.retry(c, old, self.settings, hub_token=hub_token))
            assert repeated is not None
            wish = repeated.wish
            assert wish == Wish(**{name: getattr(job, name) for name in vars(wish)})
            base_wish = self.model.jobs[repeated.base].wish if repeated.base else None
            self.add(job, wish, token, made=takes_base, base_wish=base_wish, retry_of=old)
            if takes_base:
                assert job.waits_for is not None
                self.model.jobs[job.waits_for].retry_of = repeated.base

    def add(
        self,
        job: Job,
        wish: Wish,
        token: bool,
        *,
        made: bool = False,
        base_wish: Wish | None = None,
        **fields: Any,
    ) -> None:
        """Tell the model of a job that was accepted, and of the base that was made for it."""
        if made:
            assert job.waits_for is not None
            self.model.accept(job.waits_for, base_wish or wish, made_for=job.id, token=token)
            self.accepted.append(job.waits_for)
        base = job.input.get("base")
        waits = base is not None and not self.model.jobs[base].ended
        self.model.accept(
            job.id,
            wish,
            base=base,
            waits_for=base if waits else None,
            token=token and not made,
            **fields,
        )
        self.accepted.append(job.id)

    @rule(job=any_job)
    def cancel(self, job: str) -> None:
        with self.refused(self.model.cancel(job)):
            answer = self.run(lambda c: repository.request_cancel(c, job))
            assert answer.state == self.model.jobs[job].state

    @holder_rule(stops=st.booleans())
    def cancel_held(self, held: Job, stops: bool) -> None:
        self.cancel(held.id)
        if stops:
            self.rows_are_as_expected()
            self.stop(held)

    @rule(job=any_job)
    def delete(self, job: str) -> None:
        with self.refused(self.model.delete(job)):
            self.run(lambda c: repository.delete(c, job))

    # workers

    @rule(
        worker=st.sampled_from(["w1", "w2"]),
        device_class=st.sampled_from(["cpu", "cuda"]),
        block=block,
    )
    def claim(self, worker: str, device_class: str, block: int | None) -> None:
        self.take(worker, device_class, block)

    def take(self, worker: str, device_class: str, block: int | None = None) -> Job | None:
        """A claim; some attempts get as far as a block."""
        expected = self.model.claim(worker, device_class, round(LEASE_TTL_S * 1000))
        job = self.run(
            lambda c: leases.claim(
                c,
                worker_id=worker,
                device_class=device_class,
                lease_ttl_s=LEASE_TTL_S,
                max_running_jobs=self.settings.max_running_jobs_per_owner,
            )
        )
        assert (job and job.id) == expected
        if job is None:
            return None
        if self.model.jobs[job.id].token:
            read = self.run(lambda c: secrets.hub_token(c, job.id, self.settings))
            assert read == TOKEN
        self.claimed.append(job)
        if block is not None:
            self.checkpoint(job, block)
        return job

    @holder_rule()
    def beat(self, held: Job) -> None:
        with self.refused(self.model.beat(held.id, held.attempt, round(LEASE_TTL_S * 1000))):
            answer = self.run(lambda c: leases.beat(c, held.id, held.attempt, LEASE_TTL_S))
            assert answer.cancel == (self.model.jobs[held.id].state == "cancelling")

    @holder_rule()
    def look(self, held: Job) -> None:
        job = self.model.holder(held.id, held.attempt)
        is_held = self.run(lambda c: maintenance.is_held(c, held.id, held.attempt))
        assert is_held == (job is not None)
        with self.refused(LeaseLost if job is None else None):
            answer = self.run(lambda c: leases.look(c, held.id, held.attempt))
            assert job is not None and answer.cancel == (job.state == "cancelling")

    @holder_rule(
        events=st.sampled_from([0, 1, 3]),
        phase=st.none() | st.sampled_from(["calibrating", "quantizing"]),
        done=st.none() | st.integers(0, 9),
    )
    def record(self, held: Job, events: int, phase: str | None, done: int | None) -> None:
        with self.refused(self.model.record(held.id, held.attempt, events, phase, done)):
            self.run(
                lambda c: leases.record(
                    c,
                    held.id,
                    held.attempt,
                    [("block", {"index": index}) for index in range(events)],
                    phase=phase,
                    progress=None if done is None else {"done": done},
                )
            )

    @holder_rule(block=st.integers(0, 3))
    def checkpoint(self, held: Job, block: int) -> None:
        stored = Stored(size_bytes=1, sha256="0" * 64)
        key = block_key(held.id, held.attempt, block)
        with self.refused(self.model.checkpoint(held.id, held.attempt, block)):
            self.run(lambda c: checkpoints.record(c, held.id, held.attempt, block, key, stored))

    @holder_rule(block=st.integers(0, 3))
    def drop_checkpoints(self, held: Job, block: int) -> None:
        with self.refused(self.model.drop(held.id, held.attempt, block)):
            self.run(lambda c: checkpoints.drop(c, held.id, held.attempt, block))

    @holder_rule()
    def publish(self, held: Job) -> None:
        files = [
            Artifact(path, 1, "0" * 64, "text/plain", f"jobs/j/attempts/{held.attempt}/{path}")
            for path in (MANIFEST, "model/a")
        ]
        keys = tuple(file.key for file in files)
        with self.refused(self.model.publish(held.id, held.attempt, keys)):
            self.run(lambda c: leases.publish(c, held.id, held.attempt, files, {"bits": 2}))

    @holder_rule()
    def fail(self, held: Job) -> None:
        with self.refused(self.model.fail(held.id, held.attempt, "it_broke")):
            self.run(lambda c: leases.fail(c, held.id, held.attempt, ERROR))

    @holder_rule()
    def stop(self, held: Job) -> None:
        with self.refused(self.model.cancelled(held.id, held.attempt)):
            self.run(lambda c: leases.cancelled(c, held.id, held.attempt))

    @holder_rule(again=st.booleans())
    def drain(self, held: Job, again: bool = False) -> None:
        with self.refused(self.model.requeue(held.id, held.attempt)):
            self.run(lambda c: leases.requeue(c, held.id, held.attempt, "drained"))
        if again and not self.was_refused:
            self.next_attempt(held)

    @holder_rule(again=st.booleans())
    def lose(self, held: Job, again: bool = False) -> None:
        with self.refused(self.model.lose(held.id, held.attempt, "it_broke")):
            self.run(lambda c: leases.lose(c, held, ERROR, self.settings))
        if again and not self.was_refused:
            self.next_attempt(held)

    @precondition(lambda self: len(self.holders()) < len(self.claimed))
    @rule()
    def go_on_late(self) -> None:
        """Who lost a job not long ago tries everything with it."""
        for lost in self.claimed[-3:]:
            if self.model.holder(lost.id, lost.attempt) is None:
                self.beat(lost)
                self.look(lost)
                self.record(lost, 1, "quantizing", 1)
                self.checkpoint(lost, 0)
                self.drop_checkpoints(lost, 0)
                for end in (self.publish, self.fail, self.stop, self.drain, self.lose):
                    end(lost)

    # time and the sweeper

    # a lease ends exactly after 10 s, the longest pause after 20 s, retention after an hour
    @rule(seconds=st.sampled_from([0.001, 1, 4.999, 5, 10, 10.001, 31, 3600]))
    def wait(self, seconds: float) -> None:
        self.model.now += round(seconds * 1000)
        self.clock.set(self.model.now)

    @rule(after_s=st.sampled_from([0, 1, 5.001]))
    def sweep(self, after_s: float = 0) -> None:
        self.wait(after_s)
        taken_back, clear, deleted = self.model.sweep()
        swept = self.run(lambda c: maintenance.sweep(c, self.settings))
        assert {job.id for job in swept.taken_back} == taken_back
        assert {job.id for job in swept.to_clear} == clear
        assert set(swept.deleted_jobs) == deleted
        for job_id in clear:  # as the sweeper does, once the objects are gone
            self.model.jobs[job_id].blocks.clear()
            self.run(lambda c, job_id=job_id: checkpoints.forget(c, job_id))  # type: ignore[misc]

    @holder_rule(late_ms=st.integers(0, 1))
    def lapse(self, held: Job, late_ms: int = 1) -> None:
        """The worker falls silent, until its lease is just over or almost."""
        job = self.model.holder(held.id, held.attempt)
        if job is not None and job.lease_until is not None:
            self.wait((job.lease_until + late_ms - self.model.now) / 1000)
            self.sweep()

    @holder_rule(
        blocks=st.sampled_from([(None, None), (0, 2), (2, 0), (2, None)]),
    )
    def lapse_again_and_again(self, held: Job, blocks: tuple[int | None, ...]) -> None:
        """Each next attempt gets to a block and falls silent; the last one goes on."""
        for block in (*blocks, None):
            self.lapse(held)
            self.rows_are_as_expected()
            following = self.next_attempt(held, block)
            if following is None:
                return
            self.rows_are_as_expected()
            held = following

    @rule(job=any_job, late_ms=st.integers(0, 1))
    def expire(self, job: str, late_ms: int) -> None:
        """Its time is just over, or almost."""
        limit = self.model.jobs[job].expires_at if job in self.model.jobs else None
        if limit is not None and limit >= self.model.now:
            self.wait((limit + late_ms - self.model.now) / 1000)
            self.sweep()

    def next_attempt(self, lost: Job, block: int | None = None) -> Job | None:
        """After its pause a job is taken up again, if none comes before it."""
        job = self.model.jobs.get(lost.id)
        if job is None or job.state != "queued":
            return None
        self.wait((job.run_after - self.model.now) / 1000)
        return self.take("w1", "cuda" if job.wish.device_class == "cuda" else "cpu", block)

    @rule(job=any_job)
    def forget(self, job: str) -> None:
        self.model.forget(job)
        self.run(lambda c: maintenance.forget_job(c, job))

    # what always holds

    @invariant()
    def rows_are_as_expected(self) -> None:
        old, self.rows = self.rows, job_rows.read(self.database)
        assert list(self.rows) == list(self.model.jobs)
        if self.was_refused:
            assert self.rows == old
            self.was_refused = False
        for job_id, rows in self.rows.items():
            job_rows.check(rows)
            job_rows.check_model(rows, self.model.jobs[job_id])
            if job_id in old:
                job_rows.check_step(old[job_id], rows)
        visible = [job_id for job_id in self.model.jobs if self.model.visible(job_id)]
        listed, _ = self.run(lambda c: repository.list_jobs(c, limit=1000))
        assert [job.id for job in listed] == visible[::-1]

    def teardown(self) -> None:
        """Workers that never lose a job, and the sweeper: everything ends, in a few rounds."""
        for _ in range(4):
            for device_class in ("cpu", "cuda"):
                while job := self.take("w", device_class):
                    self.rows_are_as_expected()
                    self.go_on_late()
                    self.rows_are_as_expected()
                    self.publish(job)
                    self.rows_are_as_expected()
            self.wait(31)
            self.sweep()
            self.rows_are_as_expected()
        assert all(job.ended for job in self.model.jobs.values())
        for job_id in self.model.jobs:
            self.cancel(job_id)
            self.rows_are_as_expected()

    # how a step is done

    def run(self, operation: Callable[[Connection], Any]) -> Any:
        """One transaction."""
        with self.database.begin() as connection:
            return operation(connection)

    @contextmanager
    def refused(self, expected: Refusal) -> Any:
        """The body raises just this error; a step with an error in it changes no value at all."""
        try:
            yield
        except JobError as error:
            assert type(error) is expected
            self.was_refused = True
        else:
            assert expected is None


def test_any_life_of_jobs(database: Database, settings: Settings) -> None:
    settings = settings.model_copy(
        update={
            "secret_key": SecretStr("x" * 32),
            "max_queued_jobs_per_owner": 2,
            "max_running_jobs_per_owner": 1,
            "retention_days": 1 / 24,
            "cancel_grace_s": 10.0,
            "retry_backoff_s": 5.0,
        }
    )
    clock = FrozenClock(database)

    class Machine(JobMachine):
        def __init__(self) -> None:
            super().__init__(database, clock, settings)

    examples = int(EXAMPLES or (15 if database.is_postgresql else 70))  # a round trip costs more
    run_state_machine_as_test(Machine, settings=budget(BUDGET, max_examples=examples))
