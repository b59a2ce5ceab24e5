"""Clocks: each tells the time in whole microseconds and rings alarms; an engine is driven alike by all of them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Final, Protocol


class Alarm(Protocol):
    """Calls back once at the time it is set to."""

    def set(self, at_us: int | None) -> None:
        """Ring at `at_us`, at once if that is past, or not at all; replaces what was set before."""


class Clock(Protocol):
    """Time in microseconds from an arbitrary origin."""

    def now_us(self) -> int:
        """The present."""

    def alarm(self, callback: Callable[[], None]) -> Alarm:
        """Another alarm, which calls `callback`."""

    def close(self) -> None:
        """Release what the clock holds; its alarms do not ring any more."""


class VirtualClock:
    """A clock that stands still until `run` moves it from alarm to alarm: a run takes no time and repeats exactly.

    Of alarms at one moment the one that was made first rings first.
    """

    def __init__(self, start_us: int = 0) -> None:
        self._now_us = start_us
        self._alarms: list[_VirtualAlarm] = []

    def now_us(self) -> int:
        """The present."""
        return self._now_us

    def alarm(self, callback: Callable[[], None]) -> Alarm:
        """Another alarm."""
        self._alarms.append(_VirtualAlarm(callback))
        return self._alarms[-1]

    def run(self, until_us: int | None = None) -> None:
        """Go from alarm to alarm until none is set, or none before `until_us`, which is then the present."""
        while True:
            due = [(alarm.at_us, index) for index, alarm in enumerate(self._alarms) if alarm.at_us is not None]
            if not due or (until_us is not None and min(due)[0] > until_us):
                break
            at_us, index = min(due)
            self._now_us = max(self._now_us, at_us)
            self._alarms[index].at_us = None
            self._alarms[index].callback()
        if until_us is not None:
            self._now_us = max(self._now_us, until_us)

    def close(self) -> None:
        """Forget the alarms."""
        for alarm in self._alarms:
            alarm.at_us = None


class _VirtualAlarm:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.at_us: int | None = None

    def set(self, at_us: int | None) -> None:
        self.at_us = at_us


class WallClock:
    """The monotonic clock of the machine, its alarms in an asyncio loop; `compression` times as fast as real time.

    On Linux a timerfd wakes the loop: it is finer than the loop's own timers, which epoll rounds up to whole
    milliseconds, and armed with an absolute time. Elsewhere the loop's timers serve.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, *, compression: Fraction = Fraction(1)) -> None:
        self._loop = loop or asyncio.get_running_loop()
        # Whole numbers, because a float does not hold the nanoseconds of a machine that has been up for months.
        self._multiplier, self._divisor = compression.numerator, 1000 * compression.denominator
        self._alarms: list[_WallAlarm] = []

    def now_us(self) -> int:
        """The present."""
        return time.monotonic_ns() * self._multiplier // self._divisor

    def alarm(self, callback: Callable[[], None]) -> Alarm:
        """Another alarm."""
        self._alarms.append(_WallAlarm(self, self._loop, callback))
        return self._alarms[-1]

    def monotonic_ns(self, at_us: int) -> int:
        """A time on this clock on the machine's monotonic one, rounded up."""
        return -(-at_us * self._divisor // self._multiplier)

    def close(self) -> None:
        """Release the timers."""
        for alarm in self._alarms:
            alarm.close()


class _WallAlarm:
    def __init__(self, clock: WallClock, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._clock, self._loop, self._callback = clock, loop, callback
        timer = _TimerFd if sys.platform == "linux" else _LoopTimer
        self._timer = timer(loop, self._ring)
        self._at_us: int | None = None
        self._soon: asyncio.Handle | None = None

    def set(self, at_us: int | None) -> None:
        if at_us == self._at_us:
            return
        self._at_us = at_us
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if at_us is not None and at_us <= self._clock.now_us():
            self._soon = self._loop.call_soon(self._ring)
        else:
            self._timer.arm(None if at_us is None else self._clock.monotonic_ns(at_us))

    def _ring(self) -> None:
        self._soon = None
        # What woke the loop may be an alarm that was replaced by a later one in the same turn.
        if self._at_us is not None and self._at_us <= self._clock.now_us():
            self._at_us = None
            self._callback()

    def close(self) -> None:
        self._at_us = None
        self._callback = lambda: None  # who still runs may set an alarm
        self._timer.close()


class _LoopTimer:
    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop, self._ring = loop, ring
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, at_ns: int | None) -> None:
        self.close()
        if at_ns is not None:
            delay = (at_ns - time.monotonic_ns()) / 1e9
            self._handle = self._loop.call_later(max(0.0, delay), self._ring)

    def close(self) -> None:
        if self._handle:
            self._handle.cancel()


_CLOCK_MONOTONIC: Final = 1
_TFD_TIMER_ABSTIME: Final = 1


class _Itimerspec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("interval_s", "interval_ns", "value_s", "value_ns")]


class _TimerFd:
    """timerfd_create(2) by ctypes; Python has it itself only from 3.13."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._spent = False
        """It rang and was not set anew: the descriptor stays readable until it is read."""
        self._spec = _Itimerspec()
        self._ref = ctypes.byref(self._spec)
        self._loop, self._ring = loop, ring
        loop.add_reader(self._fd, self._readable)

    def arm(self, at_ns: int | None) -> None:
        self._spent = False
        self._spec.value_s, self._spec.value_ns = divmod(at_ns or 0, 1_000_000_000)
        self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, self._ref, None)

    def _readable(self) -> None:
        self._spent = True
        self._ring()
        if self._spent:
            with contextlib.suppress(BlockingIOError):  # set anew between the wake-up and the ringing
                os.read(self._fd, 8)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
