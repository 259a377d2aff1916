"""When copies may leave through a tunnel: the one place where that is decided.

Input is what strongSwan lists and tells, and what the guard lacks; time comes with it. The gate is open only
while for every child that is wanted one is there that is what was asked for, none is there that is not, and
the guard was found sound since. A loss is counted from a moment before which nothing can have been lost:

* An association that answers has answered at the last listing that shows no task of this side under way.
  Who hears nothing for ``dpd_delay_s`` asks, so the path worked at most that long before that listing. With
  IKEv1 a question shows in no listing, and ``dead_peer_s`` takes its place.
* Where the other side says that it ends, that was the moment: its word has come through the path. The end of
  strongSwan here, and whatever this side ends, says nothing of the path.

A path that carries nothing in one direction while packets still come the other way is not noticed by IKE, nor
is a gap that is shorter than the silence after which it asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowtap.delivery.associations import ChildDown, misfits
from flowtap.delivery.reasons import Reasons
from flowtap.delivery.tunnel import TunnelState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowtap.config.tunnels import TunnelSection
    from flowtap.delivery.associations import ChildAssociation, ChildRekeyed, IkeAssociation
    from flowtap.delivery.connection import WantedChild

__all__ = ["POLL_S", "TAKEN_DOWN", "Decision", "TunnelMachine"]

POLL_S: Final = 1.0
"""Between two listings, when nothing is heard."""
SUSPECT_S: Final = 2 * POLL_S
"""A question that is not answered for so long is not just under way."""
SLACK_S: Final = 2.0
"""strongSwan counts in whole seconds, and its timers are late by some."""
SAID_S: Final = 2.0
"""Longest way of what was sent before the other side said that it ends."""
FRESH_S: Final = 2 * POLL_S
"""Nothing is opened on what was listed longer ago; much may have happened since."""
FIRST_S: Final = 1.0
"""strongSwan itself begins at once, and again after a loss; it is left so much time."""
BACK_OFF_MAX_S: Final = 30.0
STEADY_S: Final = 5.0
"""A tunnel that is lost sooner than this after it came up is given time to settle before it is used again."""
_QUESTION: Final = "IKE_DPD"
TAKEN_DOWN: Final = "it was taken down here"
"""By an operator, who alone brings it up again."""
_DELETED: Final = "one side has deleted the association"
_GIVEN_UP: Final = "the other gateway was given up: it no longer answers, or has forgotten the association"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done now.

    Attributes:
        state: How it is with the tunnel.
        reason: Why, in words.
        is_open: Whether the gate is open from now on.
        in_doubt_s: Not None where the gate is shut first, because what was sent in so many seconds may be
            lost; it opens again at once where ``is_open`` says so.
        verify: The guard is to be verified now: nothing else is missing.
        terminate: Children that are not what was asked for and are to end.
        initiate: Names of children that are to be initiated.
        is_telling: The reason is worth a line in a log: it is not just how a tunnel comes up.
    """

    state: TunnelState
    reason: str
    is_open: bool
    in_doubt_s: float | None = None
    verify: bool = False
    terminate: tuple[int, ...] = ()
    initiate: tuple[str, ...] = ()
    is_telling: bool = True


