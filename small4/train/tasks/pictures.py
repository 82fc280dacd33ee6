"""Images of one to six coloured shapes, or of two digits, drawn with Pillow, and questions about them.

A picture is a grid of cells, three by three; a shape lies somewhere in its cell. The thought goes through the shapes in
reading order, each with its place, and counts as it goes:

    top left small red circle, middle big blue square                    top, centre, bottom; left, middle, right
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageDraw

from small4.chat import ImagePart, TextPart
from small4.train.tasks.problem import Problem, is_held_out, is_last_number, is_whole_text
from small4.train.tasks.source import Source

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 205, 40),
    "purple": (140, 60, 170),
    "orange": (240, 140, 30),
}
KINDS = ("circle", "square", "triangle")
GRID = 3  # cells per side
SIDES = (64, 64, 64, 96)  # pixels; one image in four is larger
MAX_SHAPES = 6
BACKGROUNDS = ((255, 255, 255), (245, 245, 235), (225, 235, 245))

_ROWS, _COLUMNS = ("top", "centre", "bottom"), ("left", "middle", "right")
_SMALL, _BIG = 0.42, 0.8  # of a cell

# Seven strokes of a digit, as on a pocket calculator: left, top, right and bottom in a box of 4 x 7.
_STROKES = {
    "a": (0, 0, 4, 1),
    "b": (3, 0, 4, 4),
    "c": (3, 3, 4, 7),
    "d": (0, 6, 4, 7),
    "e": (0, 3, 1, 7),
    "f": (0, 0, 1, 4),
    "g": (0, 3, 4, 4),
}
_DIGITS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")

_ASK = {
    "colour": ("What colour is the {k}?", "Which colour has the {k}?", "Name the colour of the {k}."),
    "count": ("How many shapes are there?", "Count the shapes.", "How many shapes do you see?"),
    "count_kind": ("How many {k}s are there?", "Count the {k}s.", "How many {k}s do you see?"),
    "relation": (
        "Is the {a} left of the {b}?",
        "Does the {a} lie left of the {b}?",
        "Is the {a} to the left of the {b}?",
    ),
    "largest": ("Which shape is the largest?", "What is the biggest shape?", "Name the largest shape."),
    "describe": ("What do you see?", "Describe the picture.", "What is in the picture?"),
    "digits": ("Which number is this?", "Read the number.", "What number do you see?"),
}
_OPEN = ("", "Look: ", "Hi, ", "Now ")


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape in its cell."""

    kind: str
    colour: str
    row: int
    column: int
    is_big: bool

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"

    def __str__(self) -> str:
        return f"{_ROWS[self.row]} {_COLUMNS[self.column]} {'big' if self.is_big else 'small'} {self.name}"


@dataclass(frozen=True, slots=True)
class _Asked:
    """A scene and a question about it, not yet drawn."""

    shapes: list[Shape]
    answer: str
    words: dict[str, str]  # that the question names
    thought: str

    def key(self, skill: str) -> str:
        return f"picture {'; '.join(map(str, self.shapes))} {skill} {' '.join(self.words.values())}"


def sample_picture(source: Source, skill: str) -> Problem:
    """A question of one skill about a scene on the source's side of the split; only that is drawn."""
    asked: _Asked | None = None
    while asked is None or is_held_out(asked.key(skill)) != source.held_out:
        asked = _SCENES[skill](source)
    wording = source.wording(_OPEN, _ASK["count_kind" if skill == "count" and asked.words else skill])
    shifts = [(source.rng.random(), source.rng.random()) for _ in asked.shapes]
    image = draw(asked.shapes, source.choice(SIDES), shifts, source.choice(BACKGROUNDS))
    return Problem(
        skill=f"image_{skill}",
        key=asked.key(skill),
        question=(ImagePart(image), TextPart(_capital(wording.format(**asked.words)))),
        thought=asked.thought,
        answer=asked.answer,
        checker=is_last_number if skill == "count" else is_whole_text,
    )


def _colour(source: Source) -> _Asked | None:
    shapes = _scene(source, source.number(1, 4))
    kinds = [shape.kind for shape in shapes]
    lone = [shape for shape in shapes if kinds.count(shape.kind) == 1]
    if not lone:
        return None
    wanted = source.choice(lone)
    return _Asked(shapes, wanted.colour, {"k": wanted.kind}, _list(shapes))


def _count(source: Source) -> _Asked:
    shapes, words = _scene(source, source.number(1, 4)), {}
    counted = shapes
    if source.chance(0.4):
        words = {"k": source.choice(KINDS)}
        counted = [shape for shape in shapes if shape.kind == words["k"]]
    return _Asked(shapes, str(len(counted)), words, _list(shapes, counted))


