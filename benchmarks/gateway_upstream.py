"""The provider of `benchmarks.gateway`: answers at once, or streams words that say when they left.

    python -m benchmarks.gateway_upstream 8001

It parses as little as it can, so that the machine's time goes to the gateway. A word of a stream is the clock's
nanoseconds; all processes of one machine share that clock.
"""

import asyncio
import json
import re
import sys
import time

ANSWERS = {
    b"/v1/chat/completions": {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_800_000_000,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello there."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16},
    },
    b"/v1/messages": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello there."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 4},
    },
}
BODIES = {path: json.dumps(answer).encode() for path, answer in ANSWERS.items()}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n"
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
# The gateway always asks for a stream; one whose words are to be timed says so in its text.
WANTED = re.compile(rb"stream (\d+) words every ([0-9.]+) s")


async def main(port: int) -> None:
    async with await asyncio.start_server(answer, "127.0.0.1", port, limit=2**20) as server:
        await server.serve_forever()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            path = head.split(b" ", 2)[1]
            wanted = WANTED.search(body)
            if wanted is not None:
                await stream(writer, path, int(wanted[1]), float(wanted[2]))
            elif re.search(rb'"stream": ?true', body):
                await stream(writer, path, 0, 0.0)
            else:
                writer.write(
                    HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(BODIES[path]) + BODIES[path]
                )
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def stream(writer: asyncio.StreamWriter, path: bytes, num_words: int, seconds: float) -> None:
    """Words one after the other; without any, the whole short answer at once."""
    opening, word, closing = EVENTS[path]
    writer.write(HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n")
    if num_words == 0:
        writer.write(chunk(opening + word % b"Hello there." + closing) + b"0\r\n\r\n")
        return await writer.drain()
    writer.write(chunk(opening))
    due = time.monotonic()
    for _ in range(num_words):
        writer.write(chunk(word % (b"%d " % time.monotonic_ns())))
        await writer.drain()
        due += seconds
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    writer.write(chunk(closing) + b"0\r\n\r\n")
    await writer.drain()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _openai(choices: str, more: str = "") -> bytes:
    head = '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    return f'data: {head}"choices":[{choices}]{more}}}\n\n'.encode()


def _anthropic(name: str, rest: str) -> bytes:
    return f'event: {name}\ndata: {{"type":"{name}",{rest}}}\n\n'.encode()


EVENTS = {
    b"/v1/chat/completions": (
        _openai('{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}'),
        _openai('{"index":0,"delta":{"content":"%s"},"finish_reason":null}'),
        _openai('{"index":0,"delta":{},"finish_reason":"stop"}')
        + _openai("", ',"usage":{"prompt_tokens":12,"completion_tokens":4,"total_tokens":16}')
        + b"data: [DONE]\n\n",
    ),
    b"/v1/messages": (
        _anthropic(
            "message_start",
            '"message":{"id":"m","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,'
            '"stop_sequence":null,"usage":{"input_tokens":12,"output_tokens":1}}',
        )
        + _anthropic("content_block_start", '"index":0,"content_block":{"type":"text","text":""}'),
        _anthropic("content_block_delta", '"index":0,"delta":{"type":"text_delta","text":"%s"}'),
        _anthropic("content_block_stop", '"index":0')
        + _anthropic(
            "message_delta", '"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":4}'
        )
        + b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ),
}

if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
