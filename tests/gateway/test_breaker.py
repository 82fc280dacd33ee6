"""The breaker and the retry budget as rules over time: what passes, and when, in any order of events."""

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from small4.gateway.breaker import CLOSED, BreakerConfig, BreakerState, Pass, admit, begin, report
from small4.gateway.health import Health, Outcome
from small4.gateway.retry_budget import RetryBudget, RetryConfig

CONFIG = BreakerConfig()


def after(state: BreakerState, *verdicts: str, now: float = 0.0, passed: Pass = "normal") -> BreakerState:
    for verdict in verdicts:
        state = report(state, passed, verdict, now, CONFIG)
    return state


def test_faults_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    four = after(CLOSED, *["fault"] * 4)
    assert admit(four, 0.0, CONFIG)[1] == "normal"
    assert after(four, "success") == CLOSED
    assert after(four, "unknown") == four
    assert admit(after(four, "fault"), 0.5, CONFIG)[1] is None


def test_half_open_lets_one_probe_pass() -> None:
    state = after(CLOSED, *["fault"] * 5)
    state, first = admit(state, 1.0, CONFIG)
    state, second = admit(state, 1.0, CONFIG)
    assert (first, second) == ("probe", None)
    assert after(state, "success", passed="probe") == CLOSED
    assert after(state, "answered", passed="probe") == CLOSED


def test_failed_probe_doubles_the_pause_up_to_its_limit() -> None:
    state, now, pauses = after(CLOSED, *["fault"] * 5), 0.0, []
    for _ in range(6):
        pauses.append((state.open_until or 0.0) - now)
        now = state.open_until or 0.0
        state, passed = admit(state, now, CONFIG)
        assert passed == "probe"
        state = report(state, "probe", "fault", now, CONFIG)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_probe_whose_caller_left_makes_room_for_another_and_so_does_a_lost_one() -> None:
    state, _ = admit(after(CLOSED, *["fault"] * 5), 1.0, CONFIG)
    assert admit(after(state, "unknown", passed="probe"), 1.1, CONFIG)[1] == "probe"
    assert admit(state, 1.0 + CONFIG.probe_seconds, CONFIG)[1] == "probe"


def test_probe_that_begins_to_answer_opens_the_way_and_one_fault_closes_it_for_twice_as_long() -> None:
    state, _ = admit(after(CLOSED, *["fault"] * 5), 1.0, CONFIG)
    trusted = begin(state, "probe", CONFIG)
    assert admit(trusted, 1.1, CONFIG) == (trusted, "normal")
    assert after(trusted, "success", now=30.0) == CLOSED
    broken_off = after(trusted, "fault", now=30.0)
    assert broken_off.open_until == 30.0 + 2 * CONFIG.pause_seconds
    assert begin(broken_off, "normal", CONFIG) == broken_off


def test_success_that_began_before_the_pause_does_not_end_it() -> None:
    state = after(CLOSED, *["fault"] * 5)
    assert after(state, "success", "answered") == state


def test_refusal_of_one_request_leaves_the_route_to_others_and_two_in_a_row_do_not() -> None:
    once = after(CLOSED, "barred")
    assert admit(once, 0.0, CONFIG)[1] == "normal"
    assert after(once, "success") == after(once, "answered") == CLOSED
    assert after(once, "barred").open_until == CONFIG.key_pause_seconds
    assert after(CLOSED, "key").open_until == CONFIG.key_pause_seconds


def test_barred_probe_makes_room_for_another_and_the_next_opens_it() -> None:
    state, _ = admit(after(CLOSED, *["fault"] * 5), 1.0, CONFIG)
    state = after(state, "barred", now=1.1, passed="probe")
    state, passed = admit(state, 1.2, CONFIG)
    assert passed == "probe"
    assert after(state, "barred", now=1.3, passed="probe").open_until == 1.3 + CONFIG.key_pause_seconds