class TunnelMachine:
    """One tunnel.

    Args:
        section: What is asked for.
        children: What must be there.
        now_s: The monotonic clock.

    Attributes:
        found: The associations that strongSwan listed last.
        guard_faults: What the guard lacks; None before it was verified.
        is_held: Whether somebody wants it to stay down.
        state: As decided last.
        since_s: Since when.
    """

    def __init__(self, section: TunnelSection, children: Sequence[WantedChild], now_s: float) -> None:
        self.found: tuple[IkeAssociation, ...] = ()
        self.guard_faults: tuple[str, ...] | None = None
        self.is_held = False
        self.state = TunnelState.DOWN
        self.since_s = now_s
        self._section = section
        self._wanted = tuple(children)
        self._reasons = Reasons()
        self._is_asked = False
        self._absence: str | None = "strongSwan was not asked yet"
        # What carries copies, and what has but is being replaced.
        self._carrying: set[int] = set()
        self._fading: set[int] = set()
        self._missing: tuple[str, ...] = tuple(each.name for each in children)
        self._misfits: dict[int, str] = {}
        self._is_ready = False
        self._ready_s = now_s
        self._is_proven = False
        # What this side has asked over each association, as listed last.
        self._asking: dict[int, tuple[str, ...]] = {}
        self._is_suspect = False
        # The gate, and what is known of the path behind it.
        self._is_open = False
        self._opened_s = now_s
        self._seen_s = now_s
        self._answered_s = now_s
        self._flaps = 0
        self._reopen_s = now_s
        self._lost_since_s: float | None = None
        self._why_lost = ""
        # Initiating.
        self._is_initiating = False
        self._failures = 0
        self._next_s = now_s

    # -- what comes in

    def daemon_ready(self, now_s: float) -> None:
        """The daemon is there and knows the connection."""
        self._is_asked = True
        self._absence = None
        self._next_s = max(self._next_s, now_s + FIRST_S)

    def daemon_gone(self, reason: str, now_s: float) -> None:
        """The daemon is not there, or not as it should be."""
        if self._absence is None:
            self._lose(now_s, is_said=False)
        self._is_asked = True
        self._absence = reason
        self.found = ()
        self._asking = {}
        self._carrying.clear()
        self._fading.clear()
        self._misfits = {}
        self._missing = tuple(each.name for each in self._wanted)

    def saw(self, found: tuple[IkeAssociation, ...], asked_s: float) -> None:
        """Takes a listing.

        Args:
            found: All associations of the connection.
            asked_s: When it was asked for; all that it says was so then or later.
        """
        self.found = found
        before_s, self._seen_s = self._seen_s, asked_s
        children = [child for each in found for child in each.children]
        visible = {each.unique_id for each in children}
        if is_lost := bool(self._carrying - visible):
            # Nobody has said why yet.
            self._why_lost = "an association is gone"
            self._lose(asked_s, is_said=False)
        fitting = self._judge(children)
        self._fading = ((self._fading | self._carrying) & visible) - fitting
        self._carrying = fitting
        was_ready, self._is_ready = self._is_ready, not self._missing and not self._misfits
        if not self._is_ready:
            self._is_proven = False
        elif not was_ready:
            self._ready_s = asked_s
        self._watch_questions(asked_s, before_s, is_lost=is_lost)

    def _judge(self, children: Sequence[ChildAssociation]) -> set[int]:
        """Says what is missing and what does not fit; returns what does."""
        fitting: set[int] = set()
        misfit: dict[int, str] = {}
        missing = []
        for wanted in self._wanted:
            live = [each for each in children if each.is_live and each.name == wanted.name]
            faults = {
                each.unique_id: misfits(each, wanted.local, wanted.remote, self._section.wanted_esp)
                for each in live
            }
            good = {unique_id for unique_id, found in faults.items() if not found}
            fitting |= good
            misfit |= {unique_id: "; ".join(found) for unique_id, found in faults.items() if found}
            if not good:
                missing.append(wanted.name)
        self._missing, self._misfits = tuple(missing), misfit
        return fitting

    def _watch_questions(self, asked_s: float, before_s: float, *, is_lost: bool) -> None:
        before, self._asking = (
            self._asking,
            {
                each.unique_id: each.tasks_active
                for each in self.found
                if each.tasks_active and any(child.is_live for child in each.children)
            },
        )
        if self._asking:
            if not is_lost and any(self._asking.get(which) != tasks for which, tasks in before.items()):
                # What was asked then is answered, and this is another question: keys are changed one behind
                # the other, for instance.
                self._answered_s = max(self._answered_s, before_s)
            self._is_suspect = asked_s - self._answered_s >= SUSPECT_S
            return
        if self._is_suspect and self._is_open:
            # The path is back before it was given up, but what was sent meanwhile may be lost.
            self._doubt(self._intact_until_s(asked_s))
        self._is_suspect = False
        self._answered_s = asked_s

    def heard(self, event: ChildDown | ChildRekeyed, now_s: float) -> None:
        """Takes what strongSwan tells by itself; the next listing is the truth."""
        if isinstance(event, ChildDown):
            if event.unique_id in self._carrying | self._fading:
                self._carrying.discard(event.unique_id)
                self._fading.discard(event.unique_id)
                self._why_lost = _DELETED if event.is_said else _GIVEN_UP
                self._lose(now_s, is_said=event.is_said and not event.is_ours)
            return
        if event.old_id in self._carrying:
            self._carrying.add(event.new_id)
        self._carrying.discard(event.old_id)
        self._fading.discard(event.old_id)

    def guarded(self, faults: Sequence[str], asked_s: float) -> None:
        """Takes what the guard was found to lack.

        Args:
            faults: In words.
            asked_s: When it was asked for; it is no proof for an association that was not there yet.
        """
        self.guard_faults = tuple(faults)
        if faults:
            self._is_proven = False
        elif self._is_ready and asked_s >= self._ready_s:
            self._is_proven = True

    def tell(self, line: str) -> None:
        """Takes a line of strongSwan's log about this connection."""
        self._reasons.tell(line)

    def initiating(self) -> None:
        """What was decided to be initiated is under way."""
        self._is_initiating = True
        self._reasons.begin()

    def initiated(self, now_s: float) -> None:
        """That is over; whether it helped, a listing says."""
        self._is_initiating = False
        self._failures += 1
        self._next_s = now_s + min(2.0 ** (self._failures - 1), BACK_OFF_MAX_S)

    def hold(self, now_s: float) -> None:
        """Somebody wants it to stay down."""
        self._lose(now_s, is_said=False)
        self.is_held = True

    def release(self, now_s: float) -> None:
        """Somebody wants it to be up, now."""
        self.is_held = False
        self._failures = self._flaps = 0
        self._next_s = self._reopen_s = now_s

    # -- what comes out

    def would_lose(self, found: Sequence[IkeAssociation]) -> bool:
        """Whether a listing lacks something that carries copies."""
        return bool(self._carrying - {child.unique_id for each in found for child in each.children})

    def in_doubt_s(self, now_s: float) -> float:
        """How much of what was sent may be lost if the gate is shut now."""
        if not self._is_open:
            return 0.0
        return now_s - max(self._intact_until_s(now_s), self._opened_s - SLACK_S)

    def decide(self, now_s: float) -> Decision:
        """Says how it is and what is to be done."""
        state, reason = self._judgement(now_s)
        if state is not self.state:
            self.state, self.since_s = state, now_s
        is_open = state in {TunnelState.UP, TunnelState.SUSPECT}
        in_doubt_s = None
        if self._is_open and (not is_open or self._lost_since_s is not None):
            since_s = self._intact_until_s(now_s) if self._lost_since_s is None else self._lost_since_s
            # What was sent before it was opened was in doubt when it was shut, if at all.
            in_doubt_s = now_s - max(since_s, self._opened_s - SLACK_S)
            if not is_open:
                self._settle(now_s)
            self._opened_s = now_s
            self._failures = 0
            self._next_s = now_s + FIRST_S
        if is_open and not self._is_open:
            self._opened_s = now_s
            self._reasons.clear()
            self._why_lost = ""
        self._is_open, self._lost_since_s = is_open, None
        terminate, initiate = self._remedy(now_s)
        return Decision(
            state=state,
            reason=reason,
            is_open=is_open,
            in_doubt_s=in_doubt_s,
            verify=self._wants_proof(now_s),
            terminate=terminate,
            initiate=initiate,
            is_telling=state is not TunnelState.CONNECTING or reason == str(self._reasons),
        )

    def _settle(self, now_s: float) -> None:
        """The sooner and the more often it is lost, the longer it is left alone."""
        self._flaps = self._flaps + 1 if now_s - self._opened_s < STEADY_S else 0
        self._reopen_s = now_s + (min(2.0 ** (self._flaps - 2), BACK_OFF_MAX_S) if self._flaps > 1 else 0)

    def _judgement(self, now_s: float) -> tuple[TunnelState, str]:
        if self.guard_faults is None:
            return TunnelState.BLOCKED, "the guard was not verified yet"
        if self.guard_faults:
            return TunnelState.BLOCKED, f"the guard is not sound: {'; '.join(self.guard_faults)}"
        if self._absence is not None:
            return (TunnelState.DOWN if self._is_asked else TunnelState.CONNECTING), self._absence
        if self.is_held:
            return TunnelState.DOWN, TAKEN_DOWN
        return self._health(now_s) if self._is_ready else self._trouble()

    def _health(self, now_s: float) -> tuple[TunnelState, str]:
        if now_s < self._reopen_s:
            return TunnelState.DOWN, "it was lost as soon as it was up, and again; it is left to settle"
        if not self._is_proven:
            return TunnelState.CONNECTING, "the guard is being verified"
        if not self._is_open and now_s - self._seen_s > FRESH_S:
            return TunnelState.CONNECTING, "associations are looked at again"
        if self._is_suspect:
            # Nothing that was held back is sent after what may be lost already.
            state = TunnelState.SUSPECT if self._is_open else TunnelState.CONNECTING
            return state, "the other gateway does not answer; it is asked again"
        return TunnelState.UP, "associations are as asked for"

    def _wants_proof(self, now_s: float) -> bool:
        is_all = self._is_ready and self._absence is None and not self.is_held
        return is_all and not self._is_proven and now_s >= self._reopen_s

    def _trouble(self) -> tuple[TunnelState, str]:
        if self._misfits:
            return TunnelState.DOWN, f"not as asked for: {'; '.join(sorted(set(self._misfits.values())))}"
        known = str(self._reasons) or self._why_lost
        if self._is_under_way:
            return TunnelState.CONNECTING, known or "the gateways negotiate"
        if not known and not self._failures:
            return TunnelState.CONNECTING, "strongSwan is about to begin"
        nothing = "the gateways know each other, but nothing carries packets"
        return TunnelState.DOWN, known or (nothing if self.found else "there is no association")

    @property
    def _is_under_way(self) -> bool:
        return self._is_initiating or any(
            each.state in {"CREATED", "CONNECTING"} or set(each.tasks_active) - {_QUESTION}
            for each in self.found
        )

    def _remedy(self, now_s: float) -> tuple[tuple[int, ...], tuple[str, ...]]:
        is_of_use = self.guard_faults == () and self._absence is None and not self.is_held
        if not is_of_use or self._is_ready or self._is_under_way or now_s < self._next_s:
            return (), ()
        if self._misfits:
            children = [child for each in self.found for child in each.children]
            names = {each.name for each in children if each.unique_id in self._misfits}
            return tuple(sorted(self._misfits)), tuple(sorted(names.union(self._missing)))
        return (), self._missing

    def _lose(self, now_s: float, *, is_said: bool) -> None:
        self._is_ready = self._is_proven = False
        if not self._is_open:
            return
        if is_said and not self._asking:
            self._doubt(min(now_s - SAID_S, self._seen_s - SAID_S / 2))
        else:
            self._doubt(self._intact_until_s(now_s))

    def _doubt(self, since_s: float) -> None:
        """What was sent since then may be lost."""
        if self._lost_since_s is None or since_s < self._lost_since_s:
            self._lost_since_s = since_s

    def _intact_until_s(self, now_s: float) -> float:
        """Until when nothing can have been lost, if nobody has said that anything was."""
        answered_s = self._answered_s
        if self._section.ike_version == 1:
            answered_s = min(answered_s, now_s - self._section.dead_peer_s - POLL_S)
        return answered_s - self._section.dpd_delay_s - SLACK_S
