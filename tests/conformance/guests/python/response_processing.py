"""The conformance plugin's processor: componentize-py looks for a resource's class in a module of its interface's name."""

from wit_world.exports.response_processing import Action, Action_Cut, Action_Emit, Action_Hold, Context, Cut, Delta
from wit_world.imports.types import FinishReason

import plugin


class Processor:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.pushes = 0

    def push(self, delta: Delta) -> Action:
        self.pushes += 1
        match delta.text.split("/"):
            case ["hold"]:
                return Action_Hold()
            case ["cut", reason, text]:
                return Action_Cut(Cut(plugin.reason_of(reason), text))
            case ["context"]:
                return Action_Emit(plugin.describe_context(self.context))
            case ["pushes"]:
                return Action_Emit(str(self.pushes))
        logprobs = map(plugin.milli, delta.logprobs)
        return Action_Emit(f"{delta.text}|{plugin.listed(delta.token_ids)}|{plugin.listed(logprobs)}")

    def finish(self, reason: FinishReason) -> Action:
        return Action_Hold() if reason is FinishReason.LENGTH else Action_Emit(f"{plugin.kebab(reason)} {self.pushes}")