@dataclass
class Watch:
    """What must hold at every step, whatever happens."""

    state: BreakerState = CLOSED
    now: float = 0.0
    on_their_way: list[Pass] = field(default_factory=list)

    def ask(self) -> None:
        before = self.state
        self.state, passed = admit(self.state, self.now, CONFIG)
        match before.phase(self.now):
            case "closed":
                assert passed == "normal"
            case "open":
                assert passed is None
            case "half-open":
                assert passed != "normal"
        if passed is not None:
            self.on_their_way.append(passed)
        assert self.on_their_way.count("probe") <= 1

    def begin(self, index: int) -> None:
        if self.on_their_way:
            index %= len(self.on_their_way)
            self.state = begin(self.state, self.on_their_way[index], CONFIG)
            self.on_their_way[index] = "normal"

    def end(self, index: int, verdict: str, asked: float | None) -> None:
        if not self.on_their_way:
            return
        passed = self.on_their_way.pop(index % len(self.on_their_way))
        before = self.state
        self.state = report(self.state, passed, verdict, self.now, CONFIG, asked)
        if self.state.open_until is not None and before.open_until is not None:
            assert self.state.open_until >= before.open_until
        if asked and verdict == "fault":
            assert (self.state.open_until or 0.0) >= self.now + min(asked, CONFIG.max_asked_seconds)
        if passed == "probe" and verdict in ("success", "answered"):
            assert self.state == CLOSED


EVENTS = st.one_of(
    st.just(("ask",)),
    st.tuples(st.just("begin"), st.integers(0, 20)),
    st.tuples(st.just("wait"), st.floats(0, 3)),
    st.tuples(
        st.just("end"),
        st.integers(0, 20),
        st.sampled_from(["success", "fault", "fault", "fault", "key", "barred", "answered", "unknown"]),
        st.none() | st.floats(0.1, 5000),
    ),
)


@settings(max_examples=60)
@given(events=st.lists(EVENTS, max_size=60))
def test_whatever_happens_one_probe_at_a_time_and_no_pause_cut_short(events: list[tuple]) -> None:
    watch = Watch()
    for event in events:
        match event:
            case ("ask",):
                watch.ask()
            case ("wait", seconds):
                watch.now = min(watch.now + seconds, 140.0)  # a probe that is out for longer counts as lost
            case ("begin", index):
                watch.begin(index)
            case ("end", index, verdict, asked):
                watch.end(index, verdict, asked)


def test_dead_upstream_gets_little_and_is_found_again_in_ten_seconds() -> None:
    """A hundred requests a second; each failure is known after 50 ms; the upstream comes back at a random moment."""
    now = [0.0]
    health = Health(clock=lambda: now[0])
    sent, waiting, back_at, found_at = [], [], 33.37, None
    for tick in range(5000):
        now[0] = tick / 100
        while waiting and waiting[0][0] <= now[0]:
            _, passed, is_alive = waiting.pop(0)
            health.record("a", passed, Outcome(verdict="success" if is_alive else "fault"))
            if is_alive and found_at is None:
                found_at = now[0]
        passed = health.admit("a")
        if passed is not None:
            sent.append(now[0])
            waiting.append((now[0] + 0.05, passed, now[0] >= back_at))
    assert found_at is not None
    assert found_at - back_at <= 10
    dead = [moment for moment in sent if moment < back_at]
    assert len([moment for moment in dead if moment < 2]) <= 12
    probes = [moment for moment in dead if moment >= 2]
    assert all(later - earlier >= 1 for earlier, later in pairwise(probes))


@settings(max_examples=60)
@given(
    events=st.lists(st.tuples(st.floats(0, 0.7), st.booleans()), max_size=200),
    share=st.sampled_from([0.0, 0.2, 0.5]),
    least=st.integers(0, 4),
)
def test_retries_stay_within_their_share_of_the_window(events: list[tuple], share: float, least: int) -> None:
    config = RetryConfig(share=share, min_retries=least)
    budget, now, requests, retries = RetryBudget(config), 0.0, [], []
    for pause, is_retry in events:
        now += pause

        def in_window(moments: list[float], now: float = now) -> int:
            return sum(int(moment) > int(now) - config.window_seconds for moment in moments)

        if not is_retry:
            budget.note_request(now)
            requests.append(now)
        elif budget.may_retry(now):
            retries.append(now)
            assert in_window(retries) <= max(least, share * in_window(requests))
        else:
            assert in_window(retries) + 1 > max(least, share * in_window(requests))
