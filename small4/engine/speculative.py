"""Guesses of the next tokens, which one step verifies together with the last known token.

    rule      how many guesses are worth their time             draft_rule.py
    room      what the step and the blocks have left over       scheduler.py: make_draft_room
    guesses   from the sequence's own tokens, or a draft head   prompt_lookup.py, draft_runner.py

A guess is only a guess: the token behind every position is drawn as without it, by the same uniform, and a draft is
kept exactly where it equals what was drawn. So output is the same text, greedy or sampled, at every acceptance.
"""

from collections.abc import Sequence as Items
from typing import Protocol

from small4.engine.draft_rule import DraftRule
from small4.engine.scheduler import Run, Scheduler
from small4.engine.sequence import Sequence


class Drafter(Protocol):
    """Where guesses come from."""

    def propose(self, wishes: Items[tuple[Run, int]]) -> list[list[int]]:
        """For each run, up to so many guesses of what follows it."""
        ...


class Speculation:
    """Puts guesses behind the runs of a plan, and learns from what became of them."""

    def __init__(self, drafter: Drafter, rule: DraftRule, scheduler: Scheduler) -> None:
        self.drafter, self.rule, self.scheduler = drafter, rule, scheduler
        self.num_drafted = self.num_accepted = self.num_verified = 0  # guesses; of those right; runs that had any

    def extend(self, plan: list[Run]) -> list[Run]:
        """The plan, with guesses where they pay and nothing else needs the room."""
        decoding = [run for run in plan if run.decodes]
        self.rule.begin(len(decoding))
        room = self.scheduler.config.max_step_tokens - sum(len(run.tokens) for run in plan)
        wishes: list[tuple[Run, int]] = []
        for run in decoding:
            count = self.rule.length(run.sequence.id, min(room, most_drafts(run.sequence)))
            count = self.scheduler.make_draft_room(run, count) if count else 0
            if count:
                wishes.append((run, count))
                room -= count
        if not wishes:
            return plan
        guessed = self.drafter.propose(wishes)
        guesses = {run.sequence.id: drafts for (run, _), drafts in zip(wishes, guessed, strict=True)}
        return [run.with_drafts(guesses.get(run.sequence.id, ())) for run in plan]

    def verified(self, run: Run, num_accepted: int) -> None:
        """Learn how the guesses of one run went."""
        if run.num_drafts:
            self.rule.verified(run.sequence.id, run.num_drafts, num_accepted)
            self.num_drafted += run.num_drafts
            self.num_accepted += num_accepted
            self.num_verified += 1

    def took(self, plan: Items[Run], seconds: float) -> None:
        """Learn how long the step was; one with a prompt in it says nothing of drafts."""
        if all(run.decodes for run in plan):
            self.rule.end(sum(run.num_drafts for run in plan), seconds)


def most_drafts(sequence: Sequence) -> int:
    """More than this could not be kept: the step draws one token behind the last guess."""
    return sequence.max_tokens - sequence.num_output - 1
