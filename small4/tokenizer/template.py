"""Chat to token ids: the v15 layout of Mistral Small 4, for requests and for training.

    <s> then, in order of the conversation (model specification 5.2):
    system     [SYSTEM_PROMPT] text [/SYSTEM_PROMPT]
    once, before the first user turn:
               [AVAILABLE_TOOLS] JSON list [/AVAILABLE_TOOLS]   if there are tools
               [MODEL_SETTINGS] {"reasoning_effort": "..."} [/MODEL_SETTINGS]
    user       [INST] text and images [/INST]
    assistant  [THINK] thought [/THINK] text, per call [TOOL_CALLS] name [ARGS] JSON, then </s> unless it is a prefix
    tool       [TOOL_RESULTS] text and images [/TOOL_RESULTS]

The ids are those of mistral-common, which the tests ask; this module writes them directly because training renders
a hundred thousand conversations.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from mistral_common.utils.json_utils import validate_json_schema_by_draft7

from small4.chat import ChatRequest, ImagePart, Message, ThinkPart, Tool, ToolCall
from small4.errors import EffortError, ImageError, ToolError
from small4.tokenizer.conversation import Turn, check_function_name, check_messages, to_turns
from small4.tokenizer.images import ImageGrid, prepare_image
from small4.tokenizer.tekken import Tokenizer

MAX_SCHEMA_CHARACTERS = 65_536  # of one tool's parameters, as JSON

Pixels = npt.NDArray[np.float32]
PrepareImage = Callable[[bytes, ImageGrid], Pixels]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads before it answers; `images` are [channels, height, width], in order of appearance."""

    token_ids: list[int]
    images: tuple[Pixels, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A finished conversation; `is_target` marks what the assistant wrote, each closing </s> included."""

    token_ids: list[int]
    is_target: list[bool]
    images: tuple[Pixels, ...] = ()


def render(tokenizer: Tokenizer, request: ChatRequest, prepare: PrepareImage = prepare_image) -> Prompt:
    """Prompt of a request; the answer begins right after it. `prepare` is what images are decoded by."""
    check_messages(request.messages, training=False)
    layout = _lay_out(tokenizer, request.messages, request.tools, request.effort, prepare)
    return Prompt(layout.token_ids, tuple(layout.images))


def render_training(
    tokenizer: Tokenizer, messages: Sequence[Message], *, tools: Sequence[Tool] = (), effort: str = "none"
) -> TrainingExample:
    """Tokens of a conversation that ends with the assistant, with those to learn marked."""
    check_messages(messages, training=True)
    layout = _lay_out(tokenizer, messages, tools, effort, prepare_image)
    return TrainingExample(layout.token_ids, layout.is_target, tuple(layout.images))


def _lay_out(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Tool], effort: str, prepare: PrepareImage
) -> "_Layout":
    if effort not in tokenizer.efforts:
        raise EffortError(f"unknown reasoning effort {effort!r}; allowed: {', '.join(tokenizer.efforts)}")
    layout = _Layout(tokenizer, prepare, [tokenizer.control.bos], [False])
    is_opened = False
    for turn in to_turns(messages):
        if turn.role == "user" and not is_opened:
            layout.add_tools(tools)
            layout.add_effort(effort)
            is_opened = True
        layout.add_turn(turn)
    return layout


@dataclass(slots=True)
class _Layout:
    """Token ids as they are written; `is_target` grows with them."""

    tokenizer: Tokenizer
    prepare: PrepareImage
    token_ids: list[int]
    is_target: list[bool]
    images: list[Pixels] = field(default_factory=list)

    def add_tools(self, tools: Sequence[Tool]) -> None:
        control = self.tokenizer.control
        if tools:
            self._add([control.tools, *self.tokenizer.encode_repeated(tools_json(tools)), control.end_tools])

    def add_effort(self, effort: str) -> None:
        control = self.tokenizer.control
        text = f'{{"reasoning_effort": "{effort}"}}'
        self._add([control.settings, *self.tokenizer.encode_repeated(text), control.end_settings])

    def add_turn(self, turn: Turn) -> None:
        control = self.tokenizer.control
        if turn.role == "assistant":
            self._add(self._assistant(turn), is_target=True)
        elif turn.role == "system":
            text = "".join(piece for piece in turn.pieces if isinstance(piece, str))
            self._add([control.system, *self.tokenizer.encode_repeated(text), control.end_system])
        elif turn.role == "user":
            self._add([control.inst, *self._user_content(turn), control.end_inst])
        else:
            self._add([control.tool_results, *self._content(turn), control.end_tool_results])

    def _assistant(self, turn: Turn) -> list[int]:
        control, pieces = self.tokenizer.control, turn.pieces
        if len(pieces) == 1 and isinstance(pieces[0], str):
            # mistral-common drops blanks after an answer that has no other part, so the model never saw them.
            token_ids = self.tokenizer.encode_text(pieces[0].rstrip(" "))
        else:
            token_ids = self._content(turn)
        for call in turn.calls:
            token_ids += [control.tool_calls, *self.tokenizer.encode_text(call.name), control.args]
            token_ids += self.tokenizer.encode_text(_arguments(call))
        if not turn.is_open:
            token_ids.append(control.eos)
        return token_ids

    def _user_content(self, turn: Turn) -> list[int]:
        pieces = turn.pieces
        if len(pieces) == 2 and isinstance(pieces[0], str) and isinstance(pieces[1], ImagePart):
            turn = Turn(turn.role, [pieces[1], pieces[0]])  # one image after one text: the image goes first
        return self._content(turn)

    def _content(self, turn: Turn) -> list[int]:
        control = self.tokenizer.control
        token_ids: list[int] = []
        for piece in turn.pieces:
            if isinstance(piece, str):
                token_ids += self.tokenizer.encode_text(piece)
            elif isinstance(piece, ThinkPart):
                token_ids += [control.think, *self.tokenizer.encode_text(piece.text)]
                token_ids += [control.end_think] if piece.closed else []
            else:
                token_ids += self._image(piece)
        return token_ids

    def _image(self, part: ImagePart) -> list[int]:
        """Rows of [IMG], each closed by [IMG_BREAK], the last one by [IMG_END]."""
        control, grid = self.tokenizer.control, self.tokenizer.image_grid
        if grid is None:
            raise ImageError("this model reads no images; send text only or choose a model with a vision tower")
        pixels = self.prepare(part.data, grid)
        self.images.append(pixels)
        num_rows, num_columns = (int(side) // grid.token_size for side in pixels.shape[1:])
        token_ids: list[int] = ([control.image] * num_columns + [control.image_break]) * num_rows
        token_ids[-1] = control.image_end
        return token_ids

    def _add(self, token_ids: list[int], *, is_target: bool = False) -> None:
        self.token_ids += token_ids
        self.is_target += [is_target] * len(token_ids)


def tools_json(tools: Sequence[Tool]) -> str:
    """The tools as the template writes them, after their names and schemas have been checked."""
    names: set[str] = set()
    functions = []
    for tool in tools:
        check_function_name(tool.name, "a tool")
        if tool.name in names:
            raise ToolError(f"two tools are named {tool.name!r}; give each its own name")
        names.add(tool.name)
        schema_json = _schema_json(tool)
        _check_schema(tool.name, schema_json)
        name, description = _text_json(tool.name), _text_json(tool.description)
        function = f'{{"name": {name}, "description": {description}, "parameters": {schema_json}}}'
        functions.append(f'{{"type": "function", "function": {function}}}')
    return f"[{', '.join(functions)}]"


def _text_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _schema_json(tool: Tool) -> str:
    try:
        text = json.dumps(tool.parameters, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolError(
            f"the parameters of tool {tool.name!r} cannot be written as JSON; send a JSON Schema"
        ) from error
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise ToolError(
            f"the parameters of tool {tool.name!r} have {len(text)} characters as JSON, "
            f"the limit is {MAX_SCHEMA_CHARACTERS}; shorten descriptions or split the tool"
        )
    return text


@lru_cache(maxsize=256)  # the check takes a millisecond and tools come again with every turn
def _check_schema(name: str, schema_json: str) -> None:
    if not schema_json.startswith("{"):
        raise ToolError(f"the parameters of tool {name!r} are not an object; send a JSON Schema such as {{}}")
    try:
        validate_json_schema_by_draft7(json.loads(schema_json))
    except (ValueError, RecursionError) as error:
        raise ToolError(f"the parameters of tool {name!r} are no JSON Schema (Draft 7): {str(error)[:200]}") from error


def _arguments(call: ToolCall) -> str:
    """Arguments in the one spelling that the template uses; text that is no JSON becomes a JSON string."""
    try:
        return json.dumps(json.loads(call.arguments) if call.arguments else {}, ensure_ascii=False)
    except json.JSONDecodeError:
        return json.dumps(call.arguments, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise ToolError(f"the arguments of a call of {call.name!r} nest too deep or hold too long a number") from error