def _relation(source: Source) -> _Asked | None:
    shapes = _scene(source, source.number(2, 4))
    names = [shape.name for shape in shapes]
    a, b = source.rng.sample(shapes, 2)
    if names.count(a.name) > 1 or names.count(b.name) > 1 or a.column == b.column:
        return None
    answer = "yes" if a.column < b.column else "no"
    return _Asked(shapes, answer, {"a": a.name, "b": b.name}, f"{a}, {b}")


def _largest(source: Source) -> _Asked:
    shapes = _scene(source, source.number(2, 5), num_big=1)
    (big,) = (shape for shape in shapes if shape.is_big)
    return _Asked(shapes, big.name, {}, _list(shapes))


def _describe(source: Source) -> _Asked:
    shapes = _scene(source, source.number(1, MAX_SHAPES))
    return _Asked(shapes, ", ".join(shape.name for shape in shapes), {}, _list(shapes))


def _list(shapes: list[Shape], counted: Sequence[Shape] = ()) -> str:
    """All shapes with their places; those that are counted have their number."""
    return ", ".join(str(s) + (f" {counted.index(s) + 1}" if s in counted else "") for s in shapes)


_SCENES: dict[str, Callable[[Source], _Asked | None]] = {
    "colour": _colour,  # of the one shape of its kind
    "count": _count,  # of all shapes, or of one kind
    "relation": _relation,  # whether one shape lies left of another
    "largest": _largest,  # the one big shape among small ones
    "describe": _describe,  # all shapes in reading order
}
PICTURE_SKILLS = tuple(_SCENES)


def sample_digits(source: Source) -> Problem:
    """A number of two digits."""
    number = source.number(10, 99)
    colour, shift = source.choice(tuple(COLOURS)), (source.number(0, 10), source.number(0, 14))
    image = draw_digits(str(number), COLOURS[colour], shift, source.choice(BACKGROUNDS))
    question = source.wording(_OPEN, _ASK["digits"])
    return Problem(
        skill="image_digits",
        key=f"digits {number} {colour} {shift}",
        question=(ImagePart(image), TextPart(_capital(question))),
        thought=" ".join(str(number)),
        answer=str(number),
        checker=is_last_number,
    )


def draw(shapes: list[Shape], side: int, shifts: list[tuple[float, float]], background: tuple[int, int, int]) -> bytes:
    """A PNG of the shapes; each is shifted in its cell by a share of the room there."""
    image = Image.new("RGB", (side, side), background)
    canvas, cell = ImageDraw.Draw(image), side / GRID
    for shape, (x_share, y_share) in zip(shapes, shifts, strict=True):
        size = cell * (_BIG if shape.is_big else _SMALL)
        left, top = shape.column * cell + (cell - size) * x_share, shape.row * cell + (cell - size) * y_share
        box = (left, top, left + size, top + size)
        if shape.kind == "circle":
            canvas.ellipse(box, fill=COLOURS[shape.colour])
        elif shape.kind == "square":
            canvas.rectangle(box, fill=COLOURS[shape.colour])
        else:
            corners = [(left, top + size), (left + size, top + size), (left + size / 2, top)]
            canvas.polygon(corners, fill=COLOURS[shape.colour])
    return _png(image)


def draw_digits(
    text: str, colour: tuple[int, int, int], shift: tuple[int, int], background: tuple[int, int, int]
) -> bytes:
    """A PNG of 64 x 64 pixels with two digits of seven strokes."""
    image, unit = Image.new("RGB", (64, 64), background), 5
    canvas = ImageDraw.Draw(image)
    for index, digit in enumerate(text):
        x, y = shift[0] + index * (4 * unit + 8), shift[1]
        for stroke in _DIGITS[int(digit)]:
            left, top, right, bottom = _STROKES[stroke]
            canvas.rectangle((x + left * unit, y + top * unit, x + right * unit, y + bottom * unit), fill=colour)
    return _png(image)


def _scene(source: Source, count: int, num_big: int | None = None) -> list[Shape]:
    """Shapes in different cells, in reading order."""
    cells = sorted(source.rng.sample(range(GRID * GRID), count))
    big = source.rng.sample(range(count), num_big) if num_big is not None else None
    return [
        Shape(
            source.choice(KINDS),
            source.choice(tuple(COLOURS)),
            *divmod(cell, GRID),
            source.chance(0.5) if big is None else index in big,
        )
        for index, cell in enumerate(cells)
    ]


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
