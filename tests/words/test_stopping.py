"""Tests of signals that ask to stop: they wait or raise where they should, and handlers are put back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from nndiff.words.stopping import STOPPING, Stopped, handled, held, raise_stopped

pytestmark = pytest.mark.usefixtures("heard")


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", STOPPING)
def test_a_held_signal_waits_and_is_known(signum: int) -> None:
    with held() as stop:
        assert stop.asked is None
        send(signum)
        assert stop.asked == signum


@pytest.mark.parametrize("signum", STOPPING)
def test_a_signal_raises_at_once_where_it_may(signum: int) -> None:
    with held() as stop, pytest.raises(Stopped) as caught, stop.at_once():
        send(signum)
    assert caught.value.signum == signum
    assert caught.value.code == (130 if signum == signal.SIGINT else 75)


def test_a_signal_that_has_waited_raises_where_it_may() -> None:
    with held() as stop:
        send(signal.SIGTERM)
        with pytest.raises(Stopped), stop.at_once():
            raise AssertionError("not reached")
        send(signal.SIGHUP)  # waits again
        assert stop.asked == signal.SIGTERM, "the first is told"


def test_after_it_raised_saving_is_not_cut_by_another_one() -> None:
    with held() as stop:
        try:
            with stop.at_once():
                try:
                    send(signal.SIGTERM)
                finally:
                    send(signal.SIGTERM)  # while the first one unwinds
        except Stopped:
            send(signal.SIGTERM)


def test_a_second_ctrl_c_does_not_wait() -> None:
    with held() as stop:
        send(signal.SIGINT)
        assert stop.asked == signal.SIGINT
        with pytest.raises(Stopped):
            send(signal.SIGINT)


def test_what_was_ignored_stays_ignored() -> None:
    """As nohup ignores SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with held() as stop, handled(STOPPING, raise_stopped):
        send(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert stop.asked is None
        with pytest.raises(Stopped):
            send(signal.SIGUSR1)
    signal.signal(signal.SIGHUP, signal.default_int_handler)


def test_another_thread_holds_nothing() -> None:
    seen: list[object] = []

    def work() -> None:
        with held() as stop:
            seen.append(signal.getsignal(signal.SIGTERM))
            seen.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler, None]
