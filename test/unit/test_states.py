"""The table of transitions and the roll-up, over all combinations."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from itertools import combinations_with_replacement, pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmtaskservice.domain.states import (
    CONTAINER_STATES,
    TERMINAL_STATES,
    TRANSITIONS,
    ContainerTally,
    DueTransition,
    JobState,
    container_states_before,
    predecessors,
    roll_up,
)

S = JobState
START = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
FORWARD = (
    *(S.CREATED, S.DOWNLOAD_SUBMITTED, S.JOB_SUBMITTING, S.JOB_SUBMITTED),
    *(S.UPLOAD_SUBMITTING, S.UPLOAD_SUBMITTED, S.COMPLETE),
)
BACK = (*FORWARD[:4], S.ERROR_PROCESSING_SUBMITTING, S.ERROR_PROCESSING_SUBMITTED, S.ERROR)
FAILING = frozenset(BACK[4:])
LEVEL = {state: level for branch in (FORWARD, BACK) for level, state in enumerate(branch)}


def at(second: int) -> datetime.datetime:
    return START + datetime.timedelta(seconds=second)


# The table.


def test_every_state_is_in_the_table_and_only_states_are() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert {s for after in TRANSITIONS.values() for s in after} <= set(JobState)


def test_terminal_states_and_no_others_are_sinks() -> None:
    assert {s for s, after in TRANSITIONS.items() if not after} == TERMINAL_STATES
    assert {s for s in JobState if s.is_terminal} == TERMINAL_STATES


def test_no_state_is_orphaned_and_none_is_a_trap() -> None:
    reached, new = {S.CREATED}, {S.CREATED}
    while new:
        new = {s for known in new for s in TRANSITIONS[known]} - reached
        reached |= new
    assert reached == set(JobState)
    for state in set(JobState) - TERMINAL_STATES:
        assert S.ERROR in TRANSITIONS[state]


def test_only_the_start_cannot_be_entered_and_nothing_goes_back() -> None:
    assert [s for s in JobState if not predecessors(s)] == [S.CREATED]
    seen: dict[JobState, int] = {}

    def longest(state: JobState, path: tuple[JobState, ...]) -> int:
        assert state not in path, "a cycle"
        if state not in seen:
            seen[state] = max((longest(s, (*path, state)) + 1 for s in TRANSITIONS[state]), default=0)
        return seen[state]

    assert longest(S.CREATED, ()) == 7


def test_cancelling_is_open_to_all_but_those_who_are_done_or_at_it() -> None:
    assert predecessors(S.CANCELING) == set(JobState) - TERMINAL_STATES - {S.CANCELING}
    assert predecessors(S.CANCELED) == {S.CANCELING}


def test_the_walks_are_those_of_the_contract() -> None:
    for branch in (FORWARD, BACK):
        for state, following in pairwise(branch):
            assert following in TRANSITIONS[state]
    assert TRANSITIONS[S.JOB_SUBMITTED] == {
        *(S.UPLOAD_SUBMITTING, S.ERROR_PROCESSING_SUBMITTING),
        *(S.CANCELING, S.ERROR),
    }
    assert predecessors(S.COMPLETE) == {S.UPLOAD_SUBMITTED}


@pytest.mark.parametrize("state", list(JobState))
def test_predecessors_are_the_table_read_backwards(state: JobState) -> None:
    assert all(state in TRANSITIONS[s] for s in predecessors(state))
    assert all(s in predecessors(following) for s in [state] for following in TRANSITIONS[s])


# What a container's report may do.


def test_containers_never_cancel() -> None:
    assert set(CONTAINER_STATES) == set(JobState) - {S.CANCELING, S.CANCELED}


@pytest.mark.parametrize("state", CONTAINER_STATES)
def test_a_report_moves_a_container_forward_only(state: JobState) -> None:
    before = container_states_before(state)
    assert before <= set(CONTAINER_STATES)
    for known in CONTAINER_STATES:
        same_branch = any(known in branch and state in branch for branch in (FORWARD, BACK))
        forward = LEVEL[known] < LEVEL[state]
        if state is S.ERROR:
            assert (known in before) == (known not in {S.COMPLETE, S.ERROR})
        else:
            assert (known in before) == (same_branch and forward)


def test_a_report_may_do_whatever_the_table_allows() -> None:
    for state in set(CONTAINER_STATES):
        assert predecessors(state) & set(CONTAINER_STATES) <= container_states_before(state)


# The roll-up.


def tallies(most: int) -> list[tuple[JobState, ...]]:
    return [c for n in range(1, most + 1) for c in combinations_with_replacement(CONTAINER_STATES, n)]


def tally_of(containers: Sequence[JobState]) -> ContainerTally:
    """Every container walked its branch without skipping; each level took 100 s and the later container 1 s more."""
    latest: dict[JobState, datetime.datetime] = {}
    for number, state in enumerate(containers):
        for level, passed in enumerate((BACK if state in FAILING else FORWARD)[: LEVEL[state] + 1]):
            latest[passed] = max(latest.get(passed, START), at(100 * level + number))
    return ContainerTally(Counter(containers), latest)


def follow(state: JobState, due: Sequence[DueTransition]) -> JobState:
    """Apply the transitions; each must be one that the table allows."""
    for transition in due:
        assert transition.state in TRANSITIONS[state], f"{state} may not be followed by {transition.state}"
        state = transition.state
    return state


CASES = [(job, containers) for job, containers in product(JobState, tallies(3))]


def test_all_combinations_were_made() -> None:
    assert len(CASES) == 12 * (10 + 55 + 220)


@pytest.mark.parametrize("job", list(JobState))
def test_the_roll_up_of_all_combinations(job: JobState) -> None:
    for containers in tallies(3):
        tally = tally_of(containers)
        due = roll_up(job, tally)
        case = f"job {job.value}, containers {[c.value for c in containers]}, due {[d.state.value for d in due]}"
        end = follow(job, due)
        # A job that is over, or being cancelled, does not follow its containers any more.
        if job.is_terminal or job is S.CANCELING:
            assert not due, case
            continue
        # Once is enough.
        assert not roll_up(end, tally), case
        # The job is never further than its last container, and not behind it where it can follow.
        reached = min(LEVEL[c] for c in containers)
        failing = any(c in FAILING for c in containers)
        if due:
            assert LEVEL[end] <= reached, case
        if all(c is S.COMPLETE for c in containers) and job not in FAILING:
            assert end is S.COMPLETE, case
        if failing and all(c.is_terminal for c in containers):
            assert end is S.ERROR, case
        if end is S.COMPLETE:
            assert all(c is S.COMPLETE for c in containers), case
        if job is S.CREATED:
            # A job that was always with its containers is exactly where its slowest container is, on the branch
            # that the failing ones choose.
            assert end is (BACK if failing else FORWARD)[reached], case
        # Times are those of the containers, and never go back.
        times = [d.time for d in due]
        assert all(t is not None and t in tally.latest.values() for t in times), case
        assert times == sorted(times, key=lambda t: t or START), case


@pytest.mark.parametrize("job", list(JobState))
def test_a_job_without_containers_does_not_follow_any(job: JobState) -> None:
    assert not roll_up(job, ContainerTally({}, {}))
    assert not roll_up(job, ContainerTally({S.COMPLETE: 0}, {}))


def test_zeros_do_not_count() -> None:
    tally = ContainerTally({S.CREATED: 0, S.ERROR: 0, S.COMPLETE: 1}, {s: at(1) for s in FORWARD})
    assert [d.state for d in roll_up(S.CREATED, tally)] == list(FORWARD[1:])
    assert tally.total == 1
    assert tally.all_terminal


def test_each_time_is_that_of_the_last_container_to_come_so_far() -> None:
    tally = tally_of([S.COMPLETE, S.ERROR])
    assert [(d.state, d.time) for d in roll_up(S.CREATED, tally)] == [
        (state, at(100 * level + 1)) for level, state in enumerate(BACK) if level
    ]
    # The failed container was done first: the other one's success makes the error true.
    latest = {**{s: at(9) for s in FORWARD}, **{s: at(3) for s in BACK[4:]}}
    tally = ContainerTally({S.COMPLETE: 1, S.ERROR: 1}, latest)
    assert roll_up(S.ERROR_PROCESSING_SUBMITTED, tally) == (DueTransition(S.ERROR, at(9)),)


def test_a_job_on_the_forward_branch_can_only_fail_when_all_is_over() -> None:
    one_left = tally_of([S.UPLOAD_SUBMITTED, S.ERROR])
    assert not roll_up(S.UPLOAD_SUBMITTING, one_left)
    over = tally_of([S.COMPLETE, S.ERROR])
    assert [d.state for d in roll_up(S.UPLOAD_SUBMITTING, over)] == [S.ERROR]


def test_skipped_states_do_not_turn_time_back() -> None:
    # One container skipped download_submitted and came to job_submitting at 1; the other came to download_submitted
    # at 2 and, skipping job_submitting, to job_submitted at 3.
    latest = {S.CREATED: at(0), S.JOB_SUBMITTING: at(1), S.DOWNLOAD_SUBMITTED: at(2), S.JOB_SUBMITTED: at(3)}
    due = roll_up(S.CREATED, ContainerTally({S.JOB_SUBMITTING: 1, S.JOB_SUBMITTED: 1}, latest))
    assert [(d.state, d.time) for d in due] == [(S.DOWNLOAD_SUBMITTED, at(2)), (S.JOB_SUBMITTING, at(2))]


def test_a_state_that_all_skipped_has_the_time_of_what_came_next() -> None:
    due = roll_up(S.CREATED, ContainerTally({S.COMPLETE: 1}, {S.CREATED: at(0), S.COMPLETE: at(5)}))
    assert [d.time for d in due] == [at(5)] * 6


class Walk:
    """Containers that walk at random, as reports that may skip states move them, with a clock that ticks."""

    def __init__(self, ends: Sequence[JobState]) -> None:
        self.states = [S.CREATED for _ in ends]
        self.ends = ends
        self.latest: dict[JobState, datetime.datetime] = {S.CREATED: at(0)}
        self.came = [dict[int, datetime.datetime]() for _ in ends]
        self.ticks = 0

    def move(self, number: int, steps: int, crash: bool) -> None:
        """Move a container by so many states towards its end; it may crash into `error` from anywhere on its way."""
        state, end = self.states[number], self.ends[number]
        if state.is_terminal:
            return
        branch = BACK if end in FAILING else FORWARD
        new = S.ERROR if crash and end is S.ERROR else branch[min(branch.index(state) + steps, 6)]
        assert state in container_states_before(new)
        self.ticks += 1
        self.states[number] = new
        self.latest[new] = at(self.ticks)
        for level in range(LEVEL[state] + 1, LEVEL[new] + 1):
            self.came[number][level] = at(self.ticks)

    def tally(self) -> ContainerTally:
        return ContainerTally(Counter(self.states), dict(self.latest))

    def truth(self, state: JobState) -> datetime.datetime:
        """When the last container had come as far as `state`."""
        return max(came[LEVEL[state]] for came in self.came)


ENDS = st.lists(st.sampled_from([S.COMPLETE, S.ERROR]), min_size=1, max_size=4)
MOVES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.booleans(), st.booleans()), max_size=30)
Moves = list[tuple[int, int, bool, bool]]


@settings(max_examples=500, deadline=None)
@given(ENDS, MOVES)
def test_looking_at_any_moments_ends_as_looking_once_at_the_end(ends: list[JobState], moves: Moves) -> None:
    walk, job = Walk(ends), S.CREATED
    # In the end all containers come to theirs, whatever was drawn.
    for number, steps, crash, look in [*moves, *((n, 6, False, False) for n in range(4))]:
        walk.move(number % len(ends), steps, crash)
        if look:
            job = follow(job, roll_up(job, walk.tally()))
    job = follow(job, roll_up(job, walk.tally()))
    assert job is follow(S.CREATED, roll_up(S.CREATED, walk.tally()))
    assert job is (S.ERROR if S.ERROR in ends else S.COMPLETE)


@settings(max_examples=500, deadline=None)
@given(ENDS, MOVES)
def test_times_never_go_back_and_are_never_too_late(ends: list[JobState], moves: Moves) -> None:
    walk, job, last = Walk(ends), S.CREATED, at(0)
    for number, steps, crash, look in moves:
        walk.move(number % len(ends), steps, crash)
        due = roll_up(job, walk.tally()) if look else ()
        for transition in due:
            assert transition.time is not None
            assert last <= transition.time <= walk.truth(transition.state)
            last = transition.time
        job = follow(job, due)


@settings(max_examples=500, deadline=None)
@given(ENDS, MOVES)
def test_without_skipped_states_times_are_exact(ends: list[JobState], moves: Moves) -> None:
    walk, job = Walk(ends), S.CREATED
    for number, _, _, look in moves:
        walk.move(number % len(ends), 1, False)
        due = roll_up(job, walk.tally()) if look else ()
        assert [d.time for d in due] == [walk.truth(d.state) for d in due]
        job = follow(job, due)
