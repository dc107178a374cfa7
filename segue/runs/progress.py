"""What a person sees while a run goes: one live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Any, TextIO


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    s = round(seconds)
    return f"{s // 3600}:{s % 3600 // 60:02}:{s % 60:02}" if s >= 3600 else f"{s // 60}:{s % 60:02}"


class Rate:
    """Steps per second over about the last half minute."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = []
        self.phase = ""

    def __call__(self, phase: str, step: int) -> float | None:
        now = time.monotonic()
        if phase != self.phase:
            self.phase, self.marks = phase, []
        self.marks = [(t, s) for t, s in self.marks if now - t < 30][-200:] or self.marks[-1:]
        self.marks.append((now, step))
        (t0, s0), (t1, s1) = self.marks[0], self.marks[-1]
        return (s1 - s0) / (t1 - t0) if t1 > t0 and s1 > s0 else None


class Display:
    """Shows progress of one run. Boundaries and evaluations stay on the screen; the line of rates is redrawn."""

    def __init__(self, label: str, stream: TextIO | None = None, every: float = 10.0) -> None:
        self.label, self.stream, self.every = label, stream or sys.stdout, every
        self.live = self.stream.isatty() and not os.environ.get("SEGUE_PLAIN")
        self.rate, self.shown = Rate(), 0.0
        self.place = ("", 0)  # phase and step last shown

    def say(self, text: str) -> None:
        """A line that stays."""
        clear = "\r\x1b[2K" if self.live else ""
        self._print(f"{clear}{self.label}  {text}", "\n")

    def __call__(self, progress: Any) -> None:
        phase, state = progress.phase, progress.state
        for row in progress.rows:
            if row["kind"] == "handover":
                self.say(f"{row['phase']}: {handover_line(row['report'])}")
            elif row["kind"] == "refit" and row["report"]:
                self.say(
                    f"{row['phase']} step {row['step']:,}: {'; '.join(f'{k} {v}' for k, v in row['report'].items())}"
                )
            elif row["kind"] == "progress":
                self._progress(f"{row['phase']} step {row['step']:,}: {row['text']}")
            elif row["kind"] == "evaluation":
                self.say(f"{row['phase']} step {row['step']:,}: {row['mode']} score {row['score']:.1f}{_extras(row)}")
        rate = self.rate(phase.name, state.step)
        now = time.monotonic()
        place, soon = (phase.name, state.step), now - self.shown < (0.2 if self.live else self.every)
        if state.step < 1 or place == self.place or (soon and state.step < phase.steps):
            return
        self.shown, self.place = now, place
        parts = [f"{phase.name} {state.step:,}/{phase.steps:,} ({state.step / max(phase.steps, 1):.0%})"]
        if rate:
            parts.append(f"{rate:,.0f} {'env steps' if phase.online else 'batches'}/s")
            parts.append(f"{clock((phase.steps - state.step) / rate)} left in this phase")
        if state.score is not None:
            parts.append(f"score {state.score:.1f}")
        self._redraw("  ".join(parts))

    def _progress(self, text: str) -> None:
        """How far something long is within one step."""
        now = time.monotonic()
        if now - self.shown >= (0.2 if self.live else self.every):
            self.shown = now
            self._redraw(text)

    def _redraw(self, text: str) -> None:
        """In the place of the last such line where the terminal allows it."""
        begin, end = ("\r\x1b[2K", "") if self.live else ("", "\n")
        self._print(f"{begin}{self.label}  {text}", end)

    def _print(self, text: str, end: str) -> None:
        try:
            print(text, end=end, file=self.stream, flush=True)
        except UnicodeEncodeError:
            print(text.encode("ascii", "backslashreplace").decode(), end=end, file=self.stream, flush=True)
        except BlockingIOError:  # a full pipe: this line is left out
            return
        except (OSError, ValueError):  # nobody reads it any more, or it is closed: the run goes on unseen
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())  # Python flushes it once more at its end

    def close(self) -> None:
        if self.live:
            self._print("", "\n")


def _extras(row: dict[str, Any]) -> str:
    return "".join(f", {k.replace('_', ' ')} {v:.2f}" for k, v in row["extras"].items() if k != "success")


def handover_line(report: dict[str, str]) -> str:
    """``carried: actor, critic; frozen: members[0]; reset: actor optimiser``."""
    kinds: dict[str, list[str]] = {}
    for name, what in report.items():
        kinds.setdefault(what, []).append(name)
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in kinds.items())
