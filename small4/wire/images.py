"""Images in requests: `data:` URLs and base64 to bytes, web addresses to links that the server's fetcher may follow.

What the bytes hold is for the decoder to find out; here they are only kept small and free of other kinds of media.
"""

import binascii

from small4.chat import ImageLink, ImagePart
from small4.errors import FieldError

MAX_IMAGE_BYTES = 10 * 2**20  # of one encoded file
MAX_URL_CHARACTERS = 8192  # of a link; a data: URL has the limit of its bytes

_MAGIC = {
    b"\x89PNG": "image/png",
    b"\xff\xd8": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


def image_of_url(url: str, param: str) -> ImagePart | ImageLink:
    """The image that a `data:` URL holds, or the link that an http(s) URL is; `param` is the path of its field."""
    scheme, separator, rest = url.partition(":")
    if separator and scheme.lower() == "data":
        return _image_of_data_url(rest, param)
    if not separator or scheme.lower() not in ("http", "https"):
        raise FieldError(f"{param}: an image is given as a data: URL, or as an http or https URL", param)
    if len(url) > MAX_URL_CHARACTERS:
        raise FieldError(
            f"{param}: the URL has {len(url)} characters, the limit is {MAX_URL_CHARACTERS}; send the image itself",
            param,
        )
    return ImageLink(url)


def image_of_base64(text: str, param: str, media_type: str | None = None) -> ImagePart:
    """The image that base64 text holds; the media type is only held to be one of an image."""
    if media_type and not media_type.lower().startswith("image/"):
        raise FieldError(f"{param}: {media_type[:80]!r} is not an image; the model sees images only", param)
    if len(text) > MAX_IMAGE_BYTES // 3 * 4 + 4:
        raise FieldError(
            f"{param}: the image has about {len(text) * 3 // 4} bytes, the limit is {MAX_IMAGE_BYTES}; shrink it", param
        )
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise FieldError(
            f"{param}: the image is not valid base64; encode it again, without line breaks", param
        ) from None
    if not data:
        raise FieldError(f"{param}: the image is empty", param)
    return ImagePart(data)


def image_url(image: ImagePart | ImageLink) -> str:
    """The image as one URL: what `image_of_url` reads."""
    if isinstance(image, ImageLink):
        return image.url
    return f"data:{media_type(image)};base64,{image_base64(image)}"


def image_base64(image: ImagePart) -> str:
    """The image's bytes as base64 text."""
    return binascii.b2a_base64(image.data, newline=False).decode()


def media_type(image: ImagePart) -> str:
    """The media type that the file's first bytes tell; PNG where they tell nothing."""
    return next((kind for magic, kind in _MAGIC.items() if image.data.startswith(magic)), "image/png")


def _image_of_data_url(rest: str, param: str) -> ImagePart:
    head, comma, text = rest.partition(",")
    kind, *options = head.split(";")
    if not comma or options[-1:] != ["base64"]:
        raise FieldError(f"{param}: a data: URL of an image has the form data:image/png;base64,...", param)
    return image_of_base64(text, param, kind)
